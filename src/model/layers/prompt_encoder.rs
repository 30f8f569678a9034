//! What P-tuning computes its virtual tokens from (Liu et al. 2021, "GPT Understands, Too"; PEFT's `PromptEncoder`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Result as TensorResult, Tensor};
use candle_nn::ops::sigmoid;

/// Virtual tokens as a function of an embedding: through an MLP, or through an LSTM that reads both ways and an MLP.
#[derive(Clone, Debug)]
pub struct PromptEncoder {
    embedding: Tensor, // (tokens, size)
    /// By layer: forwards and backwards. Empty for an MLP alone.
    lstm: Vec<[LstmDirection; 2]>,
    linears: Vec<[Tensor; 2]>,
}

/// One direction of a layer of an LSTM, in PyTorch's order of gates: input, forget, cell, output.
#[derive(Clone, Debug)]
struct LstmDirection {
    weight_input: Tensor,  // (4 hidden, in)
    weight_hidden: Tensor, // (4 hidden, hidden)
    bias_input: Tensor,
    bias_hidden: Tensor,
}

impl PromptEncoder {
    /// Builds the encoder from tensors under PEFT's names: `embedding.weight`, `mlp_head.{0,2,4}.…`, `lstm_head.…`.
    ///
    /// # Errors
    /// One is missing, or has no place.
    pub fn new(mut tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let mut take = |name: &str| tensors.remove(name).with_context(|| format!("the prompt encoder lacks `{name}`"));
        let embedding = take("embedding.weight")?;
        let mut lstm = Vec::new();
        while let Ok(first) = take(&format!("lstm_head.weight_ih_l{}", lstm.len())) {
            let ends = [format!("l{}", lstm.len()), format!("l{}_reverse", lstm.len())];
            let second = take(&format!("lstm_head.weight_ih_{}", ends[1]))?;
            let mut direction = |weight_input: Tensor, end: &str| -> Result<LstmDirection> {
                Ok(LstmDirection {
                    weight_input,
                    weight_hidden: take(&format!("lstm_head.weight_hh_{end}"))?,
                    bias_input: take(&format!("lstm_head.bias_ih_{end}"))?,
                    bias_hidden: take(&format!("lstm_head.bias_hh_{end}"))?,
                })
            };
            lstm.push([direction(first, &ends[0])?, direction(second, &ends[1])?]);
        }
        let places: &[usize] = if lstm.is_empty() { &[0, 2, 4] } else { &[0, 2] };
        let linears = places
            .iter()
            .map(|place| Ok([take(&format!("mlp_head.{place}.weight"))?, take(&format!("mlp_head.{place}.bias"))?]))
            .collect::<Result<_>>()?;
        ensure!(
            tensors.is_empty(),
            "the prompt encoder has parts that are not known, the first is `{}`",
            tensors.keys().next().map_or("", String::as_str)
        );
        Ok(Self { embedding, lstm, linears })
    }

    /// Lists its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let of_lstm = self.lstm.iter().flatten().flat_map(|direction| {
            [&direction.weight_input, &direction.weight_hidden, &direction.bias_input, &direction.bias_hidden]
        });
        std::iter::once(&self.embedding).chain(of_lstm).chain(self.linears.iter().flatten())
    }

    /// The number of virtual tokens.
    ///
    /// # Errors
    /// The embedding is not a matrix.
    pub fn n_tokens(&self) -> TensorResult<usize> {
        self.embedding.dim(0)
    }

    /// Returns the virtual tokens `(tokens, hidden)`.
    ///
    /// # Errors
    /// The shapes do not fit each other.
    pub fn rows(&self) -> TensorResult<Tensor> {
        let mut x = self.embedding.clone();
        for [forwards, backwards] in &self.lstm {
            x = Tensor::cat(&[forwards.states(&x, false)?, backwards.states(&x, true)?], 1)?;
        }
        for (index, [weight, bias]) in self.linears.iter().enumerate() {
            if index > 0 {
                x = x.relu()?;
            }
            x = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
        }
        Ok(x)
    }
}

impl LstmDirection {
    /// Returns the hidden states `(tokens, hidden)` after each token of `x` `(tokens, in)`.
    fn states(&self, x: &Tensor, is_reversed: bool) -> TensorResult<Tensor> {
        let n_tokens = x.dim(0)?;
        let size = self.weight_hidden.dim(1)?;
        let bias = (&self.bias_input + &self.bias_hidden)?;
        let inputs = x.matmul(&self.weight_input.t()?)?.broadcast_add(&bias)?; // (tokens, 4 hidden)
        let recurrent = self.weight_hidden.t()?;
        let mut hidden = Tensor::zeros((1, size), x.dtype(), x.device())?;
        let mut cell = hidden.clone();
        let mut states = Vec::with_capacity(n_tokens);
        for step in 0..n_tokens {
            let token = if is_reversed { n_tokens - 1 - step } else { step };
            let gates = (inputs.narrow(0, token, 1)? + hidden.matmul(&recurrent)?)?;
            let gate = |which: usize| gates.narrow(1, which * size, size)?.contiguous();
            let kept = (sigmoid(&gate(1)?)? * &cell)?;
            cell = (kept + (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?)?;
            hidden = (sigmoid(&gate(3)?)? * cell.tanh()?)?;
            states.push(hidden.clone());
        }
        if is_reversed {
            states.reverse();
        }
        Tensor::cat(&states, 0)
    }
}
