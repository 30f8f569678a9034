//! Memory as vectors like it: aligned to the lines of the cache, and written in pieces by many threads.

use std::cell::RefCell;

/// A line of the cache; a vector that lies in two costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Types of which every pattern of bits is a value, and that fill a line evenly.
pub trait Plain: Copy + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i8 {}
impl Plain for half::bf16 {}

/// Numbers that begin at a line; all 0 at first.
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
        // Safety: the lines hold at least `length` elements, of which every pattern of bits is one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // Safety: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// Numbers of scratch memory that `length` numbers of another type take, in whole lines.
pub(super) fn n_floats<T: Plain>(length: usize) -> usize {
    (length * size_of::<T>()).div_ceil(size_of::<Line>()) * (size_of::<Line>() / size_of::<f32>())
}

/// The first `length` numbers of another type in `scratch`, of any value, and the rest of it.
///
/// # Panics
/// It is shorter than [`n_floats`] says.
pub(super) fn split_off<T: Plain>(scratch: &mut [f32], length: usize) -> (&mut [T], &mut [f32]) {
    const { assert!(align_of::<T>() <= align_of::<f32>()) };
    let (front, rest) = scratch.split_at_mut(n_floats::<T>(length));
    // Safety: the front holds `length` elements, of which every pattern of bits is one, and nothing else refers to it.
    (unsafe { std::slice::from_raw_parts_mut(front.as_mut_ptr().cast(), length) }, rest)
}

/// A pointer to memory that several threads write, each to places of its own.
#[derive(Debug)]
pub(super) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// Safety: it is only an address; whoever writes through it must write to places of its own.
unsafe impl<T: Send> Send for Shared<T> {}
// Safety: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The address of element `index`, which must lie within the slice.
    #[inline(always)]
    pub(super) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// A vector of `length` elements that `write` writes all of.
///
/// # Safety
/// `write` writes every element.
pub(super) unsafe fn written<T: Send>(length: usize, write: impl FnOnce(Shared<T>)) -> Vec<T> {
    let mut elements = Vec::with_capacity(length);
    write(Shared(elements.as_mut_ptr()));
    // Safety: the capacity is there, and `write` has written it.
    unsafe { elements.set_len(length) };
    elements
}

/// Runs `compute` with `length` numbers of this thread's scratch memory, of any value.
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
