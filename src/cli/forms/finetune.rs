//! The flags of `emt finetune`.

use super::form::{Axis, Form};
use super::table::{
    CURVE, CommandForms, FEATURE_CACHE, Group, JUDGE, JUDGE_CONNECTION, NOTHING, Need, PIXELS, TRAINING_DOWNLOAD,
    TRAINING_READING, always, hinted, one_of, only,
};

pub(super) const FINETUNE: CommandForms = CommandForms {
    path: &["finetune"],
    axes: &[
        Axis::Model,
        Axis::Method,
        Axis::VirtualTokens,
        Axis::SecondTower,
        Axis::Train,
        Axis::Start,
        Axis::Encoder,
        Axis::Curve,
        Axis::Judge,
        Axis::FeatureCache,
    ],
    groups: &[
        Group {
            rules: &[
                always("model"),
                always("method"),
                always("train"),
                always("out"),
                only(
                    "data",
                    &[hinted(
                        &[Form::TrainNamed, Form::LocalModel, Form::WithNamedCurve],
                        "the embedded images are part of the program; leave it out, or name other datasets",
                    )],
                ),
                always("datasets-file"),
                always("split"),
                always("labels"),
                always("limit"),
                always("mix"),
                only("no-projector", LORA),
                only("lora-targets", LORA),
                only("full-targets", FULL),
                only("freeze-layers", OF_LAYERS),
                always("projector"),
                only("virtual-tokens", VIRTUAL_TOKENS),
                only("virtual-token-start", PROMPT),
                only("prompt-encoder", P_TUNING),
                only("prompt-encoder-size", P_TUNING),
                only("prompt-encoder-layers", P_TUNING),
                only("second-tower", MOF),
                only("mixing", MOF),
                always("replay"),
                always("replay-weight"),
                always("old-answer-template"),
                always("keep-base"),
                always("ewc"),
                always("ewc-datasets"),
                always("ewc-limit"),
                always("l2-sp"),
                always("from-adapter"),
                always("prompt"),
                always("answer-template"),
                always("template"),
                always("seed"),
                always("sample-seed"),
                always("fresh"),
                always("device"),
                always("learning-rate"),
                always("batch-size"),
                always("epochs"),
                always("warmup-ratio"),
                always("schedule"),
                always("weight-decay"),
                always("max-grad-norm"),
                only("rank", LORA),
                only("alpha", LORA),
                only("dropout", LORA),
                always("eval-datasets"),
                only("eval-limit", CURVE),
                // Also the tower of a checkpoint that only names it.
                only("encoder", &[one_of(&[Form::LocalModel, Form::WithCurve, Form::WithNamedCurve])]),
                only("max-new-tokens", CURVE),
                always("save-every"),
                always("micro-batch-size"),
                only("min-pixels", PIXELS),
                only("max-pixels", PIXELS),
                only("judge", CURVE),
            ],
            needs: NOTHING,
        },
        Group { rules: TRAINING_READING, needs: NOTHING },
        Group { rules: TRAINING_DOWNLOAD, needs: NOTHING },
        Group { rules: FEATURE_CACHE, needs: NOTHING },
        Group { rules: JUDGE, needs: CURVE },
        Group { rules: JUDGE_CONNECTION, needs: CURVE },
    ],
};

const FULL: &[Need] = &[hinted(&[Form::Full], "leave it out, or --method full")];
const OF_LAYERS: &[Need] =
    &[hinted(&[Form::Lora, Form::Full, Form::OtherMethod], "the projector alone has no layers; leave it out")];
const VIRTUAL_TOKENS: &[Need] =
    &[hinted(&[Form::WithVirtualTokens, Form::WithPTuning], "leave it out, or --method prompt")];
const PROMPT: &[Need] = &[hinted(&[Form::WithVirtualTokens], "leave it out, or --method prompt")];
const P_TUNING: &[Need] = &[hinted(&[Form::WithPTuning], "leave it out, or --method p-tuning")];
const MOF: &[Need] = &[hinted(&[Form::WithSecondTower], "leave it out, or --method mof")];
const LORA: &[Need] = &[hinted(&[Form::Lora], "leave it out, or --method lora")];
