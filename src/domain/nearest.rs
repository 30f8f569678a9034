//! Finds the name that was probably meant.

/// Returns the name in `known` with the fewest edits from `name`, if they are few. Case, and `-` versus `_`, are
/// ignored.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.replace('-', "_").to_lowercase();
    let name = plain(name);
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(&name, &plain(known)), *known));
    let (distance, found) = distances.min()?;
    (distance <= 2.max(name.chars().count() / 3)).then_some(found)
}

/// Returns the start of a hint with the nearest name; empty if no name is near.
pub fn closest(name: &str, known: &[&str]) -> String {
    nearest(name, known).map_or_else(String::new, |found| format!("the closest is `{found}`; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_another_word_finds_none() {
        let known = ["limit", "datasets", "max_new_tokens", "cifar10", "cifar100"];
        assert_eq!(nearest("limmit", &known), Some("limit"));
        assert_eq!(nearest("Max-New-Token", &known), Some("max_new_tokens"));
        assert_eq!(nearest("cifar1000", &known), Some("cifar100"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn a_hint_names_what_is_close_and_is_empty_else() {
        assert_eq!(closest("qwen2.5_vl", &["llava", "qwen2_5_vl"]), "the closest is `qwen2_5_vl`; ");
        assert_eq!(closest("t5", &["llava"]), "");
    }

    #[test]
    fn two_letters_in_the_wrong_order_are_one_slip() {
        assert_eq!(nearest("mnsit", &["mnist", "mns"]), Some("mnist"));
    }
}
