use super::*;

#[test]
fn a_column_is_of_all_tables_or_of_one_dataset() {
    assert_eq!(Columns::parse("img").of("mine=photos.csv"), Some("img"));
    assert_eq!(Columns::parse("a,b"), Columns::OfAll("a,b"));
    let columns = Columns::parse("mine:img, birds:file");
    for (given, column) in [("mine=photos.csv", Some("img")), ("x/birds.csv", Some("file")), ("mnist", None)] {
        assert_eq!(columns.of(given), column, "{given}");
    }
}
