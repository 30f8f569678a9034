use std::collections::BTreeSet;

use super::*;

#[test]
fn everything_that_is_listed_has_a_name_of_its_own_and_says_what_it_was_verified_against() {
    for (section, entries) in sections() {
        assert!(!entries.is_empty(), "{section}");
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), entries.len(), "{section}: names are unique");
        let first_lines: BTreeSet<_> = entries.iter().map(|entry| entry.lines.first()).collect();
        assert!(section == "templates" || first_lines.len() == entries.len(), "{section}: nobody else's verification");
        for Entry { name, about, lines } in &entries {
            assert!(!name.is_empty() && about.len() > 10, "{section} {name}");
            assert!(section == "templates" || !lines.is_empty(), "{section} {name}");
            assert!(lines.iter().all(|(_, line)| line.len() > 10), "{section} {name}: {lines:?}");
        }
    }
}
