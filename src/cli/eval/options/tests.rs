use super::*;

#[test]
fn image_attention_is_full_of_all_layers_or_of_some() {
    assert_eq!(visual_attention("full"), Ok(ImageAttention::Full));
    assert_eq!(visual_attention("self"), Ok(ImageAttention::SelfOnly(None)));
    assert_eq!(visual_attention("self:0-1"), Ok(ImageAttention::SelfOnly(Some([0, 2]))));
    assert_eq!(visual_attention("self:3"), Ok(ImageAttention::SelfOnly(Some([3, 4]))));
    for broken in ["none", "self:", "self:2-1", "full:1"] {
        assert!(visual_attention(broken).is_err(), "{broken}");
    }
}
