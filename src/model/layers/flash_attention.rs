//! Attention on a CUDA device that never holds scores: candle's flash attention, if the program was built with it.
//!
//! Its launches drop their errors. On a GPU for which the kernels were not compiled, the result is uninitialised
//! memory. Therefore each kernel is checked before its first use.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};

use super::attention::mix_in_steps;
use super::{Mask, left_padded_mask, needs_gradient};

/// Attention of queries, keys and values `(batch, tokens, heads, head size)`; the number scales the scores. If the
/// switch is set, the queries are the last positions and each attends up to its own position.
type Kernel = fn(&Tensor, &Tensor, &Tensor, f32, bool) -> Result<Tensor>;

#[cfg(feature = "flash-attn")]
const COMPILED: Option<Kernel> = Some(candle_flash_attn::flash_attn);
#[cfg(not(feature = "flash-attn"))]
const COMPILED: Option<Kernel> = None;

/// The largest head that kernels are compiled for.
const HEAD_SIZE_MAX: usize = 512;

/// Heads and rows begin at multiples of this many numbers, which are read at once.
const N_AT_ONCE: usize = 8;

/// The most rows of a batch, and the most heads, in one launch.
const GRID_MAX: usize = 65_535;

/// The size of the check: more than one block of queries and of positions.
const N_QUERIES_TRIED: usize = 70;
const N_POSITIONS_TRIED: usize = 200;

/// The largest difference from attention in f32 for numbers up to 1. Weights and result are rounded to 8 bits.
const TOLERANCE: f32 = 0.01;

/// Flash attention for given queries, keys and values.
pub(super) struct FlashAttention {
    kernel: Kernel,
    is_causal: bool,
}

impl FlashAttention {
    /// Returns `Some` if it can compute what [`mix`](super::attention::mix) does: on a CUDA device, in 16 bits, without
    /// gradients, and with all positions visible or those up to each query. It does not read the mask.
    pub(super) fn serving(inputs: [&Tensor; 3], mask: Option<&Mask>) -> Option<Self> {
        let kernel = COMPILED?;
        let is_served = inputs.iter().all(|x| x.device().is_cuda()) && !needs_gradient(&inputs) && fits(inputs, mask);
        // One query attends to everything before it.
        let is_causal = mask.is_some_and(Mask::is_causal) && inputs[0].dims()[2] > 1;
        is_served.then_some(Self { kernel, is_causal })
    }

    /// Computes `softmax(query key^T / √head size + mask) value`: `(batch, heads, queries, head size)`.
    ///
    /// # Errors
    /// The device does not compute it.
    pub(super) fn mix(&self, inputs: [&Tensor; 3]) -> Result<Tensor> {
        self.try_once(inputs[0])?;
        self.launch(inputs)
    }

    fn launch(&self, inputs: [&Tensor; 3]) -> Result<Tensor> {
        let [query, key, value] = inputs.map(|x| x.transpose(1, 2));
        let query = query?;
        let scale = (query.dim(3)? as f32).powf(-0.5);
        (self.kernel)(&query, &key?, &value?, scale, self.is_causal)?.transpose(1, 2)
    }

    /// Checks the kernel that serves `query`, once per process.
    fn try_once(&self, query: &Tensor) -> Result<()> {
        static TRIED: Mutex<Vec<(DeviceLocation, DType, usize, bool)>> = Mutex::new(Vec::new());
        let (dtype, head_size) = (query.dtype(), query.dim(3)?);
        let kernel = (query.device().location(), dtype, head_size, self.is_causal);
        let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
        if !tried.contains(&kernel) {
            self.check(head_size, dtype, query.device())?;
            tried.push(kernel);
        }
        Ok(())
    }

    /// Fails if the kernel's result on `device` differs from attention in steps.
    fn check(&self, head_size: usize, dtype: DType, device: &Device) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut numbers = |n_heads: usize, n_tokens: usize| {
            let shape = (2, n_heads, n_tokens, head_size);
            let numbers: Vec<f32> = (0..2 * n_heads * n_tokens * head_size).map(|_| random.f32() * 2.0 - 1.0).collect();
            Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
        };
        let inputs = [numbers(4, N_QUERIES_TRIED)?, numbers(2, N_POSITIONS_TRIED)?, numbers(2, N_POSITIONS_TRIED)?];
        let inputs = inputs.each_ref();
        let mask = match self.is_causal {
            true => Some(left_padded_mask(&[0], N_QUERIES_TRIED, N_POSITIONS_TRIED, DType::F32, device)?),
            false => None,
        };
        if furthest(&self.launch(inputs)?, &in_steps(inputs, mask.as_ref())?)? <= TOLERANCE {
            return Ok(());
        }
        bail!(
            "flash attention computes wrong numbers on this GPU ({dtype:?}, heads of {head_size}); hint: it needs compute \
             capability 8.0 or later, and CUDA_COMPUTE_CAP set to the GPU's when it is built; or build without the feature \
             flash-attn"
        )
    }
}

