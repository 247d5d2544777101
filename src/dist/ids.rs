//! Our own pids and references. Pure but for the counter.
//!
//! A pid is our name, two 32-bit numbers and the creation; counted up, never used again within a creation. The low
//! numbers belong to the processes that live as long as the node: see [`CALLER`] and `Names`.

use super::NodeName;
use crate::term::{
    Raw, View,
    write::{put_pid, put_reference},
};
use bytes::BytesMut;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The process from which this node's own calls are made. It always lives: OTP monitors the callers of some requests.
pub(crate) const CALLER: u64 = 1;

/// The first number that is given to a registered name.
pub(crate) const FIRST_NAME: u64 = 2;

/// The first number of a process that ends again.
const FIRST_FRESH: u64 = 1 << 10;

/// The low part of a pid that `erlang:pid_to_list/1` prints as its number.
const ID_BITS: u32 = 28;

/// Mints pids and references, and recognises them when they come back.
#[derive(Clone)]
pub(crate) struct Ids {
    name: NodeName,
    creation: u32,
    next: Arc<AtomicU64>,
}

impl Ids {
    pub(crate) fn new(name: NodeName, creation: u32) -> Self {
        Self {
            name,
            creation,
            next: Arc::new(AtomicU64::new(FIRST_FRESH)),
        }
    }

    /// A number that was not used yet, for a pid or a reference.
    pub(crate) fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The pid of a number.
    pub(crate) fn pid(&self, number: u64) -> Raw {
        let mut out = BytesMut::new();
        let id = (number & ((1 << ID_BITS) - 1)) as u32;
        put_pid(
            &mut out,
            self.name.as_str(),
            id,
            (number >> ID_BITS) as u32,
            self.creation,
        );
        Raw::own(out)
    }

    /// The reference of a number.
    pub(crate) fn reference(&self, number: u64) -> Raw {
        let mut out = BytesMut::new();
        // OTP keeps 18 bits in the first word of its own references; a third word keeps old readers happy.
        let words = [
            (number & 0x3_FFFF) as u32,
            (number >> 18) as u32,
            (number >> 50) as u32,
        ];
        put_reference(&mut out, self.name.as_str(), self.creation, &words);
        Raw::own(out)
    }

    /// The number of one of our own pids of this life; `None` for anybody else's.
    pub(crate) fn own_pid(&self, term: View<'_>) -> Option<u64> {
        let pid = term.as_pid()?;
        let ours = pid.creation == self.creation && pid.node == self.name.as_str();
        ours.then_some(u64::from(pid.serial) << ID_BITS | u64::from(pid.id))
    }

    /// The number of one of our own references.
    pub(crate) fn own_reference(&self, term: View<'_>) -> Option<u64> {
        let reference = term.as_reference()?;
        let [low, middle, high] = reference.words() else {
            return None;
        };
        let ours = reference.creation == self.creation && reference.node == self.name.as_str();
        ours.then_some(u64::from(*high) << 50 | u64::from(*middle) << 18 | u64::from(*low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_from_its_pid_and_reference() {
        let ids = Ids::new("a@h".parse().unwrap(), 7);
        for number in [1, 1 << 18, 1 << 28, (1 << 50) + 12345, (1 << 59) + 3] {
            assert_eq!(ids.own_pid(ids.pid(number).view()), Some(number));
            assert_eq!(
                ids.own_reference(ids.reference(number).view()),
                Some(number)
            );
        }
    }

    #[test]
    fn a_pid_of_an_earlier_life_is_not_ours() {
        let (now, before) = (
            Ids::new("a@h".parse().unwrap(), 7),
            Ids::new("a@h".parse().unwrap(), 6),
        );
        assert_eq!(now.own_pid(before.pid(9).view()), None);
        assert_eq!(now.own_reference(before.reference(9).view()), None);
    }
}
