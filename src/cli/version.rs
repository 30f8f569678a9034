//! `emt --version`: which program this is.

use std::sync::OnceLock;

use super::environment;
use crate::model::kernels::Kernels;

/// The features of the package and whether this program was built with them.
const FEATURES: [(&str, bool); 6] = [
    ("demo-assets", cfg!(feature = "demo-assets")),
    ("cuda", cfg!(feature = "cuda")),
    ("flash-attn", cfg!(feature = "flash-attn")),
    ("metal", cfg!(feature = "metal")),
    ("mkl", cfg!(feature = "mkl")),
    ("accelerate", cfg!(feature = "accelerate")),
];

/// The version, and below it the commit, the features and the kernels: what a report of a fault needs.
pub(super) fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        format!(
            "{}\ncommit: {}\nfeatures: {}\nkernels: {}",
            env!("CARGO_PKG_VERSION"),
            env!("EMT_BUILD_COMMIT"),
            features(),
            kernels()
        )
    })
}

fn features() -> String {
    let built: Vec<&str> = FEATURES.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name).collect();
    if built.is_empty() { "none".to_owned() } else { built.join(", ") }
}

/// The kernels that models compute with on this CPU. Nothing is chosen by asking.
fn kernels() -> String {
    let has: Vec<&str> = Kernels::available().into_iter().map(Kernels::name).collect();
    let best = has.last().copied().unwrap_or("scalar");
    match environment::kernels() {
        None => format!("{best} (this CPU has {})", has.join(", ")),
        Some(name) if has.contains(&name.as_str()) => format!("{name} (EMT_KERNELS; this CPU has {})", has.join(", ")),
        Some(name) => format!("none: EMT_KERNELS is {name}, and this CPU has {}", has.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_the_package_is_named() {
        let package: toml::Table = toml::from_str(include_str!("../../Cargo.toml")).unwrap();
        let features = package["features"].as_table().unwrap();
        let of_package: Vec<&str> = features.keys().map(String::as_str).filter(|name| *name != "default").collect();
        let mut named: Vec<&str> = FEATURES.iter().map(|(name, _)| *name).collect();
        named.sort_unstable();
        let mut sorted = of_package.clone();
        sorted.sort_unstable();
        assert_eq!(named, sorted);
    }

    #[test]
    fn the_long_version_has_four_lines_and_the_short_one_the_number_alone() {
        let lines: Vec<&str> = long().lines().collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        for (line, name) in lines[1..].iter().zip(["commit: ", "features: ", "kernels: "]) {
            assert!(line.strip_prefix(name).is_some_and(|value| !value.is_empty()), "{line}");
        }
    }
}
