//! Memory suited to vectors: aligned to cache lines, and written in pieces by many threads.

use std::cell::RefCell;

/// A cache line; loading a vector that crosses two lines costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Types of which every bit pattern is a valid value, and whose size divides a cache line.
pub trait Plain: Copy + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i8 {}
impl Plain for half::bf16 {}

/// Numbers that begin at a cache line; initially 0.
pub(super) struct Aligned<T> {
    lines: Vec<Line>,
    length: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(super) fn zeros(length: usize) -> Self {
        let n_lines = length.div_ceil(size_of::<Line>() / size_of::<T>());
        Self { lines: vec![Line([0; 64]); n_lines], length, element: std::marker::PhantomData }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        // Safety: the lines hold at least `length` elements, and every bit pattern is a valid element.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // Safety: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// Returns how many f32 of scratch memory `length` numbers of another type take, in whole lines.
pub(super) fn n_floats<T: Plain>(length: usize) -> usize {
    (length * size_of::<T>()).div_ceil(size_of::<Line>()) * (size_of::<Line>() / size_of::<f32>())
}

/// Returns the first `length` numbers of another type in `scratch`, with arbitrary values, and the rest of it.
///
/// # Panics
/// `scratch` is shorter than [`n_floats`] says.
pub(super) fn split_off<T: Plain>(scratch: &mut [f32], length: usize) -> (&mut [T], &mut [f32]) {
    const { assert!(align_of::<T>() <= align_of::<f32>()) };
    let (front, rest) = scratch.split_at_mut(n_floats::<T>(length));
    // Safety: the front holds `length` elements, every bit pattern is a valid element, and nothing else refers to it.
    (unsafe { std::slice::from_raw_parts_mut(front.as_mut_ptr().cast(), length) }, rest)
}

/// A pointer to memory that several threads write, each to its own places.
#[derive(Debug)]
pub(super) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// Safety: it is only an address; all writers must write to their own places.
unsafe impl<T: Send> Send for Shared<T> {}
// Safety: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// Returns the address of element `index`, which must be within the slice.
    #[inline(always)]
    pub(super) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// Returns a vector of `length` elements, all written by `write`.
///
/// # Safety
/// `write` writes every element.
pub(super) unsafe fn written<T: Send>(length: usize, write: impl FnOnce(Shared<T>)) -> Vec<T> {
    let mut elements = Vec::with_capacity(length);
    write(Shared(elements.as_mut_ptr()));
    // Safety: the capacity exists, and `write` has written it.
    unsafe { elements.set_len(length) };
    elements
}

/// Runs `compute` with `length` numbers of this thread's scratch memory, with arbitrary values.
pub(super) fn with_scratch<R>(length: usize, compute: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Aligned<f32>> = RefCell::new(Aligned::zeros(0));
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.length < length {
            *scratch = Aligned::zeros(length);
        }
        compute(&mut scratch.as_mut_slice()[..length])
    })
}
