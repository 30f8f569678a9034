//! The miniature as a folder of checkpoints, data sets and adapters, laid out as the shared folder: for tests that need a model
//! and images, and no particular ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use emt::assets::embedded::MINIATURE;
use emt::dataset::decode;
use emt::model::checkpoint::weights::{Miniature, open_checkpoint};

use super::support::{emt, finish};

/// As many as are published, so that nothing warns of missing ones; the miniature's images repeat.
const N_IMAGES: usize = 10_000;

const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// A sheet of images, 25 in a row; image `i` is of class `i` mod the number of classes.
struct Sheet {
    images: Vec<image::RgbImage>,
}

impl Sheet {
    fn open(name: &str) -> Self {
        let sheets = MINIATURE.as_ref().expect("the miniature is built in").sheets;
        let (_, bytes) = sheets.iter().find(|(sheet, _)| *sheet == name).unwrap();
        let decoded = decode(bytes).unwrap();
        let (width, height) = (decoded.width(), decoded.height());
        let whole = image::RgbImage::from_raw(width, height, decoded.pixels().to_vec()).unwrap();
        let side = width / 25;
        let places = (0..height / side).flat_map(|row| (0..25).map(move |column| (column * side, row * side)));
        Self { images: places.map(|(x, y)| image::imageops::crop_imm(&whole, x, y, side, side).to_image()).collect() }
    }

    /// Its images again and again, each with its class.
    fn repeated(&self, n_classes: usize) -> impl Iterator<Item = (usize, &image::RgbImage)> {
        let numbered = self.images.iter().enumerate().map(move |(index, image)| (index % n_classes, image));
        numbered.cycle().take(N_IMAGES)
    }
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn write_checkpoint(folder: &Path, miniature: Miniature) {
    let checkpoint = open_checkpoint(Path::new("embedded"), miniature).unwrap();
    for name in [
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ] {
        if let Some(bytes) = checkpoint.read_file(name).unwrap() {
            write(folder.join(name), bytes);
        }
    }
    // In 32 bits, as the checkpoint that it was rounded from.
    let bytes = checkpoint.read_file("model.safetensors").unwrap().unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu).unwrap();
    let widened = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(candle_core::DType::F32).unwrap()));
    candle_core::safetensors::save(&widened.collect(), folder.join("model.safetensors")).unwrap();
}

fn write_idx(folder: &Path, sheet: &Sheet) {
    let (mut pixels, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
    for size in [N_IMAGES as u32, 28, 28] {
        pixels.extend(size.to_be_bytes());
    }
    labels.extend((N_IMAGES as u32).to_be_bytes());
    for (class, image) in sheet.repeated(10) {
        pixels.extend(image.pixels().map(|pixel| pixel.0[0]));
        labels.push(class as u8);
    }
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in [("images-idx3", pixels), ("labels-idx1", labels)] {
        let file = fs::File::create(folder.join(format!("t10k-{name}-ubyte.gz"))).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(&bytes).unwrap();
        packed.finish().unwrap();
    }
}

/// CIFAR's binary version; `n_label_bytes` before each image, of which the last is its class.
fn write_cifar(path: &Path, sheet: &Sheet, n_classes: usize, n_label_bytes: usize) {
    let mut records = Vec::new();
    for (class, image) in sheet.repeated(n_classes) {
        records.extend(std::iter::repeat_n(0, n_label_bytes - 1));
        records.push(class as u8);
        for channel in 0..3 {
            records.extend(image.pixels().map(|pixel| pixel.0[channel]));
        }
    }
    write(path, records);
}

/// Twenty classes of `n_per_class` images each: the objects of CIFAR-10 and the digits.
fn write_folder(folder: &Path, [objects, digits]: [&Sheet; 2], n_per_class: usize) {
    for (sheet, names) in [(objects, CIFAR10), (digits, DIGITS)] {
        for (index, image) in sheet.images.iter().enumerate().take(10 * n_per_class) {
            let path = folder.join(names[index % 10]).join(format!("{:02}.png", index / 10));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image.save(path).unwrap();
        }
    }
}

fn write_all(root: &Path) {
    write_checkpoint(&root.join("models/tiny-llava"), Miniature::Model);
    write_checkpoint(&root.join("models/tiny-clip"), Miniature::Encoder);
    let data = root.join("data");
    let [mnist, mnist_train] = ["mnist-test", "mnist-train"].map(Sheet::open);
    let [cifar10, cifar10_train] = ["cifar10-test", "cifar10-train"].map(Sheet::open);
    let [cifar100, cifar100_train] = ["cifar100-test", "cifar100-train"].map(Sheet::open);
    write_idx(&data.join("mnist"), &mnist);
    let binary = data.join("cifar10/cifar-10-batches-bin");
    write_cifar(&binary.join("test_batch.bin"), &cifar10, 10, 1);
    write_cifar(&binary.join("train_subset_10000.bin"), &cifar10_train, 10, 1);
    let binary = data.join("cifar100/cifar-100-binary");
    write_cifar(&binary.join("test.bin"), &cifar100, 100, 2);
    write_cifar(&binary.join("train_subset_10000.bin"), &cifar100_train, 100, 2);
    write_folder(&data.join("imagenet20/val"), [&cifar10, &mnist], 13);
    write_folder(&data.join("imagenet20/train"), [&cifar10_train, &mnist_train], 20);
}

/// A LoRA and a projector of the miniature, trained for a few steps.
fn train_adapters(folder: &Path) {
    for (name, method, train) in [
        ("lora-mnist", "lora", "embedded/mnist"),
        ("lora-cifar10", "lora", "embedded/cifar10"),
        ("linear-mnist", "linear", "embedded/mnist"),
    ] {
        let mut command = emt();
        command.args(["finetune", "--model", "embedded", "--method", method, "--train", train, "--limit", "48"]);
        command.args(["--epochs", "2", "--learning-rate", "2e-3", "--eval-datasets", "none", "--quiet"]);
        if method == "lora" {
            command.args(["--rank", "4"]);
        }
        let finished = finish(command.arg("--out").arg(folder.join(name)));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
}

/// A folder that `fill` wrote once for this miniature: other runs of the tests find it again.
fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    let miniature = MINIATURE.as_ref().expect("the miniature is built in");
    for (_, bytes) in miniature.sheets {
        hasher.update(bytes);
    }
    hasher.update(miniature.tower).update(miniature.llava.values).update(miniature.clip.values);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).unwrap();
    let place = parent.join(format!("{name}-1-{}", &hasher.finalize().to_hex()[..16]));
    if !place.exists() {
        let beside = tempfile::tempdir_in(parent).unwrap();
        fill(beside.path());
        // Another process may have been faster.
        let _ = fs::rename(beside.keep(), &place);
    }
    assert!(place.is_dir());
    place
}

/// `models/tiny-llava`, `models/tiny-clip` and `data`, as in the shared folder.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| once("miniature", write_all)).clone()
}

/// Adapters of the miniature under the names of those in the shared folder's `models/adapters`.
pub fn adapters() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| once("adapters", train_adapters)).clone()
}
