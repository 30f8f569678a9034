//! A report finds the images of datasets wherever the run found them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{Finished, emt, finish};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), bytes).unwrap();
    }

    /// Eight images of two classes below `images`, and a sheet of them with odd columns.
    fn with_images() -> Self {
        let folder = Self::new();
        let mut sheet = "img,kind\n".to_owned();
        for index in 0..8u8 {
            let class = ["cat", "dog"][usize::from(index % 2)];
            let mut bytes = std::io::Cursor::new(Vec::new());
            let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([index * 30, 5, 200 - index]));
            picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            folder.write(&format!("images/{class}/{index}.png"), bytes.into_inner());
            sheet.push_str(&format!("../images/{class}/{index}.png,{class}\n"));
        }
        folder.write("sheets/birds.csv", sheet);
        folder
    }

    fn eval(&self, datasets: &str, out: &str, more: &[&str]) {
        let mut command = emt();
        command
            .args(["eval", "--model", "embedded", "--encoder", "none", "--quiet", "--datasets", datasets])
            .args(more);
        let finished = finish(command.current_dir(self.0.path()).arg("--out").arg(self.path(out)));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }

    fn report(&self, arguments: &[&str]) -> Finished {
        // From another folder: relative paths of the run mean nothing there.
        finish(emt().arg("report").args(arguments))
    }

    /// Images on the page, and what was said.
    fn n_images(&self, run: &str, more: &[&str]) -> (usize, String) {
        let (run, page) = (self.path(run).display().to_string(), self.path("page").display().to_string());
        let finished = self.report(&[&[run.as_str(), "--out", &page], more].concat());
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        (images_on(&self.path("page/report.html")), finished.stderr)
    }
}

fn images_on(page: &Path) -> usize {
    fs::read_to_string(page).unwrap().matches("data:image/png;base64,").count()
}

#[test]
fn what_is_odd_in_a_folder_is_a_warning() {
    let folder = Folder::with_images();
    for split in ["train", "val"] {
        for class in ["cat", "dog"] {
            let from = folder.path(&format!("images/{class}/{}.png", if class == "cat" { 0 } else { 1 }));
            folder.write(&format!("split/{split}/{class}/0.png"), fs::read(&from).unwrap());
            // As content-addressed stores name files.
            folder.write(&format!("split/{split}/{class}/5f3a9c"), fs::read(&from).unwrap());
        }
    }
    let said = |datasets: &str, out: &str| {
        let mut command = emt();
        command.args(["eval", "--model", "embedded", "--encoder", "none", "--datasets", datasets, "--out", out]);
        let finished = finish(command.current_dir(folder.0.path()));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stderr
    };
    let told = said("split/val", "a");
    assert!(
        told.lines().any(|line| line.starts_with("warning: ") && line.contains("cat/5f3a9c, dog/5f3a9c")),
        "{told}"
    );
    let mut command = emt();
    command.args(["finetune", "--model", "embedded", "--method", "lora", "--train", "split/train", "--epochs", "1"]);
    command.args(["--eval-datasets", "none", "--out", "tuned"]);
    let tuned = finish(command.current_dir(folder.0.path()));
    assert!(
        tuned.stderr.lines().any(|line| line.starts_with("warning: ") && line.contains("5f3a9c")),
        "{}",
        tuned.stderr
    );
}