/// Whether there is a kernel for these shapes and types.
fn fits([query, key, value]: [&Tensor; 3], mask: Option<&Mask>) -> bool {
    let (&[batch, n_heads, n_queries, head_size], &[_, n_kv_heads, n_positions, _]) = (query.dims(), key.dims()) else {
        return false;
    };
    let dtype = query.dtype();
    let is_aligned = |x: &Tensor| {
        let layout = x.layout();
        matches!(layout.stride(), [rows @ .., 1] if rows.iter().all(|stride| stride.is_multiple_of(N_AT_ONCE)))
            && layout.start_offset().is_multiple_of(N_AT_ONCE)
    };
    matches!(dtype, DType::BF16 | DType::F16)
        && [key, value].iter().all(|x| x.dtype() == dtype && *x.dims() == [batch, n_kv_heads, n_positions, head_size])
        && [query, key, value].into_iter().all(is_aligned)
        && n_kv_heads > 0
        && n_heads.is_multiple_of(n_kv_heads)
        && batch.max(n_heads) <= GRID_MAX
        && head_size.is_multiple_of(N_AT_ONCE)
        && head_size <= HEAD_SIZE_MAX
        && mask.is_none_or(|mask| mask.is_causal() && mask.added().dims()[2..] == [n_queries, n_positions])
}

/// Computes attention in f32 on the rounded numbers.
fn in_steps(inputs: [&Tensor; 3], mask: Option<&Mask>) -> Result<Tensor> {
    let [query, key, value] = inputs.map(|x| x.to_dtype(DType::F32));
    Ok(mix_in_steps([&query?, &key?, &value?], mask)?.0)
}

/// Returns the largest difference at one place; infinity if one is NaN.
fn furthest(x: &Tensor, y: &Tensor) -> Result<f32> {
    let differences = (x.to_dtype(DType::F32)? - y.to_dtype(DType::F32)?)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    Ok(differences.into_iter().fold(0.0, |most, n| if n.is_nan() { f32::INFINITY } else { n.max(most) }))
}

#[cfg(test)]
mod tests {
    use super::super::{KvCache, causal_mask, tree_mask};
    use super::*;

