//! The vision transformer of Llama-3.2-Vision. All tiles of an image pass it together: a tile and its place in the
//! image have embeddings of their own, and further layers with gates follow.
//!
//! An image has fewer tiles than the tower was trained for, and each tile has a few empty patches at its end. Both are
//! computed as the authors do: what is filled attends to everything, and what is empty attends to what is filled. Here
//! filled tokens come first, so that this is two runs of attention without a mask.

use anyhow::{Result, bail, ensure};
use candle_core::{D, Tensor};
use serde::Serialize;

use super::preprocess::{ImageInput, arrangements};
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, CrossAttention, CrossShape, LayerNorm, LayerWatch, Linear, Loader, Mlp, PassShape, Site, Watched,
};

/// Tokens of a tile are filled up to a multiple of this.
const N_TOKENS_MULTIPLE: usize = 8;

/// The epsilon of the norms before and after the first layers, which no file has.
const EPSILON_AROUND: f64 = 1e-5;

/// Sizes of the tower, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TiledConfig {
    #[serde(rename = "hidden_size")]
    size: usize,
    #[serde(rename = "intermediate_size")]
    n_hidden: usize,
    #[serde(rename = "attention_heads")]
    n_heads: usize,
    #[serde(rename = "hidden_act")]
    activation: Activation,
    #[serde(rename = "norm_eps")]
    epsilon: f64,
    #[serde(rename = "num_hidden_layers")]
    n_layers: usize,
    #[serde(rename = "num_global_layers")]
    n_global_layers: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(rename = "max_num_tiles")]
    n_tiles: usize,
    /// The states of the first layers that are part of the output: 0 is the embedding.
    states: Vec<usize>,
}

/// Which states of the tower an index of `intermediate_layers_indices` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateRule {
    /// The input of the layer with that index: Meta's code, and transformers before 4.55.
    BeforeLayer,
    /// Its output: transformers from 4.56 on.
    AfterLayer,
}

impl TiledConfig {
    /// Reads a `vision_config`.
    ///
    /// # Errors
    /// A value is of another type, or two contradict each other.
    pub fn from_config(config: &Config, rule: StateRule) -> Result<Self> {
        let place = config.place();
        let kind = config.str_or("model_type", "mllama_vision_model")?;
        ensure!(kind == "mllama_vision_model", "{place}: the vision tower `{kind}` is not supported in this family");
        let n_layers = config.positive_or("num_hidden_layers", 32)?;
        let this = Self {
            size: config.positive_or("hidden_size", 1280)?,
            n_hidden: config.positive_or("intermediate_size", 5120)?,
            n_heads: config.positive_or("attention_heads", 16)?,
            activation: Activation::from_name(config.str_or("hidden_act", "gelu")?)?,
            epsilon: config.f64_or("norm_eps", 1e-5)?,
            n_layers,
            n_global_layers: config.usize_or("num_global_layers", 8)?,
            image_size: config.positive_or("image_size", 448)?,
            patch_size: config.positive_or("patch_size", 14)?,
            n_tiles: config.positive_or("max_num_tiles", 4)?,
            states: states(config, rule, n_layers)?,
        };
        ensure!(config.positive_or("num_channels", 3)? == 3, "{place}: only RGB towers (num_channels 3) are supported");
        ensure!(
            this.image_size >= this.patch_size && this.size.is_multiple_of(this.n_heads),
            "{place}: image_size {} must hold a patch of patch_size {}, and hidden_size {} be a multiple of \
             attention_heads {}",
            this.image_size,
            this.patch_size,
            this.size,
            this.n_heads
        );
        let width = config.positive_or("vision_output_dim", this.width())?;
        ensure!(
            width == this.width(),
            "{place}: vision_output_dim is {width}, but the last state and {} others are {} wide; hint: \
             intermediate_layers_indices belongs to it",
            this.states.len(),
            this.width()
        );
        check_arrangements(config, this.n_tiles)?;
        Ok(this)
    }

