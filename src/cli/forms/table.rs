//! For every flag of every command, the forms that use it. To add a flag, add a line here.

use super::finetune::FINETUNE;
use super::form::{Axis, Form};
use super::recover::RECOVER;
use super::sweep::SWEEP;

/// One of `forms` must be at hand.
#[derive(Debug)]
pub(super) struct Need {
    pub forms: &'static [Form],
    /// What to do instead.
    pub hint: &'static str,
}

/// A flag, by its long name (what has none, by its own), and what it needs: with several needs, all of them.
#[derive(Debug)]
pub(super) struct Rule {
    pub flag: &'static str,
    pub needs: &'static [Need],
}

/// Flags that commands share, and what all of them need in one command.
pub(super) struct Group {
    pub rules: &'static [Rule],
    pub needs: &'static [Need],
}

/// A command, its axes and its flags.
pub(super) struct CommandForms {
    pub path: &'static [&'static str],
    pub axes: &'static [Axis],
    pub groups: &'static [Group],
}

pub(super) const fn always(flag: &'static str) -> Rule {
    Rule { flag, needs: &[] }
}

pub(super) const fn only(flag: &'static str, needs: &'static [Need]) -> Rule {
    Rule { flag, needs }
}

pub(super) const fn one_of(forms: &'static [Form]) -> Need {
    Need { forms, hint: "leave it out" }
}

pub(super) const fn hinted(forms: &'static [Form], hint: &'static str) -> Need {
    Need { forms, hint }
}

const HERE: &[Form] = &[Form::LocalModel, Form::EmbeddedModel];
const GENERATED: &[Form] = &[Form::Generate, Form::GenerateAndScore];
const BY_LLM: &[Form] = &[Form::JudgeLlm, Form::JudgeRulesAndLlm];
const GENERATED_NEED: Need =
    hinted(GENERATED, "label scoring asks for no answer; leave it out, or --modes generate,score");
const LLM_NEED: Need = hinted(BY_LLM, "leave it out, or say --judge llm or --judge rules+llm");
const SERVED_NEED: Need = hinted(&[Form::ServedModel], "leave it out, or --model http://HOST:PORT/v1");
const ADAPTER_NEED: Need = hinted(&[Form::WithAdapter], "leave it out, or give --adapter DIR");

/// What every run of a model takes; `emt gate` of finished runs uses none of it.
const EVALUATION: &[Rule] = &[
    // A probe stands on the model's own tower; a checkpoint may only name its tower, which an encoder's folder then holds.
    only(
        "encoder",
        &[hinted(
            &[Form::LocalModel, Form::ServedModel, Form::EncoderNone, Form::ComparatorAuto, Form::ComparatorZeroShot],
            "the miniature has its own tower; leave one of them out",
        )],
    ),
    always("comparator"),
    only("probe", PROBE),
    only("probe-shots", PROBE),
    only("data", OF_FILES),
    always("split"),
    always("labels"),
    always("limit"),
    always("sample-seed"),
    always("fresh"),
    always("prompt"),
    only(
        "captions",
        &[
            hinted(&[Form::ComparatorAuto, Form::ComparatorZeroShot], "a probe reads no captions; leave it out"),
            one_of(&[Form::EncoderAuto, Form::EncoderNamed]),
            hinted(
                &[Form::LocalModel, Form::EmbeddedModel, Form::EncoderNamed],
                "a server names no encoder: give one with --encoder, or leave it out",
            ),
        ],
    ),
    only("template", &[hinted(HERE, "the server renders the chat: vLLM takes --chat-template")]),
    only("visual-attention", &[hinted(HERE, "the server decides how its model attends")]),
    only("min-pixels", PIXELS),
    only("max-pixels", PIXELS),
    always("modes"),
    only("max-new-tokens", &[GENERATED_NEED]),
    only(
        "generation-config",
        &[GENERATED_NEED, hinted(HERE, "the server reads it when it starts: vLLM takes --generation-config")],
    ),
    always("batch-size"),
    only(
        "device",
        &[hinted(
            &[Form::LocalModel, Form::EmbeddedModel, Form::EncoderNamed],
            "the server was started on its own device; leave it out, or name an encoder with --encoder",
        )],
    ),
    only("dtype", &[hinted(HERE, "the server was started with its own; the encoder runs in f32 on a cpu")]),
];

