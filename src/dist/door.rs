//! Who may be in a handshake, and what is said of those who may not. Pure.
//!
//! Whoever reaches the port can hold a place here, without any secret, for as long as a handshake may take. So nobody
//! waits for a place: a newcomer always gets one, and when there is none left it is the one of somebody else.
//!
//! ```text
//!  newcomer's address has PER_ADDRESS already ──► the oldest of that address leaves
//!  all PLACES are taken ────────────────────────► the oldest of the address that would hold the most leaves;
//!                                                 the newcomer's own one goes first among equals
//! ```
//!
//! An honest handshake takes milliseconds, so that the oldest is the one that is least likely to be honest. A stranger who
//! comes fast enough from one address crowds out that address alone; who comes from many is one of many.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// So many connections may be in their handshake at a time.
pub(crate) const PLACES: usize = 256;

/// So many of one address. Half of all: a cluster that starts on one host comes from one address, and no single address
/// may ever hold up the others.
pub(crate) const PER_ADDRESS: usize = PLACES / 2;

/// How long what was said of an address counts.
const INTERVAL: Duration = Duration::from_secs(60);

/// The most addresses of which it is remembered what was said; the others are taken for one.
const MOST_REMEMBERED: usize = 1024;

/// What counts as one address: whoever has one of IPv6 has the 2^64 around it.
pub(crate) fn address(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// The places, and who holds them: the oldest first. Connections are known by numbers that grow.
#[derive(Default)]
pub(crate) struct Door {
    inside: HashMap<IpAddr, VecDeque<u64>>,
    taken: usize,
}

impl Door {
    /// Lets a connection in. What is returned is the one that must leave for it.
    pub(crate) fn enter(&mut self, from: IpAddr, id: u64) -> Option<u64> {
        let from = address(from);
        let held = self.inside.get(&from).map_or(0, VecDeque::len);
        let from_whom = if held >= PER_ADDRESS {
            Some(from)
        } else if self.taken >= PLACES {
            self.largest(from, held + 1)
        } else {
            None
        };
        let leaves = from_whom.and_then(|address| self.take_oldest(address));
        self.inside.entry(from).or_default().push_back(id);
        self.taken += 1;
        leaves
    }

    /// A connection is done with its handshake, or has been told to leave.
    pub(crate) fn leave(&mut self, from: IpAddr, id: u64) {
        let from = address(from);
        let Some(held) = self.inside.get_mut(&from) else {
            return;
        };
        let before = held.len();
        held.retain(|inside| *inside != id);
        self.taken -= before - held.len();
        if held.is_empty() {
            self.inside.remove(&from);
        }
    }

    /// The address that holds the most, when `newcomer` is counted with the place that it is to get.
    fn largest(&self, newcomer: IpAddr, with_it: usize) -> Option<IpAddr> {
        let others = self
            .inside
            .iter()
            .filter(|(address, _)| **address != newcomer);
        // Among equals the one that has held its oldest place for longest.
        let largest = others.max_by_key(|(_, held)| (held.len(), std::cmp::Reverse(held.front())));
        match largest {
            Some((address, held)) if held.len() > with_it || with_it == 1 => Some(*address),
            _ => Some(newcomer),
        }
    }

    fn take_oldest(&mut self, address: IpAddr) -> Option<u64> {
        let held = self.inside.get_mut(&address)?;
        let oldest = held.pop_front()?;
        self.taken -= 1;
        if held.is_empty() {
            self.inside.remove(&address);
        }
        Some(oldest)
    }
}

/// Which lines of a kind are written, so that nobody outside can fill a log: a few of one address, then none until the
/// interval is over, and the next one says how many were left out.
pub(crate) struct Complaints {
    at_once: u64,
    said: HashMap<IpAddr, Said>,
}

struct Said {
    since: Instant,
    lines: u64,
    left_out: u64,
}

impl Complaints {
    /// `at_once`: so many lines of one address in an interval.
    pub(crate) fn new(at_once: u64) -> Self {
        Self {
            at_once,
            said: HashMap::new(),
        }
    }

    /// Whether there is to be a line of this address; if so, how many were left out before it.
    pub(crate) fn of(&mut self, from: IpAddr, now: Instant) -> Option<u64> {
        let over = |said: &Said| now.saturating_duration_since(said.since) >= INTERVAL;
        let mut key = address(from);
        if self.said.len() >= MOST_REMEMBERED && !self.said.contains_key(&key) {
            self.said.retain(|_, said| !over(said));
            if self.said.len() >= MOST_REMEMBERED {
                key = Ipv6Addr::UNSPECIFIED.into();
            }
        }
        let said = self.said.entry(key).or_insert(Said {
            since: now,
            lines: 0,
            left_out: 0,
        });
        if over(said) {
            said.since = now;
            said.lines = 0;
        }
        if said.lines >= self.at_once {
            said.left_out += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// A door with whoever is inside, as a list.
    fn held(door: &Door, from: IpAddr) -> Vec<u64> {
        let held = door.inside.get(&address(from));
        held.into_iter().flatten().copied().collect()
    }

    #[test]
    fn a_newcomer_from_another_address_takes_the_place_of_who_holds_the_most() {
        let mut door = Door::default();
        for id in 0..PER_ADDRESS as u64 {
            assert_eq!(door.enter(ip(1), id), None);
            assert_eq!(door.enter(ip(2), 1000 + id), None);
        }
        assert_eq!(
            door.enter(ip(3), 5000),
            Some(0),
            "the oldest of the largest"
        );
        assert_eq!(door.enter(ip(3), 5001), Some(1000));
    }

    #[test]
    fn one_address_crowds_out_nobody_but_itself() {
        let mut door = Door::default();
        assert_eq!(door.enter(ip(1), 0), None);
        for id in 1..=PER_ADDRESS as u64 {
            assert_eq!(door.enter(ip(2), id), None);
        }
        for id in PER_ADDRESS as u64 + 1..10_000 {
            assert_eq!(door.enter(ip(2), id), Some(id - PER_ADDRESS as u64));
        }
        assert_eq!(held(&door, ip(1)), [0]);
    }

    #[test]
    fn strangers_from_as_many_addresses_as_there_are_places_lose_the_oldest() {
        let mut door = Door::default();
        for n in 0..PLACES as u64 {
            let from = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            assert_eq!(door.enter(from, n), None);
        }
        assert_eq!(door.enter(ip(1), 1000), Some(0));
        assert_eq!(door.enter(ip(1), 1001), Some(1000), "two are more than one");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_a_mapped_one_as_what_it_is() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            address(parse("2001:db8:1:2:3:4:5:6")),
            address(parse("2001:db8:1:2::1"))
        );
        assert_ne!(
            address(parse("2001:db8:1:2::1")),
            address(parse("2001:db8:1:3::1"))
        );
        assert_eq!(address(parse("::ffff:10.0.0.1")), parse("10.0.0.1"));
    }

    #[test]
    fn an_address_is_told_of_a_few_times_and_then_how_often() {
        let start = Instant::now();
        let mut complaints = Complaints::new(2);
        assert_eq!(complaints.of(ip(1), start), Some(0));
        assert_eq!(complaints.of(ip(1), start), Some(0));
        for _ in 0..7 {
            assert_eq!(complaints.of(ip(1), start), None);
        }
        assert_eq!(complaints.of(ip(2), start), Some(0));
        assert_eq!(complaints.of(ip(1), start + INTERVAL), Some(7));
        assert_eq!(complaints.of(ip(1), start + INTERVAL), Some(0));
    }

    #[test]
    fn what_is_remembered_of_addresses_is_bounded() {
        let start = Instant::now();
        let mut complaints = Complaints::new(1);
        let mut lines = 0;
        for n in 0..100_000_u32 {
            let from = IpAddr::from((10 << 24 | n).to_be_bytes());
            lines += usize::from(complaints.of(from, start).is_some());
        }
        assert_eq!(lines, MOST_REMEMBERED + 1);
        assert!(complaints.said.len() <= MOST_REMEMBERED + 1);
        let another = [192, 0, 2, 1].into();
        assert_eq!(complaints.of(another, start + INTERVAL), Some(0));
        assert_eq!(complaints.said.len(), 1, "what is over is forgotten");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Connections come from a few addresses in any order, and some end.
        #[test]
        fn the_places_are_never_exceeded_and_always_shared(steps in vec((0_u8..6, 0_u8..8), 300..1000)) {
            let mut door = Door::default();
            let mut inside: Vec<(IpAddr, u64)> = Vec::new();
            for (id, (last, act)) in steps.into_iter().enumerate() {
                let (from, id) = (ip(last), id as u64);
                if act == 0 {
                    if let Some(at) = inside.iter().position(|(held, _)| *held == from) {
                        let (_, gone) = inside.remove(at);
                        door.leave(from, gone);
                    }
                    continue;
                }
                let count = |inside: &[(IpAddr, u64)], whom| inside.iter().filter(|(held, _)| *held == whom).count();
                let own = count(&inside, from);
                let leaves = door.enter(from, id);
                if let Some(gone) = leaves {
                    let at = inside.iter().position(|(_, held)| *held == gone).expect("it was inside");
                    let (loser, _) = inside.remove(at);
                    prop_assert!(inside[..at].iter().all(|(held, _)| *held != loser), "the oldest of its address");
                    if loser != from {
                        prop_assert_eq!(inside.len() + 1, PLACES, "only for want of a place");
                        // Nobody loses a place to one who then holds more.
                        prop_assert!(count(&inside, loser) >= own || own == 0);
                    }
                }
                inside.push((from, id));
                prop_assert!(inside.len() <= PLACES);
                prop_assert!(count(&inside, from) <= PER_ADDRESS);
                prop_assert_eq!(door.taken, inside.len());
                prop_assert!(held(&door, from).contains(&id), "a newcomer is always let in");
            }
        }

        #[test]
        fn leaving_twice_or_without_having_been_inside_changes_nothing(ids in vec(0_u64..50, 1..200)) {
            let mut door = Door::default();
            for id in 0..50 {
                door.enter(ip(id as u8 % 5), id);
            }
            let mut left = std::collections::HashSet::new();
            for id in ids {
                door.leave(ip(id as u8 % 5), id);
                door.leave(ip(77), id);
                left.insert(id);
                prop_assert_eq!(door.taken, 50 - left.len());
            }
        }
    }
}