    /// The side of a tile in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// The number of tiles for which the tower was trained.
    pub fn n_tiles(&self) -> usize {
        self.n_tiles
    }

    /// The tokens of a tile: the class token and the patches.
    pub fn n_tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// The width of the output.
    pub fn width(&self) -> usize {
        self.size * (1 + self.states.len())
    }

    /// The number of first layers, and of those with gates after them.
    pub fn n_layers(&self) -> [usize; 2] {
        [self.n_layers, self.n_global_layers]
    }

    /// Roughly how many numbers an image holds while it passes: pixels of three such images, activations, output.
    pub fn n_numbers(&self) -> usize {
        let n_tokens = self.n_tiles.saturating_mul(self.n_tokens_filled());
        let of_token = (8 + self.states.len()) * self.size + self.n_hidden + self.width();
        let n_pixels = 3 * self.image_size.pow(2) * self.n_tiles;
        n_tokens.saturating_mul(of_token).saturating_add(3 * n_pixels)
    }

    fn n_tokens_filled(&self) -> usize {
        self.n_tokens().next_multiple_of(N_TOKENS_MULTIPLE)
    }
}

/// Reads the indices of the states in the output.
fn states(config: &Config, rule: StateRule, n_layers: usize) -> Result<Vec<usize>> {
    let Some(list) = config.get("intermediate_layers_indices") else {
        return states_of(&[3, 7, 15, 23, 30], rule, n_layers, config.place());
    };
    let indices: Option<Vec<usize>> =
        list.as_array().and_then(|list| list.iter().map(|index| index.as_u64().map(|index| index as usize)).collect());
    match indices {
        Some(indices) => states_of(&indices, rule, n_layers, config.place()),
        None => bail!("`intermediate_layers_indices` in {} must be a list of layers, but is {list}", config.place()),
    }
}

fn states_of(indices: &[usize], rule: StateRule, n_layers: usize, place: &str) -> Result<Vec<usize>> {
    if let Some(index) = indices.iter().find(|&&index| index >= n_layers) {
        bail!("{place}: intermediate_layers_indices has {index}, but the tower has {n_layers} layers");
    }
    let offset = usize::from(rule == StateRule::AfterLayer);
    Ok(indices.iter().map(|index| index + offset).collect())
}

/// Refuses arrangements of tiles in another order than the processor's, which gives each its number.
fn check_arrangements(config: &Config, n_tiles: usize) -> Result<()> {
    let Some(list) = config.get("supported_aspect_ratios") else { return Ok(()) };
    let expected: Vec<[usize; 2]> = arrangements(n_tiles).into_iter().map(|(rows, columns)| [rows, columns]).collect();
    ensure!(
        *list == serde_json::json!(expected),
        "{}: supported_aspect_ratios is not the list of all rows and columns of at most max_num_tiles {n_tiles} tiles",
        config.place()
    );
    Ok(())
}

/// The tower.
pub struct TiledTower {
    config: TiledConfig,
    patches: Linear,
    class_token: Tensor,    // (hidden)
    positions: Tensor,      // (tokens, hidden)
    position_gate: Tensor,  // (1)
    tile_positions: Tensor, // (arrangements + 1, tiles * tokens * hidden)
    tiles_before: TileEmbedding,
    norm_before: LayerNorm,
    layers: Vec<Layer>,
    norm_after: LayerNorm,
    tiles_after: TileEmbedding,
    global_layers: Vec<Layer>,
}

