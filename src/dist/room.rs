//! Memory for a message that comes in fragments.
//!
//! A large one gets pages of its own from the system, which go back there as soon as the last part of the message is
//! dropped; the general allocator would keep tens of megabytes for later. Its room is made as the bytes come, never for
//! what is only announced.

use bytes::Bytes;
use memmap2::MmapMut;
use std::io;

/// Below this a message is a matter of the general allocator: it is faster with what is too small for large pages.
const PAGES_FROM: usize = 2 * 1024 * 1024;

/// The bytes of one message so far.
pub(super) struct Room {
    memory: Memory,
    length: usize,
    /// How many there will be, if the peer tells the truth.
    expected: usize,
}

enum Memory {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

impl Room {
    /// `expected`: how long the message will be as far as one knows. `at_once`: what is not large gets its room now.
    pub(super) fn new(expected: usize, at_once: bool) -> Self {
        let room = if at_once && expected <= PAGES_FROM {
            expected
        } else {
            0
        };
        Self {
            memory: Memory::Heap(Vec::with_capacity(room)),
            length: 0,
            expected,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// The system has no memory; what is there already stays.
    pub(super) fn push(&mut self, part: &[u8]) -> io::Result<()> {
        let needed = self.length + part.len();
        if needed <= PAGES_FROM
            && let Memory::Heap(bytes) = &mut self.memory
        {
            if needed > bytes.capacity() {
                let room = (2 * bytes.capacity()).max(needed).min(PAGES_FROM);
                bytes.reserve_exact(room.min(self.expected.max(needed)) - bytes.len());
            }
            bytes.extend_from_slice(part);
        } else {
            if needed > self.pages() {
                self.grow(needed)?;
            }
            if let Memory::Pages(pages) = &mut self.memory {
                pages[self.length..needed].copy_from_slice(part);
            }
        }
        self.length = needed;
        Ok(())
    }

    fn pages(&self) -> usize {
        match &self.memory {
            Memory::Heap(_) => 0,
            Memory::Pages(pages) => pages.len(),
        }
    }

    /// Moves what is there to larger memory: a quarter of a quarter... of the expected length, the least that will do. So
    /// the last step is to exactly what is needed, little is copied, and what is announced costs four times of what came.
    fn grow(&mut self, needed: usize) -> io::Result<()> {
        // More than was expected comes only from a peer that does not tell the truth.
        let mut size = match needed <= self.expected {
            true => self.expected,
            false => needed.saturating_mul(2),
        };
        while size / 4 >= needed {
            size = size.div_ceil(4);
        }
        let mut pages = MmapMut::map_anon(size)?;
        // Filling thousands of small pages for the first time takes longer than copying the value. It is a wish only.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        let old: &[u8] = match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages) => &pages[..self.length],
        };
        pages[..old.len()].copy_from_slice(old);
        self.memory = Memory::Pages(pages);
        Ok(())
    }

    /// The whole message. Its memory is given back when the last slice of it is gone.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.memory {
            Memory::Heap(bytes) => bytes.into(),
            Memory::Pages(pages) => Bytes::from_owner(pages).slice(..self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_parts_make_the_same_bytes_whatever_was_expected(
            parts in vec(0..200_000_usize, 0..30),
            expected in 0..8_000_000_usize,
            at_once: bool,
        ) {
            let mut room = Room::new(expected, at_once);
            let mut all = Vec::new();
            for (n, length) in parts.into_iter().enumerate() {
                let part: Vec<u8> = (0..length).map(|at| (at + n) as u8).collect();
                room.push(&part).unwrap();
                all.extend_from_slice(&part);
                prop_assert_eq!(room.len(), all.len());
            }
            prop_assert_eq!(room.into_bytes(), all);
        }
    }

    #[test]
    fn what_is_only_announced_takes_no_memory() {
        let mut room = Room::new(1 << 40, true);
        room.push(&[1; 2 * PAGES_FROM]).unwrap();
        assert!(room.pages() < 8 * PAGES_FROM, "{}", room.pages());
    }

    #[test]
    fn a_message_of_the_expected_length_has_exactly_its_room() {
        let length = 10 * PAGES_FROM + 3;
        let mut room = Room::new(length, true);
        while room.len() < length {
            room.push(&vec![1; (length - room.len()).min(65_536)])
                .unwrap();
        }
        assert_eq!(room.pages(), length);
    }
}
