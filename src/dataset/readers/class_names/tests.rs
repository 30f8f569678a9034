use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn classify(raw: RawLabels, names: Option<&[&str]>) -> Result<Classified, String> {
    raw.classify(names.map(words), None, &|index| format!("row {index}")).map_err(|error| format!("{error:#}"))
}

#[test]
fn numbers_stay_within_their_names_and_are_their_own_where_they_have_none() {
    let found = classify(RawLabels::Numbers(vec![Some(1), None, Some(0)]), Some(&["cat", "dog"])).unwrap();
    let classes = vec![Some(1), None, Some(0)];
    assert_eq!(found, Classified { keys: words(&["cat", "dog"]), classes, has_numbers_for_names: false });
    let found = classify(RawLabels::Numbers(vec![Some(7), None, Some(10)]), None).unwrap();
    let classes = vec![Some(1), None, Some(0)];
    assert_eq!(found, Classified { keys: words(&["10", "7"]), classes, has_numbers_for_names: true });
    let error = classify(RawLabels::Numbers(vec![Some(0), Some(-1)]), None).unwrap_err();
    assert!(error.starts_with("row 1 has the label -1") && error.contains("--split"), "{error}");
    for number in [-1, 2, i64::MIN, i64::MAX] {
        let error = classify(RawLabels::Numbers(vec![Some(0), Some(number)]), Some(&["cat", "dog"])).unwrap_err();
        assert!(error.starts_with(&format!("row 1 has the label {number}, and there are 2 classes")), "{error}");
    }
}

#[test]
fn texts_are_their_own_names_unless_an_order_is_published() {
    let raw = || RawLabels::of_texts(words(&["dog", " ant", "dog "]).into_iter().map(Some));
    assert_eq!(classify(raw(), None).unwrap().keys, ["ant", "dog"]);
    let published = classify(raw(), Some(&["dog", "cat", "ant"])).unwrap();
    assert_eq!((published.keys.len(), published.classes), (3, vec![Some(0), Some(2), Some(0)]));
    assert_eq!(classify(raw(), Some(&["bee"])).unwrap().keys, ["ant", "dog"]);
}

#[test]
fn cards_and_infos_name_the_classes_of_each_configuration() {
    let card = "---\ndataset_info:\n- config_name: a\n  features:\n  - name: label\n    dtype:\n      class_label:\n        \
                names:\n          '1': dog\n          '0': cat\n- config_name: b\n  features:\n  - name: label\n    \
                dtype: int64\n---\n";
    let expected = vec![("a".to_owned(), words(&["cat", "dog"]))];
    assert_eq!(in_card(card, "label").unwrap(), expected);
    assert!(in_card(card, "fine_label").unwrap().is_empty());
    let infos = r#"{"a": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}, "b": 3}"#;
    assert_eq!(in_infos(infos, "label").unwrap(), expected);
    // Numbers with a gap name nothing.
    assert!(in_card(&card.replace("'1'", "'2'"), "label").unwrap().is_empty());
}

#[test]
fn of_configurations_that_contradict_one_another_the_path_names_one() {
    let configs = || vec![("a".to_owned(), words(&["x", "y"])), ("b".to_owned(), words(&["y", "x"]))];
    let chosen = |folder: &str| choose(configs(), Path::new(folder), Path::new("README.md"), "label");
    assert_eq!(chosen("set/b/test").unwrap(), Some(words(&["y", "x"])));
    let error = chosen("set").unwrap_err().to_string();
    assert!(error.contains("README.md") && error.contains("a, b") && error.contains("--labels"), "{error}");
}

#[test]
fn a_files_metadata_names_the_classes_and_the_column() {
    let text =
        r#"{"info": {"features": {"img": {"_type": "Image"}, "kind": {"names": ["a", "b"], "_type": "ClassLabel"}}}}"#;
    assert_eq!(in_metadata(text, "kind"), Some(words(&["a", "b"])));
    assert_eq!(in_metadata(text, "label"), None);
    assert_eq!(only_class_label(text).as_deref(), Some("kind"));
    assert_eq!(only_class_label("{"), None);
    // A list of labels, as in older and newer files.
    for list in [
        r#"{"feature": {"names": ["a"], "_type": "ClassLabel"}, "_type": "List"}"#,
        r#"[{"names": ["a"], "_type": "ClassLabel"}]"#,
    ] {
        let text = format!(r#"{{"info": {{"features": {{"kinds": {list}}}}}}}"#);
        assert_eq!(
            (only_class_label(&text).as_deref(), in_metadata(&text, "kinds")),
            (Some("kinds"), Some(words(&["a"])))
        );
    }
}