impl TiledTower {
    /// Reads a tower below `loader`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &mut Loader, config: TiledConfig) -> Result<Self> {
        let (size, patch) = (config.size, config.patch_size);
        let n_arrangements = arrangements(config.n_tiles).len() + 1;
        let mut layers = |stack: &str, n_layers: usize, is_gated: bool| -> Result<Vec<Layer>> {
            let load = |index| Layer::load(&mut loader.at(&format!("{stack}.layers.{index}")), &config, is_gated);
            (0..n_layers).map(load).collect()
        };
        let first = layers("transformer", config.n_layers, false)?;
        let global = layers("global_transformer", config.n_global_layers, true)?;
        let mut positions = loader.at("gated_positional_embedding");
        let n_of_tiles = config.n_tiles * config.n_tokens() * size;
        Ok(Self {
            position_gate: positions.tensor("gate", &[1])?,
            tile_positions: positions.tensor("tile_embedding.weight", &[n_arrangements, n_of_tiles])?,
            positions: positions.tensor("embedding", &[config.n_tokens(), size])?,
            patches: Linear::load_shaped(loader, "patch_embedding", &[size, 3, patch, patch], false)?,
            class_token: loader.tensor("class_embedding", &[size])?,
            tiles_before: TileEmbedding::load(&mut loader.at("pre_tile_positional_embedding"), &config)?,
            norm_before: LayerNorm::load(loader, "layernorm_pre", size, EPSILON_AROUND)?,
            layers: first,
            norm_after: LayerNorm::load(loader, "layernorm_post", size, EPSILON_AROUND)?,
            tiles_after: TileEmbedding::load(&mut loader.at("post_tile_positional_embedding"), &config)?,
            global_layers: global,
            config,
        })
    }

    /// Returns the output for the tiles of `image`, `(tiles, tokens, width)`, with those that the image does not have.
    ///
    /// # Errors
    /// The tiles are not the tower's.
    pub fn forward(&self, image: &ImageInput, mut watch: Watched<'_>) -> Result<Tensor> {
        let side = self.config.image_size;
        let n_filled = image.grid.0 * image.grid.1;
        ensure!(
            image.shape == [n_filled, 3, side, side] && (1..=self.config.n_tiles).contains(&n_filled),
            "tiles of {:?} numbers in {:?} rows and columns do not fit a tower that takes at most {} of 3 x {side} x \
             {side}",
            image.shape,
            image.grid,
            self.config.n_tiles
        );
        let arrangement = arrangements(self.config.n_tiles).iter().position(|grid| *grid == image.grid);
        let Some(arrangement) = arrangement.map(|index| index + 1) else {
            bail!("{:?} rows and columns of tiles are not among the tower's", image.grid)
        };
        let order = Order { n_tokens: self.config.n_tokens(), n_filled };
        let mut x = order.apply(&self.embedded(image, arrangement)?)?; // (1, all tokens, hidden)
        let n_tokens = x.dim(1)?;
        watch.begins(PassShape { n_rows: 1, n_tokens, n_positions: n_tokens });
        x = watch.layer(0).at(Site::Embeddings, x)?;
        let mut states = vec![x.clone()];
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, order.n_first(), &mut watch.layer(index))?;
            states.push(x.clone());
        }
        x = self.norm_after.forward(&x)?;
        let places = self.tiles_after.of(arrangement)?; // (tiles, 1, hidden)
        let shape = (self.config.n_tiles, self.config.n_tokens_filled(), self.config.size);
        x = (x + order.apply(&places.broadcast_as(shape)?.contiguous()?)?)?;
        for (index, layer) in self.global_layers.iter().enumerate() {
            x = layer.forward(&x, order.n_first(), &mut watch.layer(self.layers.len() + index))?;
        }
        // The authors put the states of each dimension side by side, not the dimensions of each state.
        let inner: Vec<&Tensor> = self.config.states.iter().map(|&state| &states[state]).collect();
        let x = match inner.is_empty() {
            true => x,
            false => Tensor::cat(&[x, Tensor::stack(&inner, D::Minus1)?.flatten_from(2)?], 2)?,
        };
        Ok(order.undo(&x, self.config.n_tiles)?)
    }

    /// Returns the input of the first layer, `(tiles, tokens filled, hidden)`.
    fn embedded(&self, image: &ImageInput, arrangement: usize) -> candle_core::Result<Tensor> {
        let TiledConfig { size, n_tiles, .. } = self.config;
        let (n_tokens, n_filled) = (self.config.n_tokens(), image.shape[0]);
        let patches = self.patches.forward(&self.patch_rows(image)?)?; // (filled tiles, patches, hidden)
        // A tile without pixels has patches of zero.
        let patches = patches.pad_with_zeros(0, 0, n_tiles - n_filled)?;
        let patches = patches.broadcast_add(&self.tiles_before.of(arrangement)?)?;
        let class_tokens = self.class_token.reshape((1, 1, size))?.broadcast_as((n_tiles, 1, size))?.contiguous()?;
        let x = Tensor::cat(&[class_tokens, patches], 1)?;
        let gate = self.position_gate.tanh()?;
        let positions = self.positions.broadcast_mul(&(1.0 - &gate)?)?;
        let of_tiles =
            self.tile_positions.get(arrangement)?.reshape((n_tiles, n_tokens, size))?.broadcast_mul(&gate)?;
        let x = (x.broadcast_add(&positions)? + of_tiles)?;
        self.norm_before.forward(&x)?.pad_with_zeros(1, 0, self.config.n_tokens_filled() - n_tokens)
    }

    /// Returns the patches of an image as rows, `(tiles, patches, 3 * patch * patch)`.
    fn patch_rows(&self, image: &ImageInput) -> candle_core::Result<Tensor> {
        let (side, patch) = (self.config.image_size, self.config.patch_size);
        let (n_filled, n) = (image.shape[0], side / patch);
        Tensor::from_slice(&image.values, (n_filled, 3, side, side), self.positions.device())?
            .to_dtype(self.positions.dtype())?
            .narrow(2, 0, n * patch)?
            .narrow(3, 0, n * patch)?
            .reshape(&[n_filled, 3, n, patch, n, patch][..])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((n_filled, n * n, 3 * patch * patch))
    }
}

