//! Tests of `flash_attention`.

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
    for (dtype, is_causal) in [DType::BF16, DType::F16].into_iter().flat_map(|dtype| [(dtype, true), (dtype, false)]) {
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
