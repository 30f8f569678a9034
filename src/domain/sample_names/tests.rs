use super::*;

fn parsed(text: &str) -> Vec<(usize, Option<String>, String)> {
    let names = SampleNames::parse("x", text).unwrap().names;
    names.into_iter().map(|name| (name.line, name.dataset, name.id)).collect()
}

fn named(line: usize, dataset: Option<&str>, id: &str) -> (usize, Option<String>, String) {
    (line, dataset.map(str::to_owned), id.to_owned())
}

fn datasets() -> [(&'static str, Vec<&'static str>); 2] {
    [("mnist", vec!["mnist/test/00000", "mnist/test/00001"]), ("photos", vec!["photos/all/a b.jpg"])]
}

#[test]
fn a_list_has_one_id_per_line_beside_blank_lines_and_remarks() {
    let text = "# the hard ones\r\nmnist/test/00001\r\n\r\n  photos/all/a b.jpg  \n#mnist/test/00000";
    assert_eq!(parsed(text), [named(2, None, "mnist/test/00001"), named(4, None, "photos/all/a b.jpg")]);
}

#[test]
fn a_table_is_read_by_its_header_whatever_separates_its_cells() {
    for separator in [",", ";", "\t", "|"] {
        let text = "run,dataset,sample,label\n\nlora,mnist,mnist/test/00001,3\n# no row\n,,,\nlora,,photos/all/a,5\n";
        let expected = [named(3, Some("mnist"), "mnist/test/00001"), named(6, None, "photos/all/a")];
        assert_eq!(parsed(&text.replace(',', separator)), expected, "{separator:?}");
        assert_eq!(parsed(&text.replace(',', separator).replace('\n', "\r\n")), expected, "{separator:?}");
    }
    assert_eq!(parsed("Sample\na/b\n"), [named(2, None, "a/b")]);
}

#[test]
fn a_cell_of_several_lines_does_not_shift_the_lines_that_follow() {
    let text = "answer,sample\n\"one\ntwo\n# three\",a/1\nshort,a/2\n";
    assert_eq!(parsed(text), [named(2, None, "a/1"), named(5, None, "a/2")]);
}

#[test]
fn the_mark_before_what_looks_like_a_formula_is_no_part_of_an_id() {
    assert_eq!(parsed("dataset,sample\n'=d,'=d/1\n"), [named(2, Some("=d"), "=d/1")]);
    assert_eq!(parsed("sample\n'd/1\n"), [named(2, None, "'d/1")]);
}

#[test]
fn a_file_without_ids_and_a_row_without_one_are_refused() {
    for text in ["", "# nothing\n\n", "run,sample\n", "run,sample\n,\n"] {
        let error = SampleNames::parse("lost.csv", text).unwrap_err();
        assert_eq!(error, SampleNamesError::Empty { file: "lost.csv".to_owned() }, "{text:?}");
    }
    let error = SampleNames::parse("lost.csv", "run,sample\nlora,a\nlora,\n").unwrap_err();
    assert_eq!(error, SampleNamesError::NoId { file: "lost.csv".to_owned(), line: 3 });
}

#[test]
fn named_samples_are_found_in_their_datasets() {
    let names = SampleNames::parse("x", "photos/all/a b.jpg\nmnist/test/00001\nmnist/test/00001\n").unwrap();
    let set = names.among(&datasets()).unwrap();
    assert_eq!((set.n_of("mnist"), set.n_of("photos"), set.n_samples()), (1, 1, 2));
    assert!(set.contains("mnist", "mnist/test/00001") && !set.contains("photos", "mnist/test/00001"));
}

#[test]
fn what_no_dataset_has_is_refused_with_file_line_and_id() {
    let told = |text: &str| SampleNames::parse("x", text).unwrap().among(&datasets()).unwrap_err().to_string();
    let unknown = told("# mine\nmnist/test/00001\nphotos/test/00007\n");
    for part in ["in `x`, line 3", "`photos/test/00007`", "; hint: ", "such as `photos/all/a b.jpg`"] {
        assert!(unknown.contains(part), "{part}: {unknown}");
    }
    let elsewhere = told("dataset,sample\nphotos,mnist/test/00001\n");
    assert!(elsewhere.contains("line 2") && elsewhere.contains("no dataset has"), "{elsewhere}");
    let absent = told("dataset,sample\ncifar10,cifar10/test/00001\n");
    assert!(absent.contains("`cifar10` is not among `mnist`, `photos`; hint: add it to --datasets"), "{absent}");
    let nothing = told("mnist/test/00001\n");
    assert_eq!(nothing, "`x` names no sample of `photos`; hint: leave it out with --datasets mnist");
}
