use proptest::prelude::*;

use super::*;

fn check(reply: &str, answer: Option<&str>) {
    let split = SplitReply::new(reply, false);
    assert_eq!(split.answer.as_deref(), answer, "{reply}");
    assert!(split.thought.is_some(), "{reply}");
}

#[test]
fn the_answer_stands_after_the_thought_whatever_its_marks() {
    for reply in [
        "<think>\nA dog? No.\n</think>\n\ncat",
        "<think>\n\n</think>\n\ncat",
        "A dog? No.\n</think>\n\ncat",
        "<THINK>dog</THINK>cat",
        "<thinking>dog</thinking> cat",
        "<thought>dog</thought>\ncat",
        "<reasoning>dog</reasoning>cat",
        "[THINK]dog[/THINK]cat",
        "◁think▷dog◁/think▷cat",
        "<seed:think>dog</seed:think>cat",
        "<|START_THINKING|>dog<|END_THINKING|><|START_RESPONSE|>cat<|END_RESPONSE|>",
        "<|begin_of_thought|>dog<|end_of_thought|>\n<|begin_of_solution|>cat<|end_of_solution|>",
        "<unused94>thought\ndog<unused95>cat",
        "<|channel>thought\ndog<channel|>cat",
        "<think>dog</think><answer>cat</answer>",
        "<think>dog</think><answer>cat",
        "<think>dog</think> <|begin_of_box|>cat<|end_of_box|>",
        "<think>a</think> dog? <think>b</think> cat",
        "Let me see. <think>dog</think>cat",
        "cat <think>or a dog</think>",
        "<|channel|>analysis<|message|>dog<|end|><|start|>assistant<|channel|>final<|message|>cat<|return|>",
        "<|channel|>final<|message|>cat",
        "analysisThe image shows a dog.assistantfinalcat",
        "Here is my thought process: a dog.\nHere is my response: cat",
    ] {
        check(reply, Some("cat"));
    }
}

#[test]
fn a_thought_that_is_not_closed_has_no_answer_behind_it() {
    for reply in [
        "<think>\nThe image shows a cat",
        "<think>",
        "<think>a</think> <think>cat",
        "[THINK]cat",
        "◁think▷cat",
        "<|channel|>analysis<|message|>cat",
        "<|channel|>analysis<|message|>cat<|end|><|start|>assistant<|channel|>final",
        "analysisThe image shows a cat",
        "Here is my thought process: a cat",
    ] {
        check(reply, None);
    }
    assert_eq!(SplitReply::new("The user asks for a cat", true).answer, None);
    assert_eq!(SplitReply::new("A dog? No.</think>cat", true).answer.as_deref(), Some("cat"));
}

#[test]
fn a_reply_without_a_thought_stays_as_it_is() {
    for reply in
        ["cat", "", " a cat.\n", "1 < 2 > 0", "analysis of a cat", "[1] cat", "<b>cat</b>", "<answer>cat</answer>"]
    {
        let expected = SplitReply { thought: None, answer: Some(reply.to_owned()) };
        assert_eq!(SplitReply::new(reply, false), expected);
    }
}

#[test]
fn a_thought_with_nothing_behind_it_is_an_empty_answer() {
    check("<think>cat</think>\n", Some(""));
}

#[test]
fn a_prompt_that_opens_a_thought_is_seen() {
    assert!(ends_in_thought("<|im_start|>assistant\n<think>\n"));
    assert!(ends_in_thought("ASSISTANT: [THINK]"));
    assert!(!ends_in_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    assert!(!ends_in_thought("ASSISTANT:"));
}

proptest! {
    #[test]
    fn no_reply_makes_the_reader_panic_and_no_text_is_made_up(
        pieces in prop::collection::vec("<think>|</think>|<\\|channel\\|>|final|<\\|message\\|>|analysis|assistantfinal|é|İ|cat| |\\[/THINK\\]|<answer>", 0..9),
        begins in any::<bool>(),
    ) {
        let reply = pieces.concat();
        let split = SplitReply::new(&reply, begins);
        prop_assert!(split.answer.iter().all(|answer| reply.contains(answer.as_str())));
        prop_assert!(split.thought.iter().all(|thought| reply.contains(thought.as_str())));
        prop_assert!(split.answer.is_some() || split.thought.is_some());
    }
}
