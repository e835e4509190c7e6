//! Memory for data on its way: page-aligned, so that O_DIRECT takes it, and kept by the thread that used it.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// O_DIRECT asks for the logical block size at most; a page satisfies every device known.
const ALIGNMENT: usize = 4096;

/// Page-aligned bytes on the heap, zeroed at first.
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a `Buffer` owns its memory alone, as a `Vec<u8>` does.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `length` zeroed bytes at a page boundary. Aborts when memory is exhausted, as `Vec` does.
    #[must_use]
    pub fn new(length: usize) -> Buffer {
        let layout = Self::layout(length);
        // SAFETY: `layout` never has size zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Buffer { start, length }
    }

    fn layout(length: usize) -> Layout {
        Layout::from_size_align(length.max(1), ALIGNMENT).expect("a buffer is far smaller than the address space")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `length` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

/// Whether all bytes are zero. The first of data that is not settles it.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}

/// Bytes of a [`Scratch`]: long enough that a system call's cost vanishes, short enough to stay in the second-level
/// cache between copy, cipher and write.
pub const SCRATCH: usize = 256 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`SCRATCH`] bytes from the calling thread's own store, given back when dropped: after a thread's first
/// request there is neither an allocation nor a lock in it. What an earlier request left is still inside.
pub struct Scratch(Option<Buffer>);

impl Scratch {
    /// Take one.
    #[must_use]
    pub fn take() -> Scratch {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Scratch(Some(spare.unwrap_or_else(|| Buffer::new(SCRATCH))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            // Where the thread is ending its store is gone already, and the buffer is simply freed.
            let _ = SPARE.try_with(|spare| spare.borrow_mut().push(buffer));
        }
    }
}

impl Deref for Scratch {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_ref().expect("present until dropped")
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().expect("present until dropped")
    }
}
