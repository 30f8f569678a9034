use serde_json::json;

use super::*;

#[test]
fn names_of_quantised_checkpoints_tell_the_one_they_were_made_from() {
    for (name, unquantised, method) in [
        ("unsloth/llava-1.5-7b-hf-bnb-4bit", "unsloth/llava-1.5-7b-hf", "bitsandbytes, 4 bits"),
        ("unsloth/Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit", "unsloth/Qwen2.5-VL-7B-Instruct", "bitsandbytes, 4 bits"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "Qwen/Qwen2.5-VL-7B-Instruct", "AWQ"),
        ("Qwen/Qwen2-VL-2B-Instruct-GPTQ-Int4", "Qwen/Qwen2-VL-2B-Instruct", "GPTQ, 4 bits"),
        ("/models/llava-4bit/", "/models/llava", "4 bits"),
    ] {
        assert_eq!(QuantisedName::parse(name), Some(QuantisedName { unquantised, method }), "{name}");
    }
    for name in ["llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct", "-awq", "", "modèle-é"] {
        assert_eq!(QuantisedName::parse(name), None, "{name}");
    }
}

#[test]
fn every_way_to_write_a_quantisation_down_is_named() {
    for (config, method) in [
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}),
            "bitsandbytes, 4 bits",
        ),
        (json!({"quantization_config": {"load_in_8bit": true}}), "bitsandbytes, 8 bits"),
        (json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "gptq, 4 bits"),
        (json!({"quantization_config": {"quant_method": "awq", "w_bit": 4}}), "awq, 4 bits"),
        (json!({"quantization_config": {"quant_method": "fp8"}}), "fp8"),
        (json!({"compression_config": {"quant_method": "compressed-tensors"}}), "compressed-tensors"),
        (json!({"text_config": {"quantization_config": {"quant_method": "hqq"}}}), "hqq"),
    ] {
        assert_eq!(method_of(&config).as_deref(), Some(method), "{config}");
    }
    assert_eq!(method_of(&json!({"quantization_config": {}})), None);
    assert_eq!(method_of(&json!({"quantization_config": null})), None);
}
