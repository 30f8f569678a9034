//! The built-in chat templates.

/// ms-swift's prompt for LLaVA-1.5.
pub(in crate::model) const SWIFT_LLAVA: &str = "USER: <image>\n{question}\nASSISTANT:";

/// The built-in templates: conversations of the original LLaVA repository (formats of its `conversation.py`), the
/// template of transformers' checkpoints, and templates of trainers.
pub const BUILT_IN: [BuiltIn; 14] = [
    BuiltIn {
        name: "vicuna_v1",
        about: "LLaVA-1.5's training scripts, and most of its evaluations",
        text: "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the user's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "llava_v1",
        about: "the original LLaVA's `run_llava.py` and `model_vqa.py`",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "llava_v0",
        about: "the first LLaVA",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions.###Human: <image>\n{question}###Assistant:",
        stop: &["###"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "llava_v0_simple",
        about: "the first LLaVA's `model_vqa.py`, with the image after the question; the model writes `Assistant:` itself",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions.###Human: Hi!###Assistant: Hi there! How can I help \
               you today?###Human: {question}\n<image>###",
        stop: &["###"],
        lead: LEAD_OF_V0,
    },
    BuiltIn {
        name: "llava_v0_multimodal",
        about: "the first LLaVA's `run_llava.py`, with the image after the question",
        text: "You are LLaVA, a large language and vision assistant trained by UW Madison WAIV Lab.You are able to \
               understand the visual content that the user provides, and assist the user with a variety of tasks using \
               natural language.Follow the instructions carefully and explain your answers in detail.###Human: \
               Hi!###Assistant: Hi there!  How can I help you today?\n###Human: {question}\n<image>###Assistant:",
        stop: &["###"],
        lead: LEAD_OF_V0,
    },
    BuiltIn {
        name: "llava_hf",
        about: "the chat template of LLaVA-1.5 as transformers' repositories have it",
        text: "USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "ms_swift_llava1_5_hf",
        about: "ms-swift's `llava1_5_hf`, without a system text",
        text: SWIFT_LLAVA,
        stop: &["</s>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "llama_factory_llava",
        about: "LLaMA-Factory's `llava`",
        text: "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the user's questions. USER: <image>{question} ASSISTANT:",
        stop: &["</s>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "gemma3",
        about: "the chat template of Gemma 3",
        text: "<start_of_turn>user\n<image>{question}<end_of_turn>\n<start_of_turn>model\n",
        stop: &["<end_of_turn>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "paligemma",
        about: "PaliGemma's and PaliGemma 2's question in English",
        text: "<image>answer en {question}",
        stop: &[],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "otter",
        about: "Otter's demo and benchmarks",
        text: "<image>User: {question} GPT:<answer>",
        stop: &["<|endofchunk|>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "open_flamingo",
        about: "OpenFlamingo's evaluation of visual questions",
        text: "<image>Question:{question} Short answer:",
        stop: &["<|endofchunk|>"],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "instructblip",
        about: "InstructBLIP: the question alone",
        text: "<image>{question}",
        stop: &[],
        lead: NO_LEAD,
    },
    BuiltIn {
        name: "blip2",
        about: "BLIP-2's questions",
        text: "<image>Question: {question} Answer:",
        stop: &[],
        lead: NO_LEAD,
    },
];

const NO_LEAD: &[&str] = &[];

/// What `model_vqa.py` of the first LLaVA removes from the start of an answer.
const LEAD_OF_V0: &[&str] = &["###", "Assistant:", "Response:"];

/// A built-in template.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name for `--template`.
    pub name: &'static str,
    /// One line for lists: where the template is used.
    pub about: &'static str,
    pub(in crate::model) text: &'static str,
    pub(in crate::model) stop: &'static [&'static str],
    /// What the model may write before its answer, and is not part of it.
    pub(in crate::model) lead: &'static [&'static str],
}
