//! Forgetting over several stages of training, each on one task: the accuracy matrix and the measures that the
//! continual learning literature derives from it.

/// Why accuracies do not form a matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StageError {
    /// There are no stages.
    #[error("a forgetting matrix needs at least one stage")]
    NoStage,
    /// There are fewer tasks than stages, each of which trains one task.
    #[error("{n_stages} stages train a task each, but the matrix has only {n_tasks}")]
    TooFewTasks {
        /// The number of stages.
        n_stages: usize,
        /// The number of tasks of the initial model.
        n_tasks: usize,
    },
    /// A stage and the initial model have different numbers of accuracies.
    #[error("stage {stage} has {found} accuracies, the initial model {expected}")]
    Ragged {
        /// The stage, from 1.
        stage: usize,
        /// The number of its accuracies.
        found: usize,
        /// The number of accuracies of the initial model.
        expected: usize,
    },
    /// An accuracy is not between 0 and 1.
    #[error("stage {stage}: the accuracy on task {task} is {value}, which is not a fraction from 0 to 1")]
    NoRate {
        /// The stage, 0 for the initial model.
        stage: usize,
        /// The task, from 1.
        task: usize,
        /// The value.
        value: f64,
    },
}

/// Accuracies of a model before and after each stage of training, on every task.
///
/// Stage i trains task i; tasks beyond the number of stages are never trained and can only be forgotten. A cell that
/// was not measured is `None`, and so is every measure that needs it. One stage is EMT's case (Zhai et al. 2023); the
/// measures over stages are then `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct StageMatrix {
    initial: Vec<Option<f64>>,
    stages: Vec<Vec<Option<f64>>>,
}

impl StageMatrix {
    /// `initial[j]` is the initial model's accuracy on task j and `stages[i][j]` the accuracy after stage i, both from
    /// 0.
    pub fn new(initial: Vec<Option<f64>>, stages: Vec<Vec<Option<f64>>>) -> Result<Self, StageError> {
        let (n_stages, n_tasks) = (stages.len(), initial.len());
        if n_stages == 0 {
            return Err(StageError::NoStage);
        }
        if n_tasks < n_stages {
            return Err(StageError::TooFewTasks { n_stages, n_tasks });
        }
        for (stage, row) in std::iter::once(&initial).chain(&stages).enumerate() {
            if row.len() != n_tasks {
                return Err(StageError::Ragged { stage, found: row.len(), expected: n_tasks });
            }
            for (index, value) in row.iter().enumerate() {
                if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                    return Err(StageError::NoRate { stage, task: index + 1, value });
                }
            }
        }
        Ok(Self { initial, stages })
    }

    /// The number of stages.
    pub fn n_stages(&self) -> usize {
        self.stages.len()
    }

    /// The number of tasks, including those that are never trained.
    pub fn n_tasks(&self) -> usize {
        self.initial.len()
    }

    /// Returns the initial model's accuracy on task `task` (from 0).
    pub fn initial(&self, task: usize) -> Option<f64> {
        self.initial.get(task).copied().flatten()
    }

    /// Returns the accuracy on task `task` after stage `stage` (both from 0).
    pub fn accuracy(&self, stage: usize, task: usize) -> Option<f64> {
        self.stages.get(stage)?.get(task).copied().flatten()
    }

    /// ACC: the mean accuracy on the trained tasks after the last stage (Lopez-Paz and Ranzato 2017, "Gradient episodic
    /// memory for continual learning", NeurIPS).
    pub fn average_accuracy(&self) -> Option<f64> {
        self.mean_until(self.last())
    }

    /// AIA: the mean over stages of the mean accuracy on the tasks trained so far (Rebuffi et al. 2017, "iCaRL", CVPR).
    pub fn average_incremental_accuracy(&self) -> Option<f64> {
        mean((0..self.n_stages()).map(|stage| self.mean_until(stage)))
    }

    /// BWT: the mean change in accuracy on each earlier task, from the task's own stage to the last stage (Lopez-Paz
    /// and Ranzato 2017). Negative means loss. `None` with one stage.
    pub fn backward_transfer(&self) -> Option<f64> {
        mean((0..self.last()).map(|task| Some(self.accuracy(self.last(), task)? - self.accuracy(task, task)?)))
    }

    /// FWT: the mean change in accuracy on a task from the initial model to just before the task is trained (Lopez-Paz
    /// and Ranzato 2017). `None` with one stage.
    pub fn forward_transfer(&self) -> Option<f64> {
        mean((1..self.n_stages()).map(|task| Some(self.accuracy(task - 1, task)? - self.initial(task)?)))
    }

    /// Forgetting: the mean of [`Self::task_forgetting`] over the tasks before the last (Chaudhry et al. 2018,
    /// "Riemannian walk for incremental learning", ECCV). `None` with one stage.
    pub fn forgetting(&self) -> Option<f64> {
        mean((0..self.last()).map(|task| self.task_forgetting(task)))
    }

    /// Returns the best accuracy on a trained task from its own stage to the last but one, less that after the last
    /// stage. `None` for the last stage's task, which cannot be forgotten yet, and for tasks that are never trained.
    pub fn task_forgetting(&self, task: usize) -> Option<f64> {
        let earlier: Option<Vec<f64>> = (task..self.last()).map(|stage| self.accuracy(stage, task)).collect();
        let best = earlier?.into_iter().reduce(f64::max)?;
        Some(best - self.accuracy(self.last(), task)?)
    }

    /// Returns how much accuracy on a task the last stage's model lost against the initial model: EMT's forgetting, for
    /// any task.
    pub fn fall(&self, task: usize) -> Option<f64> {
        Some(self.initial(task)? - self.accuracy(self.last(), task)?)
    }

    fn last(&self) -> usize {
        self.n_stages() - 1
    }

    /// Returns the mean over the tasks trained so far, after stage `stage`.
    fn mean_until(&self, stage: usize) -> Option<f64> {
        mean((0..=stage).map(|task| self.accuracy(stage, task)))
    }
}

/// Returns `None` if a value is missing or there are no values.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests;