/// What says where images lie and how they are read, which those of the program need not be told.
const OF_FILES: &[Need] = &[
    hinted(
        &[Form::LocalModel, Form::ServedModel, Form::DatasetsNamed],
        "the miniature's own images are part of the program; name others with --datasets",
    ),
    hinted(
        &[Form::DatasetsNamed, Form::DatasetsDefault],
        "the embedded images are part of the program; leave it out, or name other datasets",
    ),
];

/// How tables and images are read.
const READING: &[Rule] = &[only("exif", OF_FILES), only("image-column", OF_FILES), only("label-column", OF_FILES)];

/// The same of images to train on.
const TRAINED_FILES: &[Need] = &[hinted(
    &[Form::TrainNamed],
    "the embedded images are part of the program; leave it out, or train on other datasets",
)];

pub(super) const TRAINING_READING: &[Rule] =
    &[only("exif", TRAINED_FILES), only("image-column", TRAINED_FILES), only("label-column", TRAINED_FILES)];

/// Also what a gate of finished runs decides on.
const DATASETS: &[Rule] = &[always("datasets"), always("samples")];

const PROBE: &[Need] = &[
    hinted(HERE, "a server does not show its model's tower; leave it out"),
    hinted(
        &[Form::ComparatorAuto, Form::ComparatorProbe],
        "zero-shot learns from no images; leave it out, or --comparator probe",
    ),
    // Where both are `auto`, a probe takes the place of an encoder that is not found; the miniature's always is.
    hinted(&[Form::EncoderAuto, Form::ComparatorProbe], "leave it out, or --comparator probe"),
    hinted(&[Form::LocalModel, Form::ComparatorProbe], "leave it out, or --comparator probe"),
];

pub(super) const PIXELS: &[Need] = &[
    hinted(
        &[Form::LocalModel, Form::ServedModel],
        "the miniature takes images of one size; leave it out, or evaluate a model of a family that keeps proportions (Qwen)",
    ),
    hinted(HERE, "the server resizes images: vLLM takes --mm-processor-kwargs"),
];

const ADAPTERS: &[Rule] = &[
    only("adapter", &[hinted(HERE, "the server loads adapters: name them in --served-model")]),
    only("merge", &[ADAPTER_NEED]),
    only("allow-noop-adapter", &[ADAPTER_NEED]),
];

const SERVED: &[Rule] = &[
    only("served-model", &[SERVED_NEED]),
    only("logprobs", &[SERVED_NEED, GENERATED_NEED]),
    only("extra-body", &[SERVED_NEED]),
    only("add-special-tokens", &[SERVED_NEED]),
    only("requests-per-minute", &[SERVED_NEED]),
    only("tokens-per-minute", &[SERVED_NEED]),
    only("server-repeats", &[SERVED_NEED, GENERATED_NEED]),
];

const DOWNLOAD: &[Rule] = &[only(
    "download",
    &[hinted(
        &[Form::LocalModel, Form::WithAdapter, Form::EncoderNamed, Form::DatasetsNamed],
        "nothing is named as on the hub; leave it out, or name something as ORG/NAME",
    )],
)];

pub(super) const TRAINING_DOWNLOAD: &[Rule] = &[only(
    "download",
    &[hinted(
        &[Form::LocalModel, Form::FromAdapter, Form::EncoderNamed, Form::TrainNamed, Form::WithNamedCurve],
        "nothing is named as on the hub; leave it out, or name something as ORG/NAME",
    )],
)];

