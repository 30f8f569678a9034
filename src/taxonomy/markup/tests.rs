use super::*;

#[track_caller]
fn check(answer: &str, words: &str) {
    let plain = plain(answer, false);
    let found = plain.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    assert_eq!(found.collect::<Vec<_>>().join(" "), words, "{answer:?} gives {plain:?}");
}

#[test]
fn end_tokens_of_every_family_go_and_what_follows_them_is_no_answer() {
    #[rustfmt::skip]
    let ends = [
        "</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "[/INST]", "###", " ### ",
        "<end_of_utterance>", "<|end_of_text|>", "<|eom_id|>", "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
        "<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<eos>", "<EOT>", "<|return|>", "<|user|>", "<turn|>", "<pad>",
        "<|im_end", "</s", "<unused7>", "<0x0A>", "\n### Human:", "<|eot_id|><|start_header_id|>user<|end_header_id|>",
    ];
    for end in ends {
        check(&format!("cat{end}"), "cat");
        check(&format!("cat {end}{end}"), "cat");
    }
    check("cat<|im_end|>\n<|im_start|>user\nIs it a dog?", "cat");
    check("<|im_start|>assistant\ncat<|im_end|>", "cat");
    check("<|start_header_id|>assistant<|end_header_id|>\n\ncat", "cat");
    check("<s> cat </s>", "cat");
    check("</s>", "");
    check("cat\nQuestion: What is it?\nAnswer: dog", "cat");
    check("### Answer\ncat", "Answer cat");
    check("Question: What is it?\nAnswer: cat", "Question What is it Answer cat");
    check("ASSISTANT: cat", "cat");
}

#[test]
fn json_gives_the_answer_in_it() {
    for (answer, words) in [
        (r#"{"label": "cat", "confidence": 1}"#, "cat"),
        ("```json\n{\"reasoning\": \"no dog\", \"answer\": \"cat\"}\n```", "cat"),
        (r#"Here: {"prediction": {"class": "cat", "score": 3}} ok"#, "Here cat ok"),
        (r#"["cat", "dog"]"#, "cat dog"),
        ("{'prediction': ['cat']}", "cat"),
        (r#"{"animal": "cat", "n": 2}"#, "cat"),
        (r#"{"cat": 1}"#, "cat 1"),
        ("[cat]", "cat"),
        ("{cat", "cat"),
    ] {
        check(answer, words);
    }
    assert_eq!(plain(r#"{"digit": 7, "confidence": 1}"#, true).trim(), "7");
}

#[test]
fn markup_goes_and_its_words_stay() {
    for (answer, words) in [
        ("<answer>cat</answer>", "cat"),
        ("It may be a dog. <answer>cat</answer>", "cat"),
        ("a dog? $\\boxed{\\text{cat}}$", "cat"),
        ("\\textbf{cat}", "cat"),
        ("<b>cat</b>", "cat"),
        ("<animal>cat</animal>", "cat"),
        ("<ref>cat</ref><box>(10,2),(3,4)</box>", "cat"),
        ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2)<|box_end|>", "cat"),
        ("<cat>", "cat"),
        ("a < b", "a b"),
        ("~~dog~~ cat", "cat"),
        ("~~cat~~", "cat"),
        ("[cat](https://example.org/dog)", "cat"),
        ("```\ncat\n```", "cat"),
        ("```cat```", "cat"),
    ] {
        check(answer, words);
    }
}
