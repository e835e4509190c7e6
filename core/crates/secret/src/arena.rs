//! AWS-LC's heap, in secret memory.
//!
//! `CRYPTO_set_mem_functions` can be called once per process, before AWS-LC's first allocation; this crate is the only
//! one that uses AWS-LC, and calls it before anything else. AWS-LC allocates when a context is made, never per sector,
//! so that a simple allocator will do: blocks lie one after another, each behind a header, first fit, neighbours
//! joined while searching. The headers are in the arena too.

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::fork;
use crate::mapping::{self, Mapping};
use crate::wipe::wipe;

/// Bytes of the arena: room for the contexts of 20 devices on 16 processors, an eighth of the default RLIMIT_MEMLOCK.
const SIZE: usize = 1 << 20;

/// Bytes of a block's header, and what every block is a multiple of: `malloc`'s own alignment.
const UNIT: usize = 16;

/// What stands before each block.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    /// Bytes of the block with this header, a multiple of [`UNIT`].
    size: usize,
    used: usize,
}

struct Arena {
    memory: Mapping,
}

static ARENA: OnceLock<Mutex<Arena>> = OnceLock::new();
static MAKING: Mutex<()> = Mutex::new(());

/// Make the arena if this is the first call, and AWS-LC's heap with it.
pub(crate) fn prepare() -> io::Result<()> {
    let _only_one = MAKING.lock();
    if ARENA.get().is_none() {
        let (_, _, memory) = mapping::allocate(SIZE)?;
        // Only this function sets it, under the lock: it cannot be set already.
        let _ = ARENA.set(Mutex::new(Arena::new(memory)));
        // SAFETY: the functions have the behaviour of malloc, realloc and free, and never call AWS-LC.
        let set = unsafe { aws_lc_sys::CRYPTO_set_mem_functions(Some(allocate), Some(reallocate), Some(free)) };
        assert_eq!(set, 1, "another part of this program has set AWS-LC's memory functions");
    }
    Ok(())
}

fn arena() -> Option<parking_lot::MutexGuard<'static, Arena>> {
    if fork::forked() { None } else { ARENA.get().map(Mutex::lock) }
}

unsafe extern "C" fn allocate(size: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    arena().and_then(|mut arena| arena.allocate(size)).map_or(ptr::null_mut(), |block| block.as_ptr().cast())
}

unsafe extern "C" fn free(block: *mut c_void, _file: *const c_char, _line: c_int) {
    if let (Some(mut arena), Some(block)) = (arena(), NonNull::new(block.cast())) {
        arena.free(block);
    }
}

unsafe extern "C" fn reallocate(block: *mut c_void, size: usize, file: *const c_char, line: c_int) -> *mut c_void {
    let Some(start) = NonNull::new(block.cast::<u8>()) else {
        // SAFETY: no precondition.
        return unsafe { allocate(size, file, line) };
    };
    let Some(old) = arena().map(|arena| arena.capacity(start)) else { return ptr::null_mut() };
    // SAFETY: no precondition.
    let new = unsafe { allocate(size, file, line) };
    if !new.is_null() {
        // SAFETY: both blocks have at least the smaller size, and a new block never overlaps a used one.
        unsafe {
            ptr::copy_nonoverlapping(start.as_ptr(), new.cast::<u8>(), size.min(old));
            free(block, file, line);
        }
    }
    new
}

impl Arena {
    fn new(memory: Mapping) -> Arena {
        let mut arena = Arena { memory };
        let size = arena.memory.length();
        arena.put(0, Header { size, used: 0 });
        arena
    }

    fn header(&self, offset: usize) -> Header {
        // SAFETY: headers stand at multiples of 16 inside the mapping, and `new` and `allocate` wrote this one.
        unsafe { self.memory.start().add(offset).cast::<Header>().read() }
    }

    fn put(&mut self, offset: usize, header: Header) {
        // SAFETY: as above; `&mut self` makes the access exclusive.
        unsafe { self.memory.start().add(offset).cast::<Header>().write(header) };
    }

    fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        let wanted = size.max(1).checked_add(UNIT)?.checked_next_multiple_of(UNIT)?;
        let mut offset = 0;
        while offset < self.memory.length() {
            let found = self.join(offset);
            if found.used == 0 && found.size >= wanted {
                if found.size > wanted {
                    self.put(offset + wanted, Header { size: found.size - wanted, used: 0 });
                }
                self.put(offset, Header { size: wanted, used: 1 });
                // SAFETY: a block inside the mapping, behind its header.
                return NonNull::new(unsafe { self.memory.start().add(offset + UNIT) });
            }
            offset += found.size;
        }
        None
    }

    /// The block at `offset`, made one with the free blocks behind it if it is free itself.
    fn join(&mut self, offset: usize) -> Header {
        let mut found = self.header(offset);
        while found.used == 0 && offset + found.size < self.memory.length() {
            let next = self.header(offset + found.size);
            if next.used != 0 {
                break;
            }
            found.size += next.size;
            self.put(offset, found);
        }
        found
    }

    fn offset_of(&self, block: NonNull<u8>) -> usize {
        block.as_ptr() as usize - self.memory.start() as usize - UNIT
    }

    /// Bytes that a block can hold.
    fn capacity(&self, block: NonNull<u8>) -> usize {
        self.header(self.offset_of(block)).size - UNIT
    }

    fn free(&mut self, block: NonNull<u8>) {
        let offset = self.offset_of(block);
        let header = self.header(offset);
        // SAFETY: AWS-LC gives back what `allocate` gave it, and uses it no more.
        wipe(unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), header.size - UNIT) });
        self.put(offset, Header { size: header.size, used: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arena {
        let (_, _, memory) = mapping::allocate(mapping::page_size()).unwrap();
        Arena::new(memory)
    }

    /// Blocks are aligned as malloc's are, do not overlap, and what is freed is zeroed and used again.
    #[test]
    fn blocks_are_apart_and_come_back_zeroed() {
        let mut arena = small();
        let blocks: Vec<_> = [1, 16, 17, 500].map(|size| (arena.allocate(size).unwrap(), size)).into();
        for (block, size) in &blocks {
            assert_eq!(block.as_ptr() as usize % 16, 0);
            // SAFETY: allocated with that size.
            unsafe { block.as_ptr().write_bytes(*size as u8, *size) };
        }
        for (block, size) in &blocks {
            // SAFETY: allocated with that size.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), *size) };
            assert!(bytes.iter().all(|byte| *byte == *size as u8));
        }
        let (block, size) = blocks[3];
        arena.free(block);
        assert_eq!(arena.allocate(size), Some(block));
        // SAFETY: allocated again with that size.
        assert!(unsafe { std::slice::from_raw_parts(block.as_ptr(), size) }.iter().all(|byte| *byte == 0));
    }

    /// A full arena refuses, and gives the whole room again once everything was freed, in whatever order.
    #[test]
    fn full_arena_refuses_and_recovers() {
        let mut arena = small();
        let mut blocks = Vec::new();
        while let Some(block) = arena.allocate(100) {
            blocks.push(block);
        }
        assert_eq!(blocks.len(), arena.memory.length() / 128);
        let (even, odd): (Vec<_>, Vec<_>) = blocks.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        for (_, block) in even.into_iter().chain(odd) {
            arena.free(*block);
        }
        let all = arena.memory.length() - UNIT;
        assert_eq!(arena.allocate(all + 1), None);
        assert!(arena.allocate(all).is_some());
        assert_eq!(arena.allocate(usize::MAX), None);
    }

    /// AWS-LC really allocates here: a context of its own lies inside the arena.
    #[test]
    fn aws_lc_allocates_in_the_arena() {
        prepare().unwrap();
        // SAFETY: made and freed as the API wants.
        let context = unsafe { aws_lc_sys::EVP_CIPHER_CTX_new() };
        let start = ARENA.get().unwrap().lock().memory.start() as usize;
        assert!((start..start + SIZE).contains(&(context as usize)));
        // SAFETY: as above.
        unsafe { aws_lc_sys::EVP_CIPHER_CTX_free(context) };
    }
}