/// A gated embedding of a tile's place, by arrangement.
struct TileEmbedding {
    embedding: Tensor, // (arrangements + 1, tiles * hidden)
    gate: Tensor,      // (1)
    size: usize,
}

impl TileEmbedding {
    fn load(loader: &mut Loader, config: &TiledConfig) -> Result<Self> {
        let shape = [arrangements(config.n_tiles).len() + 1, config.n_tiles * config.size];
        Ok(Self {
            embedding: loader.tensor("embedding.weight", &shape)?,
            gate: loader.tensor("gate", &[1])?,
            size: config.size,
        })
    }

    /// Returns `(tiles, 1, hidden)`.
    fn of(&self, arrangement: usize) -> candle_core::Result<Tensor> {
        self.embedding.get(arrangement)?.reshape(((), 1, self.size))?.broadcast_mul(&self.gate.tanh()?)
    }
}

/// The order of tokens inside the tower: all tokens of the image's tiles, then what is empty.
#[derive(Clone, Copy)]
struct Order {
    /// Tokens of a tile.
    n_tokens: usize,
    /// Tiles of the image.
    n_filled: usize,
}

impl Order {
    /// The number of tokens that are not empty.
    fn n_first(self) -> usize {
        self.n_tokens * self.n_filled
    }

    /// Orders `(tiles, tokens filled, hidden)` as `(1, all tokens, hidden)`.
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n_tiles, n_all, _) = x.dims3()?;
        let flat = |part: Tensor| part.contiguous()?.flatten_to(1);
        let filled = x.narrow(0, 0, self.n_filled)?;
        let mut parts = vec![
            flat(filled.narrow(1, 0, self.n_tokens)?)?,
            flat(filled.narrow(1, self.n_tokens, n_all - self.n_tokens)?)?,
        ];
        if self.n_filled < n_tiles {
            parts.push(flat(x.narrow(0, self.n_filled, n_tiles - self.n_filled)?)?);
        }
        Tensor::cat(&parts, 0)?.unsqueeze(0)
    }

    /// Returns the tokens of all tiles, `(tiles, tokens, width)`, from `(1, all tokens, width)`.
    fn undo(self, x: &Tensor, n_tiles: usize) -> candle_core::Result<Tensor> {
        let (_, n_all, width) = x.dims3()?;
        let x = x.squeeze(0)?;
        let filled = x.narrow(0, 0, self.n_first())?.reshape((self.n_filled, self.n_tokens, width))?;
        let n_empty = n_tiles - self.n_filled;
        if n_empty == 0 {
            return Ok(filled);
        }
        let n_tokens_filled = n_all / n_tiles;
        let n_last = n_empty * n_tokens_filled;
        let empty = x.narrow(0, n_all - n_last, n_last)?.reshape((n_empty, n_tokens_filled, width))?;
        Tensor::cat(&[filled, empty.narrow(1, 0, self.n_tokens)?.contiguous()?], 0)
    }
}

