//! A place for values that live as long as the place itself, and are lent from it at once: what was
//! read of a file borrows the file's text, and both are kept from one compilation to the next.

use std::cell::{Cell, OnceCell};

/// How many rooms there are: each is twice as large as the one before, so all memory fits.
const ROOMS: usize = usize::BITS as usize;

/// Values that are added and never moved or taken out.
pub(crate) struct Arena<T> {
    rooms: [OnceCell<Box<[OnceCell<T>]>>; ROOMS],
    length: Cell<usize>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { rooms: [const { OnceCell::new() }; ROOMS], length: Cell::new(0) }
    }
}

impl<T> Arena<T> {
    /// Keeps a value.
    pub(crate) fn keep(&self, value: T) -> &T {
        let number = self.length.get() + 1;
        self.length.set(number);
        // Room N holds the numbers from 2^N on.
        let size = 1 << number.ilog2();
        let room = self.rooms[number.ilog2() as usize]
            .get_or_init(|| std::iter::repeat_with(OnceCell::new).take(size).collect());
        room[number - size].get_or_init(|| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_where_it_is() {
        let arena = Arena::default();
        let kept: Vec<&String> = (0..1000).map(|number| arena.keep(format!("value {number}"))).collect();
        for (number, kept) in kept.iter().enumerate() {
            assert_eq!(**kept, format!("value {number}"));
        }
    }
}
