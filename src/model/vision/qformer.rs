//! The Q-Former (Li et al. 2023, "BLIP-2"; Dai et al. 2023, "InstructBLIP"): a BERT whose learned queries attend to an
//! image's states, and to the question if the model reads it.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Serialize;

use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, Embedding, HeadAttention, HeadAttentionNames, HeadAttentionShape, LayerNorm, Loader, Mlp,
};

/// Sizes of a Q-Former, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QFormerConfig {
    #[serde(rename = "hidden_size")]
    size: usize,
    #[serde(rename = "intermediate_size")]
    n_hidden: usize,
    #[serde(rename = "num_hidden_layers")]
    n_layers: usize,
    #[serde(rename = "num_attention_heads")]
    n_heads: usize,
    #[serde(rename = "hidden_act")]
    activation: Activation,
    #[serde(rename = "layer_norm_eps")]
    epsilon: f64,
    /// Width of the image's states.
    #[serde(rename = "encoder_hidden_size")]
    context_size: usize,
    /// Every how many layers the queries attend to the image, beginning with the first.
    #[serde(rename = "cross_attention_frequency")]
    cross_every: usize,
    #[serde(rename = "vocab_size")]
    vocabulary_size: usize,
    #[serde(rename = "max_position_embeddings")]
    n_positions: usize,
    #[serde(rename = "num_query_tokens")]
    n_queries: usize,
    #[serde(rename = "use_qformer_text_input")]
    reads_text: bool,
}

impl QFormerConfig {
    /// Reads a `qformer_config`, with the defaults of transformers. The queries' number is in the enclosing section.
    ///
    /// # Errors
    /// A setting has no meaning or is not supported.
    pub fn from_config(config: &Config, n_queries: usize, reads_text: bool) -> Result<Self> {
        let kind = config.str_or("position_embedding_type", "absolute")?;
        ensure!(
            kind == "absolute",
            "{}: position_embedding_type `{kind}` is not supported; hint: `absolute` is",
            config.place()
        );
        let this = Self {
            size: config.positive_or("hidden_size", 768)?,
            n_hidden: config.positive_or("intermediate_size", 3072)?,
            n_layers: config.positive_or("num_hidden_layers", 12)?,
            n_heads: config.positive_or("num_attention_heads", 12)?,
            activation: Activation::from_name(config.str_or("hidden_act", "gelu")?)?,
            epsilon: config.f64_or("layer_norm_eps", 1e-12)?,
            context_size: config.positive_or("encoder_hidden_size", 1408)?,
            cross_every: config.positive_or("cross_attention_frequency", 2)?,
            vocabulary_size: config.positive_or("vocab_size", 30522)?,
            n_positions: config.positive_or("max_position_embeddings", 512)?,
            n_queries,
            reads_text,
        };
        ensure!(
            this.size.is_multiple_of(this.n_heads),
            "{}: hidden_size {} is not a multiple of num_attention_heads {}",
            config.place(),
            this.size,
            this.n_heads
        );
        Ok(this)
    }

    /// Width of the result.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Width of the image's states.
    pub fn context_size(&self) -> usize {
        self.context_size
    }

    /// The number of rows of the result.
    pub fn n_queries(&self) -> usize {
        self.n_queries
    }

    /// The maximum number of tokens of a question.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }
}

/// The feed-forward half of a layer, with the norm after it.
struct FeedForward {
    mlp: Mlp,
    norm: LayerNorm,
}

