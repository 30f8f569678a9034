//! The built-in chat templates.

/// ms-swift's prompt for LLaVA-1.5.
pub(in crate::model) const SWIFT_LLAVA: &str = "USER: <image>\n{question}\nASSISTANT:";

/// The built-in templates: conversations of the original LLaVA repository (formats of its `conversation.py`), the
/// template of transformers' checkpoints, and templates of trainers.
pub const BUILT_IN: [BuiltIn; 8] = [
    BuiltIn {
        name: "vicuna_v1",
        about: "LLaVA-1.5's training scripts, and most of its evaluations",
        text: "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the user's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn {
        name: "llava_v1",
        about: "the original LLaVA's `run_llava.py` and `model_vqa.py`",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn {
        name: "llava_v0",
        about: "the first LLaVA",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions.###Human: <image>\n{question}###Assistant:",
        stop: &["###"],
    },
    BuiltIn {
        name: "llava_hf",
        about: "the chat template of LLaVA-1.5 as transformers' repositories have it",
        text: "USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn {
        name: "ms_swift_llava1_5_hf",
        about: "ms-swift's `llava1_5_hf`, without a system text",
        text: SWIFT_LLAVA,
        stop: &["</s>"],
    },
    BuiltIn {
        name: "llama_factory_llava",
        about: "LLaMA-Factory's `llava`",
        text: "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the user's questions. USER: <image>{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn { name: "instructblip", about: "InstructBLIP: the question alone", text: "<image>{question}", stop: &[] },
    BuiltIn { name: "blip2", about: "BLIP-2's questions", text: "<image>Question: {question} Answer:", stop: &[] },
];

/// A built-in template.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name for `--template`.
    pub name: &'static str,
    /// One line for lists: where the template is used.
    pub about: &'static str,
    pub(in crate::model) text: &'static str,
    pub(in crate::model) stop: &'static [&'static str],
}
