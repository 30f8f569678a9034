//! The kernels that training needs in addition to the forward passes: backward passes, and products of matrices that
//! are not packed in advance.
//!
//! All of them are f32, the only type of training on kernels. Sums over rows are added in an order that does not depend
//! on the number of threads.

mod attention;
mod norm;
mod pointwise;
mod product;
#[cfg(test)]
mod tests;

pub use attention::attention_backward;
pub use norm::{norm_backward, norm_weight_backward};
pub use pointwise::{activated_backward, gated_backward};
pub use product::{Right, Term, column_sums, product, transposed};
