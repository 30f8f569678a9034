//! Sample diagnoses for tests.

use crate::diagnose::{
    Accuracy, Composite, DIAGNOSIS_SCHEMA, DatasetDiagnosis, Diagnosed, Diagnosis, FlowShares, ImageDiagnosis,
    IntegrationOfLayer, Keep, LayerDiagnosis, MapSimilarity, MergedAnswers, ModalityIntegration, PositionDrift,
    Reliance, Restore, SwapShare, Truncation,
};
use crate::domain::{Cause, CauseShare};

/// A diagnosis of `datasets` without anything about the models.
pub fn diagnosis(datasets: Vec<DatasetDiagnosis>) -> Diagnosis {
    let of = |run: &str| Diagnosed { run: run.to_owned(), identity: "blake3:0".to_owned(), dir: format!("runs/{run}") };
    Diagnosis {
        schema: DIAGNOSIS_SCHEMA.to_owned(),
        baseline: of("base"),
        candidate: Some(of("lora")),
        probes: Vec::new(),
        setup: Vec::new(),
        weights: None,
        mir: None,
        datasets,
    }
}

/// A dataset with 40 lost images, the shares of parts, and nothing from inside a pass.
pub fn dataset(name: &str) -> DatasetDiagnosis {
    let swaps = [
        ("projector", 0.62, [0.41, 0.85], Some((0.48, [0.2, 0.7])), Some(0.55)),
        ("attention", 0.12, [-0.18, 0.4], Some((0.05, [-0.2, 0.31])), Some(0.1)),
        ("mlp", 0.4, [0.1, 1.62], Some((-0.4, [-0.9, 0.02])), Some(0.35)),
        ("layers.0-3", 0.1, [-0.05, 0.2], None, None),
        ("layers.28-31", 1.4, [1.1, 1.9], None, None),
    ];
    let swap = |(component, recovered, interval, keep, shapley): (&str, f64, [f64; 2], Option<(f64, [f64; 2])>, _)| {
        SwapShare {
            component: component.to_owned(),
            restore: Restore { accuracy: 0.5, recovered: Some(recovered), recovered_interval: Some(interval) },
            keep: keep.map(|(caused, interval)| Keep {
                accuracy: 0.6,
                caused: Some(caused),
                caused_interval: Some(interval),
            }),
            shapley,
        }
    };
    DatasetDiagnosis {
        dataset: name.to_owned(),
        n_images: 200,
        n_lost: 40,
        n_gained: 4,
        baseline_accuracy: 0.8,
        candidate_accuracy: Some(0.62),
        swap: swaps.map(swap).to_vec(),
        causes: vec![
            cause(Cause::Alignment, 24, [0.45, 0.74]),
            cause(Cause::Wording, 15, [0.24, 0.53]),
            cause(Cause::Unexplained, 1, [0.004, 0.13]),
        ],
        named: vec![Cause::Alignment],
        ..DatasetDiagnosis::default()
    }
}

fn cause(cause: Cause, n: usize, interval: [f64; 2]) -> CauseShare {
    CauseShare {
        cause,
        n,
        share: n as f64 / 40.0,
        share_interval: Some(interval),
        evidence: format!("{n} of 40 lost images have it."),
        mend: "Try something else.".to_owned(),
    }
}

/// Lenses with intervals at every state of a model of `n_layers`.
pub fn with_lens(mut dataset: DatasetDiagnosis, n_layers: usize) -> DatasetDiagnosis {
    dataset.layers = (0..=n_layers)
        .map(|layer| {
            let share = layer as f64 / n_layers as f64;
            let (before, after) = (-9.0 + 8.4 * share * share, -9.0 + 8.0 * share * share - 3.0 * share.powi(5));
            LayerDiagnosis {
                layer,
                lens_baseline: Some(before),
                lens_candidate: Some(after),
                lens_baseline_interval: Some([before - 0.4, before + 0.4]),
                lens_candidate_interval: Some([after - 0.7, after + 0.6]),
                rank_baseline: Some(400.0 * (1.0 - share)),
                rank_candidate: Some(500.0 * (1.0 - share)),
                ..LayerDiagnosis::default()
            }
        })
        .collect();
    dataset.parting_layer = Some(n_layers * 3 / 4);
    dataset
}

