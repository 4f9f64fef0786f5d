//! A model of ringbuf's shared ring: two indices with the orderings of the original, and cells whose accesses loom checks for races.

use std::num::NonZeroUsize;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub struct HeapRb<T> {
    cells: Vec<UnsafeCell<Option<T>>>,
    read: AtomicUsize,
    write: AtomicUsize,
    read_held: AtomicBool,
}

pub struct HeapProd<T>(Arc<HeapRb<T>>);

pub struct HeapCons<T>(Arc<HeapRb<T>>);

// SAFETY: as in the original: each cell is accessed by one end at a time, which loom checks.
unsafe impl<T: Send> Send for HeapProd<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for HeapCons<T> {}

impl<T> HeapRb<T> {
    pub fn new(capacity: usize) -> Self {
        let cells = (0..capacity).map(|_| UnsafeCell::new(None)).collect();
        Self { cells, read: AtomicUsize::new(0), write: AtomicUsize::new(0), read_held: AtomicBool::new(true) }
    }

    fn occupied(&self) -> usize {
        self.write.load(Ordering::Acquire) - self.read.load(Ordering::Acquire)
    }

    fn cell(&self, index: usize) -> &UnsafeCell<Option<T>> {
        &self.cells[index % self.cells.len()]
    }
}

impl<T> Drop for HeapCons<T> {
    fn drop(&mut self) {
        self.0.read_held.store(false, Ordering::Release);
    }
}

pub mod traits {
    use super::*;

    pub trait Split {
        type Producer;
        type Consumer;
        fn split(self) -> (Self::Producer, Self::Consumer);
    }

    pub trait Observer {
        fn capacity(&self) -> NonZeroUsize;
        fn occupied_len(&self) -> usize;
        fn vacant_len(&self) -> usize {
            self.capacity().get() - self.occupied_len()
        }
        fn read_is_held(&self) -> bool;
    }

    pub trait Producer {
        type Item;
        fn try_push(&mut self, item: Self::Item) -> Result<(), Self::Item>;
        fn push_slice(&mut self, items: &[Self::Item]) -> usize
        where
            Self::Item: Copy;
    }

    pub trait Consumer {
        type Item;
        fn try_pop(&mut self) -> Option<Self::Item>;
        fn pop_slice(&mut self, out: &mut [Self::Item]) -> usize
        where
            Self::Item: Copy;
        fn clear(&mut self) -> usize;
    }

    impl<T> Split for HeapRb<T> {
        type Producer = HeapProd<T>;
        type Consumer = HeapCons<T>;

        fn split(self) -> (HeapProd<T>, HeapCons<T>) {
            let shared = Arc::new(self);
            (HeapProd(shared.clone()), HeapCons(shared))
        }
    }

    macro_rules! observer {
        ($end:ident) => {
            impl<T> Observer for $end<T> {
                fn capacity(&self) -> NonZeroUsize {
                    NonZeroUsize::new(self.0.cells.len()).unwrap()
                }

                fn occupied_len(&self) -> usize {
                    self.0.occupied()
                }

                fn read_is_held(&self) -> bool {
                    self.0.read_held.load(Ordering::Acquire)
                }
            }
        };
    }

    observer!(HeapProd);
    observer!(HeapCons);

    impl<T> Producer for HeapProd<T> {
        type Item = T;

        fn try_push(&mut self, item: T) -> Result<(), T> {
            if self.vacant_len() == 0 {
                return Err(item);
            }
            let write = self.0.write.load(Ordering::Acquire);
            // SAFETY: the reader does not access cells from `write` on; loom checks it.
            self.0.cell(write).with_mut(|cell| unsafe { *cell = Some(item) });
            self.0.write.store(write + 1, Ordering::Release);
            Ok(())
        }

        fn push_slice(&mut self, items: &[T]) -> usize
        where
            T: Copy,
        {
            let count = items.len().min(self.vacant_len());
            let write = self.0.write.load(Ordering::Acquire);
            for (index, item) in items[..count].iter().enumerate() {
                // SAFETY: as in `try_push`.
                self.0.cell(write + index).with_mut(|cell| unsafe { *cell = Some(*item) });
            }
            self.0.write.store(write + count, Ordering::Release);
            count
        }
    }

    impl<T> Consumer for HeapCons<T> {
        type Item = T;

        fn try_pop(&mut self) -> Option<T> {
            if self.occupied_len() == 0 {
                return None;
            }
            let read = self.0.read.load(Ordering::Acquire);
            // SAFETY: the writer does not access cells from `read` to `write`; loom checks it.
            let item = self.0.cell(read).with_mut(|cell| unsafe { (*cell).take() });
            self.0.read.store(read + 1, Ordering::Release);
            item
        }

        fn pop_slice(&mut self, out: &mut [T]) -> usize
        where
            T: Copy,
        {
            let count = out.len().min(self.occupied_len());
            let read = self.0.read.load(Ordering::Acquire);
            for (index, out) in out[..count].iter_mut().enumerate() {
                // SAFETY: as in `try_pop`.
                *out = self.0.cell(read + index).with_mut(|cell| unsafe { (*cell).take() }).unwrap();
            }
            self.0.read.store(read + count, Ordering::Release);
            count
        }

        fn clear(&mut self) -> usize {
            let count = self.occupied_len();
            (0..count).for_each(|_| drop(self.try_pop()));
            count
        }
    }
}
