use super::*;

fn tokens(ids: &[u32]) -> LabelTokens {
    std::iter::once(None).chain(ids.iter().map(|&id| Some((id, -(id as f32))))).collect()
}

#[test]
fn a_label_is_scored_behind_what_all_labels_share() {
    let (sums, n_common) = scores(&[tokens(&[5, 6, 1, 2]), tokens(&[5, 6, 1, 3, 2]), tokens(&[5, 6, 4, 2])]).unwrap();
    assert_eq!((sums, n_common), (vec![-3.0, -6.0, -6.0], 3));
    // One label is the beginning of another. The terminator distinguishes them.
    let (sums, _) = scores(&[tokens(&[9, 1, 2]), tokens(&[9, 1, 3, 2])]).unwrap();
    assert_eq!(sums, [-2.0, -5.0]);
}

#[test]
fn labels_that_the_server_did_not_read_are_no_scores() {
    assert!(scores(&[tokens(&[5, 6]), tokens(&[5, 6])]).is_err());
    assert!(scores(&[tokens(&[5, 6]), tokens(&[5, 6, 7])]).is_err());
    assert!(scores(&[]).is_err());
}

#[test]
fn the_end_of_an_answer_is_the_token_behind_its_text() {
    let reply = |tokens: &[&str]| ChatReply {
        content: "umbrella oath".to_owned(),
        thought: None,
        finish: Finish::Stop,
        n_tokens: None,
        n_prompt_tokens: None,
        n_reply_tokens: None,
        logprobs: Some(
            tokens
                .iter()
                .map(|&token| crate::api::TokenLogprob { token: token.to_owned(), logprob: 0.0, top: vec![] })
                .collect(),
        ),
        prompt_logprobs: None,
        server: crate::api::ReplyServer::default(),
    };
    assert_eq!(end_of(&reply(&["umb", "rella", "oath", "</s>"]), "umbrella oath"), Some("</s>".to_owned()));
    assert_eq!(end_of(&reply(&["umb", "rella", " oath"]), "umbrella oath"), None, "the server leaves it out");
}

#[test]
fn a_grammar_quotes_what_labels_hold() {
    let fields = Constraint::Grammar.fields(&["a \"b\"".to_owned(), "c".to_owned()]);
    assert_eq!(fields["grammar"], r#"root ::= "a \"b\"" | "c""#);
}
