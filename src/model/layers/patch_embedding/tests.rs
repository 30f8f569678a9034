use candle_core::Var;

use super::*;

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut random = fastrand::Rng::with_seed(seed);
    let numbers = (0..shape.iter().product()).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

#[test]
fn patches_in_pieces_are_those_of_tensor_operations_to_the_bit() {
    for has_class_token in [true, false] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            // Height and width leave a rest that fills no patch.
            let shape = PatchEmbeddingShape {
                size: 8,
                n_channels: 3,
                patch_size: 4,
                n_tokens: 6 + usize::from(has_class_token),
                has_class_token,
                has_bias: false,
            };
            let of = |dims: &[usize], seed| random(dims, seed).to_dtype(dtype).unwrap();
            let embedding = PatchEmbedding {
                patches: Linear::from_tensors(of(&[8, 48], 1), None),
                class_token: has_class_token.then(|| of(&[1, 1, 8], 2)),
                positions: of(&[1, shape.n_tokens, 8], 3),
                shape,
            };
            let pixels = random(&[5, 3, 9, 14], 4);
            // Tracked tensors are computed by tensor operations.
            let tracked = Var::from_tensor(&pixels).unwrap();
            let bits = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&embedding.rows(&pixels).unwrap()), bits(&embedding.rows(&tracked).unwrap()));
            let patches = of(&[5, 6, 8], 5);
            let tracked = Var::from_tensor(&patches).unwrap();
            let fused = embedding.placed(&patches).unwrap();
            assert_eq!(fused.dims(), [5, shape.n_tokens, 8]);
            assert_eq!(bits(&fused), bits(&embedding.placed(&tracked).unwrap()), "{dtype:?}");
            assert!(embedding.placed(&of(&[5, 4, 8], 6)).is_err(), "another picture's patches");
        }
    }
}
