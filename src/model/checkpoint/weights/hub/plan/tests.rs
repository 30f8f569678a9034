use super::*;

fn plan(role: Role, names: &[&str]) -> Plan {
    Plan::new(role, &|name: &str| names.contains(&name))
}

#[test]
fn only_what_is_read_is_fetched_and_no_weights_twice() {
    let names = [
        "README.md",
        "cat.png",
        "config.json",
        "flax_model.msgpack",
        "model.safetensors",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "tf_model.h5",
        "tokenizer.json",
        "training_args.bin",
    ];
    let plan = plan(Role::Model, &names);
    assert_eq!((plan.companions, plan.weights), (vec!["config.json", "tokenizer.json"], vec!["model.safetensors"]));
    assert!(plan.missing.is_empty() && plan.index.is_none());
}

#[test]
fn pickled_weights_are_fetched_where_there_are_no_others() {
    let names = ["config.json", "pytorch_model.bin", "tokenizer.json"];
    assert_eq!(plan(Role::Model, &names).weights, ["pytorch_model.bin"]);
    let names = ["config.json", "pytorch_model.bin.index.json", "model.safetensors.index.json", "vocab.json"];
    let plan = plan(Role::Model, &names);
    assert_eq!((plan.index, plan.missing), (Some("model.safetensors.index.json"), vec!["tokenizer.json"]));
}

#[test]
fn an_adapter_is_its_weights_and_what_its_trainer_left_beside() {
    let names = ["README.md", "adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin", "config.json"];
    let found = plan(Role::Adapter, &names);
    assert_eq!(found.companions, ["adapter_config.json", "config.json", "README.md"]);
    assert_eq!(found.weights, ["adapter_model.bin", "non_lora_trainables.bin"]);
    let names = ["adapter_config.json", "adapter_model.safetensors", "args.json", "vit.safetensors", "optimizer.pt"];
    let found = plan(Role::Adapter, &names);
    assert_eq!(found.companions, ["adapter_config.json", "args.json"]);
    assert_eq!(found.weights, ["adapter_model.safetensors", "vit.safetensors"]);
    assert_eq!(plan(Role::Adapter, &["adapter_config.json"]).missing, ["adapter_model.safetensors"]);
    assert_eq!(plan(Role::Adapter, &["README.md"]).missing, ["adapter_config.json"]);
    assert_eq!(plan(Role::Adapter, &["config.json", "mm_projector.bin"]).weights, ["mm_projector.bin"]);
    assert_eq!(plan(Role::Adapter, &["config.json", "model.safetensors"]).weights, ["model.safetensors"]);
}