    fn random(shape: [usize; 4], dtype: DType, device: &Device) -> Tensor {
        let mut random = fastrand::Rng::with_seed(shape.iter().sum::<usize>() as u64);
        let numbers = (0..shape.iter().product()).map(|_| random.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
        Tensor::from_vec(numbers, &shape, device).unwrap().to_dtype(dtype).unwrap()
    }

    /// Computes what a kernel must return, number by number on a CPU.
    fn by_hand(query: &Tensor, key: &Tensor, value: &Tensor, scale: f32, is_causal: bool) -> Result<Tensor> {
        let (batch, n_queries, n_heads, head_size) = query.dims4()?;
        let (_, n_positions, n_kv_heads, _) = key.dims4()?;
        let rows = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous()?.flatten(0, 2)?.to_vec2::<f32>();
        let (queries, keys, values) = (rows(query)?, rows(key)?, rows(value)?);
        let mut mixed = Vec::with_capacity(query.elem_count());
        for (place, query) in queries.iter().enumerate() {
            let (head, index, row) = (place % n_heads, place / n_heads % n_queries, place / n_heads / n_queries);
            let n_seen = if is_causal { n_positions - n_queries + index + 1 } else { n_positions };
            let of = |position: usize| (row * n_positions + position) * n_kv_heads + head * n_kv_heads / n_heads;
            let score = |position| query.iter().zip(&keys[of(position)]).map(|(q, k)| q * k).sum::<f32>() * scale;
            let weights: Vec<f32> = (0..n_seen).map(|position| score(position).exp()).collect();
            let sum: f32 = weights.iter().sum();
            mixed.extend((0..head_size).map(|i| {
                weights.iter().enumerate().map(|(position, weight)| weight * values[of(position)][i]).sum::<f32>() / sum
            }));
        }
        Tensor::from_vec(mixed, (batch, n_queries, n_heads, head_size), query.device())?.to_dtype(query.dtype())
    }

    /// Queries, keys and values as layers pass them.
    struct Case {
        name: &'static str,
        inputs: [Tensor; 3],
        is_causal: bool,
    }

    impl Case {
        /// The mask of the case.
        fn mask(&self, dtype: DType) -> Option<Mask> {
            let [query, key, _] = &self.inputs;
            let mask = || left_padded_mask(&[0], query.dim(2)?, key.dim(2)?, dtype, query.device());
            self.is_causal.then(|| mask().unwrap())
        }

        fn furthest_from_steps(&self, mixed: &Tensor) -> f32 {
            let expected = in_steps(self.inputs.each_ref(), self.mask(DType::F32).as_ref()).unwrap();
            furthest(mixed, &expected).unwrap()
        }
    }

    fn cases(dtype: DType, device: &Device) -> Vec<Case> {
        let case = |name, [n_heads, n_kv_heads, n_queries, n_positions, head_size]: [usize; 5], is_causal: bool| {
            let query = random([2, n_heads, n_queries, head_size], dtype, device);
            let key = random([2, n_kv_heads, n_positions, head_size], dtype, device);
            let value = random([2, n_kv_heads, n_positions, head_size], dtype, device).neg().unwrap();
            // From a cache with spare room: rows that are not contiguous.
            let (key, value) = KvCache::new(n_positions + 5).append(&key, &value).unwrap();
            Case { name, inputs: [query, key, value], is_causal }
        };
        vec![
            case("a tower", [4, 4, 257, 257, 64], false),
            case("a tower with heads of 72", [2, 2, 130, 130, 72], false),
            case("a tower with heads of 80", [2, 2, 64, 64, 80], false),
            case("a prompt with grouped heads", [8, 2, 150, 150, 128], true),
            case("the rest of a prompt", [4, 4, 33, 170, 64], true),
            case("the rest of a prompt with grouped heads", [6, 2, 2, 131, 96], true),
            case("one token", [8, 2, 1, 77, 128], false),
            case("one token with its mask", [4, 4, 1, 300, 64], true),
        ]
    }

    #[test]
    fn inputs_turned_round_for_a_kernel_give_what_attention_in_steps_gives() {
        for case in cases(DType::F32, &Device::Cpu) {
            let flash = FlashAttention { kernel: by_hand, is_causal: case.is_causal };
            let mixed = flash.launch(case.inputs.each_ref()).unwrap();
            assert_eq!(mixed.dims(), case.inputs[0].dims(), "{}", case.name);
            let distance = case.furthest_from_steps(&mixed);
            assert!(distance < 1e-5, "{}: {distance}", case.name);
        }
    }

    #[test]
    fn only_what_a_kernel_computes_is_given_to_one() {
        let cpu = Device::Cpu;
        for dtype in [DType::BF16, DType::F16] {
            for case in cases(dtype, &cpu) {
                let (inputs, mask) = (case.inputs.each_ref(), case.mask(dtype));
                assert!(fits(inputs, mask.as_ref()), "{}", case.name);
                assert!(FlashAttention::serving(inputs, mask.as_ref()).is_none(), "{}: no GPU", case.name);
            }
        }
        let query = random([2, 4, 6, 16], DType::BF16, &cpu);
        let key = random([2, 2, 9, 16], DType::BF16, &cpu);
        let serves = |mask: Option<&Mask>| fits([&query, &key, &key], mask);
        assert!(serves(None) && serves(Some(&left_padded_mask(&[0, 0], 6, 9, DType::BF16, &cpu).unwrap())));
        assert!(!serves(Some(&left_padded_mask(&[0, 2], 6, 9, DType::BF16, &cpu).unwrap())), "padding");
        assert!(!serves(Some(&causal_mask(9, DType::BF16, &cpu).unwrap())), "the mask of other queries");
        let parents = [None, Some(0), Some(0), Some(1), Some(1), Some(2)];
        assert!(!serves(Some(&tree_mask(&[0], 3, &parents, 0..6, DType::BF16, &cpu).unwrap())), "a tree");

        let fits = |query: &Tensor, key: &Tensor| super::fits([query, key, key], None);
        let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        assert!(!fits(&single(&query), &single(&key)), "32 bits");
        assert!(!fits(&query, &key.to_dtype(DType::F16).unwrap()), "two types");
        assert!(!fits(&query, &random([2, 3, 9, 16], DType::BF16, &cpu)), "3 heads of keys for 4 of queries");
        assert!(!fits(&query, &random([1, 2, 9, 16], DType::BF16, &cpu)), "another batch");
        for (head_size, expected) in [(12, false), (512, true), (520, false)] {
            let x = random([1, 1, 2, head_size], DType::BF16, &cpu);
            assert_eq!(fits(&x, &x), expected, "heads of {head_size}");
        }
        let wide = random([2, 4, 6, 24], DType::BF16, &cpu);
        assert!(fits(&wide.narrow(3, 8, 16).unwrap(), &key));
        assert!(!fits(&wide.narrow(3, 4, 16).unwrap(), &key), "numbers that are not read at once");
        assert!(!fits(&random([2, 4, 16, 6], DType::BF16, &cpu).transpose(2, 3).unwrap(), &key), "columns");
        let many = random([70_000, 1, 1, 8], DType::BF16, &cpu);
        assert!(!fits(&many, &many), "more rows than a launch has");
    }

    #[test]
    fn a_kernel_that_computes_wrongly_is_found_out() {
        fn first_positions(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32, is_causal: bool) -> Result<Tensor> {
            let n = if is_causal { q.dim(1)? } else { k.dim(1)? };
            by_hand(q, &k.narrow(1, 0, n)?, &v.narrow(1, 0, n)?, scale, is_causal)
        }
        fn nothing(q: &Tensor, _: &Tensor, _: &Tensor, _: f32, _: bool) -> Result<Tensor> {
            q.zeros_like()
        }
        fn no_number(q: &Tensor, _: &Tensor, _: &Tensor, _: f32, _: bool) -> Result<Tensor> {
            Tensor::full(f32::NAN, q.shape(), q.device())?.to_dtype(q.dtype())
        }
        fn no_scale(q: &Tensor, k: &Tensor, v: &Tensor, _: f32, is_causal: bool) -> Result<Tensor> {
            by_hand(q, k, v, 1.0, is_causal)
        }
        let check = |kernel: Kernel, is_causal: bool, head_size: usize, dtype: DType| {
            FlashAttention { kernel, is_causal }.check(head_size, dtype, &Device::Cpu)
        };
        for (dtype, is_causal) in
            [DType::BF16, DType::F16].into_iter().flat_map(|dtype| [(dtype, true), (dtype, false)])
        {
            check(by_hand, is_causal, 64, dtype).unwrap();
            for wrong in [nothing as Kernel, no_number, no_scale] {
                let error = check(wrong, is_causal, 64, dtype).unwrap_err().to_string();
                assert!(error.contains("CUDA_COMPUTE_CAP"), "{error}");
            }
        }
        check(first_positions, false, 64, DType::BF16).unwrap();
        check(first_positions, true, 64, DType::BF16).unwrap_err();
    }

    #[cfg(feature = "flash-attn")]
    #[test]
    fn on_a_gpu_flash_attention_is_attention() {
        use super::super::attention::mix;

        let device = match Device::new_cuda(0) {
            Ok(device) => device,
            Err(error) => return eprintln!("skipped: no CUDA device opens: {error}"),
        };
        for dtype in [DType::BF16, DType::F16] {
            for case in cases(dtype, &device) {
                let (name, inputs, mask) = (case.name, case.inputs.each_ref(), case.mask(dtype));
                let mask = mask.as_ref();
                assert!(FlashAttention::serving(inputs, mask).is_some(), "{name} in {dtype:?}");
                let mixed = mix(inputs[0], inputs[1], inputs[2], mask).unwrap();
                assert_eq!((mixed.dims(), mixed.dtype()), (inputs[0].dims(), dtype), "{name}");
                let exact = case.furthest_from_steps(&mixed);
                assert!(exact <= TOLERANCE, "{name} in {dtype:?}: {exact} from attention in f32");
                // Attention in steps also rounds its scores.
                let rounded = furthest(&mixed, &mix_in_steps(inputs, mask).unwrap().0).unwrap();
                assert!(rounded <= 4.0 * TOLERANCE, "{name} in {dtype:?}: {rounded} from attention in steps");
            }
        }
    }
}