pub(super) const FEATURE_CACHE: &[Rule] = &[
    only("feature-cache", FEATURE_CACHE_NEEDS),
    only("feature-cache-gb", &[hinted(&[Form::WithFeatureCache], "leave it out, or give --feature-cache DIR")]),
];

const FEATURE_CACHE_NEEDS: &[Need] = &[hinted(
    HERE,
    "the cache keeps features that towers compute here, but the model is behind a server; leave it out",
)];

/// Of a language model that judges.
pub(super) const JUDGE: &[Rule] = &[
    only("judge-url", &[LLM_NEED]),
    only("judge-model", &[LLM_NEED]),
    only("judge-prompt", &[LLM_NEED]),
    only("judge-preset", &[LLM_NEED]),
    only("judge-scope", &[hinted(&[Form::JudgeRulesAndLlm], "leave it out, or say --judge rules+llm")]),
    only("judge-reply-tokens", &[LLM_NEED]),
    only("judge-extra-body", &[LLM_NEED]),
    only("judge-max-calls", &[LLM_NEED]),
    only("judge-max-tokens", &[LLM_NEED]),
    only("judge-requests-per-minute", &[LLM_NEED]),
    only("judge-tokens-per-minute", &[LLM_NEED]),
];

/// Of any server, where a model may be behind one.
const CONNECTION: &[Rule] = &[only("max-connections", SERVERS), only("timeout", SERVERS), only("retry-base", SERVERS)];

const SERVERS: &[Need] =
    &[hinted(&[Form::ServedModel, Form::JudgeLlm, Form::JudgeRulesAndLlm], "no server is used; leave it out")];

/// The same, where only a judge may be.
pub(super) const JUDGE_CONNECTION: &[Rule] =
    &[only("max-connections", &[LLM_NEED]), only("timeout", &[LLM_NEED]), only("retry-base", &[LLM_NEED])];

const CHARTS: &[Rule] = &[always("rose-scale"), always("rose-style"), always("paper-rows")];

pub(super) const NOTHING: &[Need] = &[];

const EVAL_AXES: &[Axis] = &[
    Axis::Model,
    Axis::Adapters,
    Axis::Encoder,
    Axis::Comparator,
    Axis::Datasets,
    Axis::Modes,
    Axis::Judge,
    Axis::FeatureCache,
];

const GATE_AXES: &[Axis] = &[
    Axis::Gate,
    Axis::Model,
    Axis::Adapters,
    Axis::Encoder,
    Axis::Comparator,
    Axis::Datasets,
    Axis::Modes,
    Axis::Judge,
    Axis::FeatureCache,
];

const OF_MODEL: &[Need] =
    &[hinted(&[Form::DiagnosesModel], "the runs say it themselves; leave it out, or --model DIR --adapter DIR")];
const DECIDES: &[Need] = &[DECIDES_NEED];
const ALLOW_SAME: &[Need] = &[hinted(
    &[Form::GateOfRuns, Form::ServedModel],
    "a base and an adapter over it are two models (--allow-noop-adapter accepts an adapter that changes nothing); leave it out",
)];
const EVALUATES: &[Need] = &[
    DECIDES_NEED,
    hinted(&[Form::GateEvaluates], "finished runs are taken as they are; leave it out, or --model DIR --adapter DIR"),
];
const DECIDES_NEED: Need = hinted(
    &[Form::GateEvaluates, Form::GateOfRuns],
    "--print-policy writes the default policy and exits; leave one of them out",
);

