//! What training needs beside the ways forward: products with matrices that are not packed beforehand, and the ways back.
//!
//! Everything is f32: training computes in nothing else. Sums over rows are made in an order that does not depend on the
//! number of threads.

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