/// The same with everything that is read inside a pass.
pub fn with_all_probes(dataset: DatasetDiagnosis, n_layers: usize) -> DatasetDiagnosis {
    let mut dataset = with_lens(dataset, n_layers);
    for layer in &mut dataset.layers {
        let share = layer.layer as f64 / n_layers as f64;
        layer.patch_image = Some(-4.0 + 2.6 * (1.0 - share));
        layer.patch_last = Some(-4.0 + 3.3 * share.powi(3));
        if layer.layer < n_layers {
            layer.knockout_baseline = Some(-0.8 - 2.0 * (0.5 - (share - 0.5).abs()));
            layer.knockout_candidate = Some(-4.2 - 0.5 * (0.5 - (share - 0.5).abs()));
            layer.knockout_layers = Some(4);
            let flow = |image: f64| FlowShares { system: 0.3, image, user: 0.7 - image };
            layer.flow_baseline = Some(flow(0.18 - 0.15 * share));
            layer.flow_candidate = Some(flow(0.11 - 0.08 * share));
        }
        layer.similarity_image = Some(1.0 - 0.12 * share);
        layer.similarity_last = Some(1.0 - 0.55 * share * share);
    }
    dataset.drift = (0..4)
        .map(|position| PositionDrift { position, n: 200 - 30 * position, kl: 0.4 + position as f64, kl_reverse: 0.3 })
        .collect();
    let accuracy = |accuracy, blind_accuracy| Accuracy { accuracy, blind_accuracy };
    dataset.reliance = Some(Reliance { baseline: accuracy(0.8, 0.1), candidate: Some(accuracy(0.62, 0.25)) });
    dataset.truncation = Some(Truncation {
        from_layer: vec![0, 8, 16],
        n_kept: vec![0, 64, 288],
        accuracy_baseline: vec![vec![Some(0.1), None, Some(0.7)]; 3],
        accuracy_candidate: vec![vec![Some(0.2), None, Some(0.5)]; 3],
        cliff_layer_baseline: Some(16),
        cliff_layer_candidate: None,
    });
    dataset.composite = Some(Composite {
        accuracy_baseline: 0.74,
        accuracy_candidate: Some(0.4),
        operations_full: 8.1e12,
        operations_self: 3.9e12,
    });
    dataset.merge = vec![MergedAnswers { dtype: "bf16".to_owned(), n_equal: 188, n: 200 }];
    dataset.cam = vec![MapSimilarity {
        site: "language.20".to_owned(),
        weighting: "paper".to_owned(),
        n: 190,
        rank_correlation: Some(0.44),
        overlap: None,
    }];
    dataset
}

/// The distance between images and texts in a model of `n_layers`.
pub fn integration(n_layers: usize) -> ModalityIntegration {
    let layer = |layer: usize| IntegrationOfLayer {
        layer,
        baseline: 120.0 + layer as f64,
        candidate: Some(150.0 + layer as f64),
        terms_baseline: [100.0, 30.0, 20.0, -30.0],
        terms_candidate: Some([130.0, 30.0, 20.0, -30.0]),
    };
    ModalityIntegration {
        n_pairs: 100,
        method: "exact".to_owned(),
        baseline: Some(3.41),
        candidate: None,
        layers: (0..=n_layers).map(layer).collect(),
    }
}

/// `n` lost images of a dataset, with two causes in turn.
pub fn lost_images(dataset: &str, n: usize) -> Vec<ImageDiagnosis> {
    (0..n)
        .map(|index| ImageDiagnosis {
            dataset: dataset.to_owned(),
            sample: format!("{dataset}/test/{index}"),
            content: format!("blake3:{index}"),
            label: "cat".to_owned(),
            baseline_answer: "A cat.".to_owned(),
            candidate_answer: "<b>7</b>".to_owned(),
            lost: true,
            cause: Some(if index + 1 == n { Cause::Wording } else { Cause::Alignment }),
            restored: [("projector".to_owned(), true), ("mlp".to_owned(), false)].into(),
            score_choice: Some("cat".to_owned()),
            prefix_answer: None,
            blind_baseline: None,
            blind_candidate: None,
            maps: None,
        })
        .collect()
}