/// A layer, with gates if it is one of the last.
struct Layer {
    attention_norm: LayerNorm,
    attention: CrossAttention,
    mlp_norm: LayerNorm,
    mlp: Mlp,
    /// Of attention and of the feed-forward half, each `(1)`.
    gates: Option<[Tensor; 2]>,
}

impl Layer {
    fn load(loader: &mut Loader, config: &TiledConfig, is_gated: bool) -> Result<Self> {
        let &TiledConfig { size, n_hidden, n_heads, activation, epsilon, .. } = config;
        let head_size = size / n_heads;
        let shape = CrossShape { size, n_attended: size, n_heads, n_kv_heads: n_heads, head_size };
        let gates = match is_gated {
            true => Some([loader.tensor("gate_attn", &[1])?, loader.tensor("gate_ffn", &[1])?]),
            false => None,
        };
        Ok(Self {
            attention_norm: LayerNorm::load(loader, "input_layernorm", size, epsilon)?,
            attention: CrossAttention::load(&mut loader.at("self_attn"), shape)?,
            mlp_norm: LayerNorm::load(loader, "post_attention_layernorm", size, epsilon)?,
            mlp: Mlp::load(&mut loader.at("mlp"), size, n_hidden, activation)?,
            gates,
        })
    }

    /// Maps `(1, tokens, hidden)` to the same shape. The first `n_first` tokens attend to all, the others to these.
    fn forward(&self, x: &Tensor, n_first: usize, watch: &mut LayerWatch<'_>) -> candle_core::Result<Tensor> {
        let n_rest = x.dim(1)? - n_first;
        let normed = watch.at(Site::AttentionInput, self.attention_norm.forward(x)?)?;
        let [keys, values] = self.attention.keys_and_values(&normed)?;
        let [first, rest] =
            [(0, n_first), (n_first, n_rest)].map(|(start, n)| normed.narrow(1, start, n)?.contiguous());
        let mut mixed = vec![self.attention.forward(&first?, [&keys, &values], None)?];
        if n_rest > 0 {
            let of_first = |x: &Tensor| x.narrow(2, 0, n_first)?.contiguous();
            mixed.push(self.attention.forward(&rest?, [&of_first(&keys)?, &of_first(&values)?], None)?);
        }
        let mixed = self.gated(Tensor::cat(&mixed, 1)?, 0)?;
        let x = (x + watch.at(Site::AttentionOutput, mixed)?)?;
        let normed = watch.at(Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let added = self.gated(self.mlp.forward(&normed)?, 1)?;
        let x = (x + watch.at(Site::MlpOutput, added)?)?;
        watch.at(Site::Residual, x)
    }

    fn gated(&self, x: Tensor, gate: usize) -> candle_core::Result<Tensor> {
        match &self.gates {
            Some(gates) => x.broadcast_mul(&gates[gate].tanh()?),
            None => Ok(x),
        }
    }
}
