use super::*;

#[test]
fn the_pieces_of_a_stream_are_one_reply() {
    let stream = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"a \"},\"finish_reason\":null}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"cat\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":7}}\n\ndata: [DONE]\n\n",
    );
    let whole = completion(stream.as_bytes()).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "a cat");
    assert_eq!((&whole["choices"][0]["finish_reason"], &whole["usage"]["total_tokens"]), (&json!("stop"), &json!(7)));
}

#[test]
fn a_stream_that_broke_off_is_none_and_an_error_in_it_is_one() {
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"a \"},\"finish_reason\":null}]}\n\n";
    assert_eq!(completion(piece.as_bytes()), None);
    assert_eq!(completion(b"upstream went away"), None);
    let failed = completion(b"data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n").unwrap();
    assert_eq!(failed["error"]["code"], 429);
}