/// Every command that has flags.
pub(super) const COMMANDS: &[CommandForms] = &[
    CommandForms {
        path: &["eval"],
        axes: EVAL_AXES,
        groups: &[
            Group {
                rules: &[
                    always("model"),
                    always("out"),
                    always("max-unscored"),
                    always("max-images"),
                    always("format"),
                    always("datasets-file"),
                    always("tuned-on"),
                    only("no-base", &[ADAPTER_NEED]),
                    only("judge", &[GENERATED_NEED]),
                ],
                needs: NOTHING,
            },
            Group { rules: EVALUATION, needs: NOTHING },
            Group { rules: DATASETS, needs: NOTHING },
            Group { rules: READING, needs: NOTHING },
            Group { rules: ADAPTERS, needs: NOTHING },
            Group { rules: SERVED, needs: NOTHING },
            Group { rules: DOWNLOAD, needs: NOTHING },
            Group { rules: FEATURE_CACHE, needs: NOTHING },
            Group { rules: JUDGE, needs: &[GENERATED_NEED] },
            Group { rules: CONNECTION, needs: NOTHING },
            Group { rules: CHARTS, needs: NOTHING },
        ],
    },
    CommandForms {
        path: &["gate"],
        axes: GATE_AXES,
        groups: &[
            Group { rules: &[always("print-policy")], needs: NOTHING },
            Group {
                rules: &[
                    always("baseline"),
                    always("candidate"),
                    always("model"),
                    always("policy"),
                    always("attempt"),
                    always("history"),
                    always("format"),
                    always("out"),
                    always("junit"),
                    always("markdown"),
                    always("diagnose"),
                    always("calibration-baseline"),
                    always("calibration-candidate"),
                    always("allow-different"),
                    only("allow-same", ALLOW_SAME),
                    always("datasets-file"),
                    always("tuned-on"),
                ],
                needs: DECIDES,
            },
            Group {
                rules: &[
                    always("runs"),
                    always("judge"),
                    only("no-base", &[Need { forms: &[], hint: "the gate compares the base with its adapter" }]),
                ],
                needs: EVALUATES,
            },
            Group { rules: EVALUATION, needs: EVALUATES },
            Group { rules: DATASETS, needs: DECIDES },
            Group { rules: READING, needs: EVALUATES },
            Group { rules: ADAPTERS, needs: EVALUATES },
            Group { rules: SERVED, needs: EVALUATES },
            Group { rules: DOWNLOAD, needs: EVALUATES },
            Group { rules: FEATURE_CACHE, needs: EVALUATES },
            Group { rules: JUDGE, needs: EVALUATES },
            Group { rules: CONNECTION, needs: EVALUATES },
            Group { rules: CHARTS, needs: EVALUATES },
        ],
    },
    CommandForms {
        path: &["report"],
        axes: &[Axis::Report, Axis::Images],
        groups: &[Group {
            rules: &[
                always("baseline"),
                always("stages"),
                always("out"),
                always("format"),
                only("runs", &[hinted(NOT_STAGES, "give the runs after --stages and leave out the others")]),
                only("title", COMPARES),
                only("finetune", COMPARES),
                only("decision", COMPARES),
                only("diagnosis", COMPARES),
                only("tuned-on", COMPARES),
                only("datasets-file", COMPARES),
                only("no-images", &[one_of(NOT_STAGES)]),
                only("max-images", SHOWS_IMAGES),
                only("datasets", SHOWS_IMAGES),
                only("data", SHOWS_IMAGES),
                only("image-column", SHOWS_IMAGES),
                only("label-column", SHOWS_IMAGES),
                only("download", SHOWS_IMAGES),
                only("allow-different", &[one_of(&[Form::ReportOfComparison, Form::ReportOfStages])]),
                only("rose-scale", &[one_of(NOT_STAGES)]),
                only("rose-style", &[one_of(NOT_STAGES)]),
                only("paper-rows", &[one_of(&[Form::ReportOfOneRun, Form::ReportOfRuns])]),
            ],
            needs: NOTHING,
        }],
    },
    CommandForms {
        path: &["diagnose"],
        axes: &[Axis::Diagnosis, Axis::Model, Axis::Datasets],
        groups: &[
            Group {
                rules: &[
                    always("model"),
                    only("adapter", OF_MODEL),
                    always("baseline"),
                    always("candidate"),
                    always("probes"),
                    always("flow"),
                    always("mir"),
                    always("mir-texts"),
                    always("mir-images"),
                    always("out"),
                    always("datasets"),
                    only("data", OF_FILES),
                    always("datasets-file"),
                    only("split", OF_MODEL),
                    only("labels", OF_MODEL),
                    always("limit"),
                    always("samples"),
                    only("prompt", OF_MODEL),
                    only("max-new-tokens", OF_MODEL),
                    only("min-pixels", OF_MODEL),
                    only("max-pixels", OF_MODEL),
                    always("batch-size"),
                    always("device"),
                    always("dtype"),
                    always("fresh"),
                    always("format"),
                    always("download"),
                ],
                needs: NOTHING,
            },
            Group { rules: READING, needs: OF_MODEL },
        ],
    },
    RECOVER,
    FINETUNE,
    SWEEP,
    CommandForms {
        path: &["judge", "score"],
        axes: &[Axis::Judge],
        groups: &[
            Group {
                rules: &[
                    always("run"),
                    always("out"),
                    always("fresh"),
                    always("max-unscored"),
                    always("format"),
                    always("judge"),
                    always("tuned-on"),
                ],
                needs: NOTHING,
            },
            Group { rules: JUDGE, needs: NOTHING },
            Group { rules: JUDGE_CONNECTION, needs: NOTHING },
            Group { rules: CHARTS, needs: NOTHING },
        ],
    },
    CommandForms {
        path: &["judge", "sample"],
        axes: &[],
        groups: &[Group { rules: &[always("run"), always("out"), always("n"), always("seed")], needs: NOTHING }],
    },
    CommandForms {
        path: &["judge", "calibrate"],
        axes: &[Axis::Judge],
        groups: &[
            Group {
                rules: &[always("labels"), always("out"), always("run"), always("format"), always("judge")],
                needs: NOTHING,
            },
            Group { rules: JUDGE, needs: NOTHING },
            Group { rules: JUDGE_CONNECTION, needs: NOTHING },
        ],
    },
    CommandForms { path: &["models"], axes: &[], groups: &[Group { rules: &[always("format")], needs: NOTHING }] },
    CommandForms {
        path: &["data", "list"],
        axes: &[],
        groups: &[Group { rules: &[always("data"), always("datasets-file"), always("format")], needs: NOTHING }],
    },
    CommandForms {
        path: &["data", "verify"],
        axes: &[],
        groups: &[Group {
            rules: &[
                always("datasets"),
                always("data"),
                always("datasets-file"),
                always("split"),
                always("labels"),
                always("limit"),
                always("exif"),
                always("image-column"),
                always("label-column"),
                always("download"),
            ],
            needs: NOTHING,
        }],
    },
    CommandForms {
        path: &["data", "fetch"],
        axes: &[],
        groups: &[Group {
            rules: &[always("datasets"), always("data"), always("datasets-file"), always("split"), always("base-url")],
            needs: NOTHING,
        }],
    },
    CommandForms {
        path: &["demo"],
        axes: &[],
        groups: &[Group { rules: &[always("out"), always("seed"), always("limit"), always("epochs")], needs: NOTHING }],
    },
    CommandForms { path: &["help"], axes: &[], groups: &[Group { rules: &[always("topic")], needs: NOTHING }] },
    CommandForms { path: &["completions"], axes: &[], groups: &[Group { rules: &[always("shell")], needs: NOTHING }] },
    CommandForms {
        path: &["man"],
        axes: &[],
        groups: &[Group { rules: &[always("command"), always("out")], needs: NOTHING }],
    },
];

const NOT_STAGES: &[Form] = &[Form::ReportOfOneRun, Form::ReportOfRuns, Form::ReportOfComparison];
const COMPARES: &[Need] = &[hinted(&[Form::ReportOfComparison], "leave it out, or give --baseline RUN")];
const SHOWS_IMAGES: &[Need] = &[one_of(NOT_STAGES), hinted(&[Form::WithImages], "leave one of them out")];
pub(super) const CURVE: &[Need] =
    &[hinted(&[Form::WithCurve, Form::WithNamedCurve], "leave it out, or name datasets with --eval-datasets")];
