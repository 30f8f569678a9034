use super::*;
use crate::cli::sweep::SweepFile;

#[test]
fn what_is_printed_is_a_sweep_of_both_methods_on_every_dataset() {
    for (model, n_arms) in [("embedded", 6), ("./llava \"7b\"", 8)] {
        let text = file(Path::new(model));
        let parsed = SweepFile::parse(Path::new("paper.toml"), &text, &crate::cli::command()).unwrap();
        assert_eq!(parsed.arms.len(), n_arms, "{text}");
        assert_eq!(parsed.arms[1].name, "lora-mnist");
        let (args, _) = parsed.arms[1].arguments(&crate::cli::command(), 0, Path::new("out"), &[]).unwrap();
        assert_eq!((args.model.as_path(), args.hyperparameters().unwrap().n_epochs), (Path::new(model), 3));
    }
}
