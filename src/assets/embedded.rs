//! The miniature: a small LLaVA, the CLIP whose tower it has, and images of MNIST, CIFAR-10 and CIFAR-100.
//! `tests/golden/make_embedded.py` writes the files, `embedded/README.md` says where they come from.

/// Everything that the word `embedded` stands for.
#[derive(Clone, Copy, Debug)]
pub struct Miniature {
    /// The vision tower's values, which both checkpoints share; packed as [`MiniatureCheckpoint::values`].
    pub tower: &'static [u8],
    /// The model.
    pub llava: MiniatureCheckpoint,
    /// Its encoder.
    pub clip: MiniatureCheckpoint,
    /// Images, by the name of their sheet: a lossless WebP of 25 columns, read row by row.
    pub sheets: &'static [(&'static str, &'static [u8])],
}

/// One checkpoint without its tower's values.
#[derive(Clone, Copy, Debug)]
pub struct MiniatureCheckpoint {
    /// The JSON header of its safetensors file, whose data are the tower's values and then its own.
    pub header: &'static [u8],
    /// Its own values in half precision: the low bytes of all, then the high bytes, deflated (zlib).
    pub values: &'static [u8],
    /// The other files of the folder, by name.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The miniature; `None` in a program that was built without the feature `demo-assets`.
#[cfg(not(feature = "demo-assets"))]
pub static MINIATURE: Option<Miniature> = None;

/// The miniature; `None` in a program that was built without the feature `demo-assets`.
#[cfg(feature = "demo-assets")]
pub static MINIATURE: Option<Miniature> = Some(Miniature {
    tower: include_bytes!("embedded/tower.bin"),
    llava: MiniatureCheckpoint {
        header: include_bytes!("embedded/llava/header.json"),
        values: include_bytes!("embedded/llava.bin"),
        files: &[
            ("config.json", include_bytes!("embedded/llava/config.json")),
            ("generation_config.json", include_bytes!("embedded/llava/generation_config.json")),
            ("processor_config.json", include_bytes!("embedded/llava/processor_config.json")),
            ("special_tokens_map.json", include_bytes!("embedded/llava/special_tokens_map.json")),
            ("tokenizer_config.json", include_bytes!("embedded/llava/tokenizer_config.json")),
            ("tokenizer.json", include_bytes!("embedded/llava/tokenizer.json")),
            ("chat_template.jinja", include_bytes!("embedded/llava/chat_template.jinja")),
        ],
    },
    clip: MiniatureCheckpoint {
        header: include_bytes!("embedded/clip/header.json"),
        values: include_bytes!("embedded/clip.bin"),
        files: &[
            ("config.json", include_bytes!("embedded/clip/config.json")),
            ("preprocessor_config.json", include_bytes!("embedded/clip/preprocessor_config.json")),
            ("special_tokens_map.json", include_bytes!("embedded/clip/special_tokens_map.json")),
            ("tokenizer_config.json", include_bytes!("embedded/clip/tokenizer_config.json")),
            ("tokenizer.json", include_bytes!("embedded/clip/tokenizer.json")),
        ],
    },
    sheets: &[
        ("mnist-test", include_bytes!("embedded/mnist-test.webp")),
        ("mnist-train", include_bytes!("embedded/mnist-train.webp")),
        ("cifar10-test", include_bytes!("embedded/cifar10-test.webp")),
        ("cifar10-train", include_bytes!("embedded/cifar10-train.webp")),
        ("cifar100-test", include_bytes!("embedded/cifar100-test.webp")),
        ("cifar100-train", include_bytes!("embedded/cifar100-train.webp")),
    ],
});

/// What is said where the miniature is wanted and not there.
pub const WITHOUT_MINIATURE: &str = "this program was built without its miniature model and images; hint: build it \
     with the default features, or with `--features demo-assets`";