#[test]
fn a_run_records_how_its_datasets_were_opened_and_its_report_shows_their_images() {
    let folder = Folder::with_images();
    for (name, datasets, more) in [
        ("path", "images", &[][..]),
        ("named", "mine=./images", &[]),
        ("table", "sheets/birds.csv", &["--image-column", "img", "--label-column", "kind"]),
    ] {
        folder.eval(datasets, name, more);
        let during = images_on(&folder.path(name).join("report.html"));
        assert!(during > 0, "{name}: the miniature knows neither cats nor dogs of one colour");
        let (n_images, stderr) = folder.n_images(name, &[]);
        assert_eq!(n_images, during, "{name}: {stderr}");
        let run: Value = serde_json::from_slice(&fs::read(folder.path(name).join("run.json")).unwrap()).unwrap();
        let dataset = run["spec"]["datasets"][0]["dataset"].as_str().unwrap();
        let source = &run["environment"]["datasets"][dataset];
        assert_eq!(source["given"], datasets, "{name}");
        assert!(Path::new(source["path"].as_str().unwrap()).is_absolute(), "{name}: {source}");
    }
    // The gallery of a comparison.
    let (path, page) = (folder.path("path").display().to_string(), folder.path("both").display().to_string());
    let finished = folder.report(&[&path, "--baseline", &path, "--out", &page]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(!finished.stderr.contains("shown as placeholders"), "{}", finished.stderr);
    assert!(finished.stderr.contains("the same model and the same run"), "{}", finished.stderr);
}

#[test]
fn a_folder_that_moved_is_named_with_the_flag_that_says_where_it_lies() {
    let folder = Folder::with_images();
    folder.eval("mine=images", "named", &[]);
    folder.eval("sheets/birds.csv", "table", &["--image-column", "img", "--label-column", "kind"]);
    let n_shown = folder.n_images("named", &[]).0;
    fs::rename(folder.path("images"), folder.path("moved")).unwrap();
    let (n_images, stderr) = folder.n_images("named", &[]);
    assert_eq!(n_images, 0);
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("images`, which no longer exists"), "{stderr}");
    assert!(lines[0].contains("--datasets mine=PATH"), "{stderr}");
    let named = format!("mine={}", folder.path("moved").display());
    assert_eq!(folder.n_images("named", &["--datasets", &named]).0, n_shown);

    // A run of an earlier version says nothing of its datasets.
    let run = folder.path("named/run.json");
    let mut older: Value = serde_json::from_slice(&fs::read(&run).unwrap()).unwrap();
    older["environment"].as_object_mut().unwrap().remove("datasets");
    fs::write(&run, older.to_string()).unwrap();
    let (n_images, stderr) = folder.n_images("named", &[]);
    assert!(n_images == 0 && stderr.contains("--datasets mine=PATH"), "{stderr}");
    assert_eq!(folder.n_images("named", &["--datasets", &named]).0, n_shown);

    // A table under another name and with other columns.
    let sheet = fs::read_to_string(folder.path("sheets/birds.csv")).unwrap().replace("../images", "../moved");
    folder.write("sheets/feathers.csv", sheet.replace("img,kind", "picture,what"));
    let moved = format!("birds={}", folder.path("sheets/feathers.csv").display());
    let columns = ["--datasets", moved.as_str(), "--image-column", "picture", "--label-column", "what"];
    assert_eq!(folder.n_images("table", &columns).0, n_shown);
}

#[test]
fn flags_of_a_report_that_change_no_image_are_refused() {
    let folder = Folder::with_images();
    folder.eval("embedded/mnist", "digits", &["--limit", "4"]);
    folder.eval("mine=images", "named", &[]);
    let (digits, named) = (folder.path("digits").display().to_string(), folder.path("named").display().to_string());
    let images = folder.path("images").display().to_string();
    for (arguments, parts) in [
        (&[&digits, "--datasets", "embedded/mnist"][..], &["--datasets has no effect", "embedded/mnist"][..]),
        (&[&digits, "--data", "x"], &["--data has no effect", "part of the program"]),
        (&[&digits, "--download"], &["--download has no effect"]),
        (&[&named, "--datasets", "embedded/mnist"], &["--datasets embedded/mnist has no effect"]),
        (&[&named, "--datasets", &format!("theirs={images}")], &["no run here has the dataset `theirs`", "mine"]),
        (&[&named, "--image-column", "img"], &["--image-column is for tables"]),
    ] {
        let refused = folder.report(arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?} {}", refused.stderr);
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{arguments:?}: {}", refused.stderr);
    }
}
