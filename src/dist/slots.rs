//! One slot per peer name: who wins when two nodes connect to each other at the same time. Pure.
//!
//! ```text
//!            dial                        our dial succeeds
//!  free ─────────────► Dialling ────────────────────────────────► Up
//!   │                     │ incoming, our name is less: ok_simultaneous, our dial is given up
//!   │ incoming: ok        ▼
//!   └────────────────► Accepting ───────────────────────────────► Up ◄─┐
//!                                   its handshake succeeds         └────┘ incoming: alive; true: replaced
//! ```
//!
//! Both ends must come to the same result, so the rule is the one of OTP's `net_kernel`: while a connection is pending,
//! the greater name (by code point) keeps its own and answers `nok`, the lesser answers `ok_simultaneous`.

use super::{NodeName, handshake::Status};
use std::collections::HashMap;

/// Distinguishes the connections (and attempts) of one node.
pub(crate) type ConnectionId = u64;

/// What holds a slot. `P` is whatever the owner needs of a connection that is up.
pub(crate) enum Slot<P> {
    Dialling(ConnectionId),
    Accepting(ConnectionId),
    Up(ConnectionId, P),
}

/// All slots of a node.
pub(crate) struct Slots<P> {
    own: NodeName,
    slots: HashMap<NodeName, Slot<P>>,
}

impl<P> Slots<P> {
    pub(crate) fn new(own: NodeName) -> Self {
        Self {
            own,
            slots: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, peer: &NodeName) -> Option<&Slot<P>> {
        self.slots.get(peer)
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = (&NodeName, &P)> {
        self.slots.iter().filter_map(|(name, slot)| match slot {
            Slot::Up(_, peer) => Some((name, peer)),
            _ => None,
        })
    }

    /// Takes the slot for a dial; `false` when somebody has it.
    pub(crate) fn dial(&mut self, peer: &NodeName, id: ConnectionId) -> bool {
        if self.slots.contains_key(peer) {
            return false;
        }
        self.slots.insert(peer.clone(), Slot::Dialling(id));
        true
    }

    /// What to say to an incoming connection.
    pub(crate) fn incoming(&mut self, peer: &NodeName, id: ConnectionId) -> Status {
        let status = match self.slots.get(peer) {
            None => Status::Ok,
            Some(Slot::Up(..)) => return Status::Alive,
            Some(Slot::Dialling(_) | Slot::Accepting(_)) if self.own > *peer => return Status::Nok,
            Some(Slot::Dialling(_) | Slot::Accepting(_)) => Status::OkSimultaneous,
        };
        self.slots.insert(peer.clone(), Slot::Accepting(id));
        status
    }

    /// Whether this attempt still holds the slot: a dial that was given up must not go on.
    pub(crate) fn holds(&self, peer: &NodeName, id: ConnectionId) -> bool {
        match self.slots.get(peer) {
            Some(Slot::Dialling(held) | Slot::Accepting(held) | Slot::Up(held, _)) => *held == id,
            None => false,
        }
    }

    /// An incoming connection that was told `alive` has proved its cookie: it takes the slot, and the old connection is
    /// given back to be closed.
    pub(crate) fn replace(&mut self, peer: &NodeName, id: ConnectionId) -> Option<P> {
        match self.slots.remove(peer) {
            Some(Slot::Up(_, old)) => {
                self.slots.insert(peer.clone(), Slot::Accepting(id));
                Some(old)
            }
            // The old one has ended by itself meanwhile.
            None => {
                self.slots.insert(peer.clone(), Slot::Accepting(id));
                None
            }
            Some(pending) => {
                self.slots.insert(peer.clone(), pending);
                None
            }
        }
    }

    /// The attempt succeeded. `Err` gives the connection back when somebody else has the slot by now.
    pub(crate) fn established(
        &mut self,
        peer: &NodeName,
        id: ConnectionId,
        connection: P,
    ) -> Result<(), P> {
        if self.holds(peer, id) {
            self.slots.insert(peer.clone(), Slot::Up(id, connection));
            Ok(())
        } else {
            Err(connection)
        }
    }

    /// The attempt failed or the connection ended; somebody else's slot is left alone.
    pub(crate) fn release(&mut self, peer: &NodeName, id: ConnectionId) {
        if self.holds(peer, id) {
            self.slots.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn a_free_slot_goes_to_the_first() {
        let mut slots = Slots::<()>::new(name("b@h"));
        assert_eq!(slots.incoming(&name("a@h"), 1), Status::Ok);
        assert!(!slots.dial(&name("a@h"), 2));
    }

    #[test]
    fn the_greater_name_keeps_its_own_dial() {
        let mut slots = Slots::<()>::new(name("b@h"));
        assert!(slots.dial(&name("a@h"), 1));
        assert_eq!(slots.incoming(&name("a@h"), 2), Status::Nok);
        assert!(slots.holds(&name("a@h"), 1));
    }

    #[test]
    fn the_lesser_name_gives_its_own_dial_up() {
        let mut slots = Slots::<()>::new(name("a@h"));
        assert!(slots.dial(&name("b@h"), 1));
        assert_eq!(slots.incoming(&name("b@h"), 2), Status::OkSimultaneous);
        assert!(!slots.holds(&name("b@h"), 1));
        assert!(slots.established(&name("b@h"), 1, ()).is_err());
        assert!(slots.established(&name("b@h"), 2, ()).is_ok());
    }

    #[test]
    fn a_connection_that_is_up_is_not_thrown_away_for_a_claim() {
        let mut slots = Slots::new(name("a@h"));
        assert!(slots.dial(&name("b@h"), 1));
        slots.established(&name("b@h"), 1, ()).unwrap();
        assert_eq!(slots.incoming(&name("b@h"), 2), Status::Alive);
        assert!(slots.holds(&name("b@h"), 1));
        assert!(slots.established(&name("b@h"), 2, ()).is_err());
        assert!(slots.replace(&name("b@h"), 2).is_some());
        assert!(slots.established(&name("b@h"), 2, ()).is_ok());
    }

    #[test]
    fn the_end_of_an_old_connection_leaves_the_new_one_alone() {
        let mut slots = Slots::new(name("a@h"));
        assert_eq!(slots.incoming(&name("b@h"), 2), Status::Ok);
        slots.established(&name("b@h"), 2, ()).unwrap();
        slots.release(&name("b@h"), 1);
        assert!(slots.holds(&name("b@h"), 2));
    }

    proptest! {
        /// Both nodes dial at once; the two claims arrive in any order relative to the dials.
        #[test]
        fn of_two_simultaneous_connects_exactly_one_survives(a in "[a-z]{1,3}", b in "[a-z]{1,3}", a_first: bool) {
            prop_assume!(a != b);
            let (a, b) = (name(&format!("{a}@h")), name(&format!("{b}@h")));
            let mut at_a = Slots::<u8>::new(a.clone());
            let mut at_b = Slots::<u8>::new(b.clone());
            prop_assert!(at_a.dial(&b, 1) && at_b.dial(&a, 1));
            let (said_by_a, said_by_b) = if a_first {
                let x = at_a.incoming(&b, 2);
                (x, at_b.incoming(&a, 2))
            } else {
                let x = at_b.incoming(&a, 2);
                (at_a.incoming(&b, 2), x)
            };
            // A dial goes on when it was not refused and still holds its own slot.
            let from_a = said_by_b != Status::Nok && at_a.holds(&b, 1);
            let from_b = said_by_a != Status::Nok && at_b.holds(&a, 1);
            prop_assert!(from_a != from_b);
        }
    }
}
