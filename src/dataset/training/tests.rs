use super::*;
use crate::domain::RgbImage;

fn training_of(text: &str, split: Option<&str>) -> anyhow::Result<Dataset> {
    let request = OpenRequest { text, split, labels_file: None, ..OpenRequest::default() };
    open_training(&Catalog::embedded(), &DataRoots::default(), &request)
}

/// A PNG of one colour.
fn picture(path: &Path, level: u8) {
    let image = RgbImage::new(2, 2, vec![level; 12]).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::save_buffer(path, image.pixels(), 2, 2, image::ExtendedColorType::Rgb8).unwrap();
}

#[test]
fn the_catalog_names_the_training_split() {
    let training = training_of("embedded/mnist", None).unwrap();
    assert_eq!((training.split.as_str(), training.is_training_split, training.samples.len()), ("train", true, 200));
    let error = training_of("cifar10", None).unwrap_err().to_string();
    assert!(error.contains("train") && error.contains("emt data fetch cifar10"), "{error}");
}

#[test]
fn a_folder_has_it_beside_or_inside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("photos");
    for (index, class) in ["cat", "dog"].into_iter().enumerate() {
        picture(&root.join(format!("val/{class}/0.png")), index as u8);
        picture(&root.join(format!("train/{class}/1.png")), 10 + index as u8);
    }
    let root = root.display().to_string();
    for (text, split) in
        [(format!("{root}/val"), None), (root.clone(), Some("val")), (format!("mine={root}/val"), None)]
    {
        let training = training_of(&text, split).unwrap();
        assert_eq!((training.split.as_str(), training.samples.len()), ("train", 2), "{text}");
    }
    std::fs::remove_dir_all(format!("{root}/train")).unwrap();
    let error = training_of(&format!("{root}/val"), None).unwrap_err().to_string();
    assert!(error.contains("no training split") && error.contains("photos/train"), "{error}");
}

#[test]
fn a_folder_without_a_split_in_its_name_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        picture(&folder.path().join(format!("photos/{class}/0.png")), 1);
    }
    let text = folder.path().join("photos").display().to_string();
    let error = format!("{:#}", training_of(&text, None).unwrap_err());
    assert!(error.contains("photos") && error.contains("split"), "{error}");
}

#[test]
fn a_sheet_has_it_beside() {
    let folder = tempfile::tempdir().unwrap();
    for (split, level) in [("test", 1), ("train", 2)] {
        let rows = ["cat", "dog"].map(|class| {
            picture(&folder.path().join(format!("{split}-{class}.png")), level);
            format!("{split}-{class}.png,{class}\n")
        });
        std::fs::write(folder.path().join(format!("{split}.csv")), format!("path,label\n{}", rows.concat())).unwrap();
    }
    let training = training_of(&folder.path().join("test.csv").display().to_string(), None).unwrap();
    assert_eq!((training.split.as_str(), training.samples.len()), ("train", 2));
}