impl FeedForward {
    /// Reads the half whose modules end in `suffix`.
    fn load(loader: &mut Loader, suffix: &str, config: &QFormerConfig) -> Result<Self> {
        let (first, second) = (format!("intermediate{suffix}.dense"), format!("output{suffix}.dense"));
        let widths = [config.size, config.n_hidden, config.size];
        Ok(Self {
            mlp: Mlp::load_named(loader, [&first, &second], widths, config.activation)?,
            norm: LayerNorm::load(loader, &format!("output{suffix}.LayerNorm"), config.size, config.epsilon)?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.forward(&self.mlp.forward_added(Some(x), x)?)
    }
}

/// An attention with the norm after it.
struct NormedAttention {
    attention: HeadAttention,
    norm: LayerNorm,
}

impl NormedAttention {
    fn load(loader: &mut Loader, context_size: usize, config: &QFormerConfig) -> Result<Self> {
        let (size, n_heads) = (config.size, config.n_heads);
        let shape = HeadAttentionShape { size, context_size, n_heads, head_size: size / n_heads };
        let inputs = ["attention.query", "attention.key", "attention.value"];
        let names = HeadAttentionNames { inputs, output: "output.dense", has_bias: true };
        Ok(Self {
            attention: HeadAttention::load(loader, shape, names)?,
            norm: LayerNorm::load(loader, "output.LayerNorm", size, config.epsilon)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> candle_core::Result<Tensor> {
        let [keys, values] = self.attention.keys_and_values(context)?;
        self.norm.forward(&(self.attention.forward(x, [&keys, &values])? + x)?)
    }
}

struct Layer {
    own: NormedAttention,
    /// The queries' attention to the image.
    cross: Option<NormedAttention>,
    of_queries: FeedForward,
    of_text: Option<FeedForward>,
}

impl Layer {
    /// Maps `x` `(batch, queries and tokens, size)` to the same shape.
    fn forward(&self, x: &Tensor, n_queries: usize, image: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.own.forward(x, x)?;
        let n_text = x.dim(1)? - n_queries;
        let queries = x.narrow(1, 0, n_queries)?.contiguous()?;
        let queries = match &self.cross {
            Some(cross) => cross.forward(&queries, image)?,
            None => queries,
        };
        let queries = self.of_queries.forward(&queries)?;
        match &self.of_text {
            Some(of_text) if n_text > 0 => {
                let text = of_text.forward(&x.narrow(1, n_queries, n_text)?.contiguous()?)?;
                Tensor::cat(&[&queries, &text], 1)
            }
            _ => Ok(queries),
        }
    }
}

/// The embeddings of a question.
struct TextEmbedding {
    words: Embedding,
    positions: Tensor, // (positions, size)
}

/// A Q-Former with its queries.
pub struct QFormer {
    queries: Tensor, // (1, queries, size)
    text: Option<TextEmbedding>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl QFormer {
    /// Reads `query_tokens` and `qformer.*`.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn load(loader: &mut Loader, config: &QFormerConfig) -> Result<Self> {
        let queries = loader.tensor("query_tokens", &[1, config.n_queries, config.size])?;
        let mut here = loader.at("qformer");
        let norm_name = if config.reads_text { "embeddings.layernorm" } else { "layernorm" };
        let norm = LayerNorm::load(&mut here, norm_name, config.size, config.epsilon)?;
        let text = match config.reads_text {
            true => {
                let name = "embeddings.word_embeddings";
                let words = Embedding::load(&mut here, name, config.vocabulary_size, config.size)?;
                let name = "embeddings.position_embeddings.weight";
                Some(TextEmbedding { words, positions: here.tensor(name, &[config.n_positions, config.size])? })
            }
            false => None,
        };
        let mut layer = |index: usize| {
            let mut here = here.at(&format!("encoder.layer.{index}"));
            let cross = match index.is_multiple_of(config.cross_every) {
                true => Some(NormedAttention::load(&mut here.at("crossattention"), config.context_size, config)?),
                false => None,
            };
            let of_text = if config.reads_text { Some(FeedForward::load(&mut here, "", config)?) } else { None };
            Ok(Layer {
                own: NormedAttention::load(&mut here.at("attention"), config.size, config)?,
                cross,
                of_queries: FeedForward::load(&mut here, "_query", config)?,
                of_text,
            })
        };
        let layers = (0..config.n_layers).map(&mut layer).collect::<Result<_>>()?;
        Ok(Self { queries, text, norm, layers })
    }

    /// Returns the states of queries and question `(batch, queries and tokens, size)` after each layer, for images
    /// `(batch, tokens, width)` that are all asked about with the tokens `question`.
    ///
    /// # Errors
    /// The question is longer than the model has positions, or has a token that it does not know.
    pub fn states(&self, images: &Tensor, question: &[u32]) -> Result<Vec<Tensor>> {
        let n_images = images.dim(0)?;
        let mut x = self.queries.clone();
        if let Some(text) = &self.text
            && !question.is_empty()
        {
            let (n_positions, n_tokens) = (text.positions.dim(0)?, question.len());
            ensure!(
                n_tokens <= n_positions,
                "a question of {n_tokens} tokens does not fit a Q-Former of {n_positions}"
            );
            let positions = text.positions.narrow(0, 0, n_tokens)?;
            let words = (text.words.forward(question)? + positions)?.unsqueeze(0)?;
            x = Tensor::cat(&[&x, &words], 1)?;
        }
        let mut x = self.norm.forward(&x)?.repeat((n_images, 1, 1))?;
        let mut states = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            x = layer.forward(&x, self.queries.dim(1)?, images)?;
            states.push(x.clone());
        }
        Ok(states)
    }

    /// Returns the last states of the queries `(batch, queries, size)`. As [`states`](Self::states).
    ///
    /// # Errors
    /// As [`states`](Self::states).
    pub fn forward(&self, images: &Tensor, question: &[u32]) -> Result<Tensor> {
        let last = self.states(images, question)?.pop().context("a Q-Former has layers")?;
        Ok(last.narrow(1, 0, self.queries.dim(1)?)?.contiguous()?)
    }
}
