use super::*;

fn tensor(value: f32) -> Tensor {
    Tensor::new(&[value, 0.0], &Device::Cpu).unwrap()
}

fn check(gradients: [f32; 2], n_steps: usize, n_moved: usize) -> Result<f64> {
    let parameters = ["q_proj.lora_A", "q_proj.lora_B"]
        .map(|name| Parameter { name: name.to_owned(), variable: Var::from_tensor(&tensor(1.0)).unwrap() });
    checked_norm(&parameters, &gradients.map(tensor), 5, Sofar { n_steps, n_moved })
}

#[test]
fn a_tensor_without_a_gradient_is_named() {
    let error = check([3.0, 0.0], 0, 0).unwrap_err().to_string();
    assert!(error.contains("`q_proj.lora_B` gets no gradient at step 5"), "{error}");
    assert_eq!(check([3.0, 4.0], 0, 0).unwrap(), 5.0);
}

#[test]
fn the_first_factor_may_stand_still_until_the_second_has_moved() {
    assert_eq!(check([0.0, 2.0], 0, 0).unwrap(), 2.0);
    // A warm-up begins with a rate of 0, which changes nothing.
    assert_eq!(check([0.0, 2.0], 1, 0).unwrap(), 2.0);
    assert!(check([0.0, 2.0], 2, 1).unwrap_err().to_string().contains("lora_A"));
}

#[test]
fn a_gradient_that_is_not_finite_stops_and_says_where() {
    let error = check([1.0, f32::NAN], 7, 6).unwrap_err().to_string();
    assert!(error.contains("q_proj.lora_B") && error.contains("step 5"), "{error}");
}
