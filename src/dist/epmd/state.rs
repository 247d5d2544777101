//! What an epmd knows: which names are taken, by which connections, and the creations of those that were. Pure.
//!
//! [`Table::answer`] is the whole of epmd but its sockets.
//!
//! Our own node is the first entry and stays: an epmd inside a node lives as long as that node does. So KILL, which is
//! refused while nodes are alive, is always refused, and STOP, which takes a relaxed epmd, as well.
//!
//! A node that comes back under its name must get another creation than it had. So names that were given up are
//! remembered with theirs, the last thousand of them; a new name begins anywhere.

use super::protocol::{self, Request};
use erl_dist::epmd::NodeEntry;
use std::collections::VecDeque;

/// So many nodes can be registered; whoever comes then finds the connection closed, as when OTP's has no more sockets.
pub(crate) const MAX_NAMES: usize = 512;

/// So many names that were given up are remembered, as by OTP's; the oldest are forgotten.
const MAX_OLD: usize = 1000;

/// Creations of 0 to 3 are those of old nodes.
const FIRST_CREATION: u32 = 4;

/// The connection of our own node, which has none.
const OURS: u64 = 0;

/// What becomes of a connection that has asked something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is closed without a word.
    Close,
    /// It is told this and closed.
    Reply(Vec<u8>),
    /// It is told this, and holds a name until it closes.
    Keep(Vec<u8>),
}

/// The names.
pub(crate) struct Table {
    port: u16,
    /// The newest last; lists show it first.
    live: Vec<Live>,
    /// Longest unused first.
    old: VecDeque<Old>,
    /// Where the creations of the next new name begin.
    fresh: u32,
}

struct Live {
    connection: u64,
    creation: u32,
    entry: NodeEntry,
}

struct Old {
    connection: u64,
    creation: u32,
    name: String,
    port: u16,
}

impl Table {
    /// The table of an epmd at this port, inside of this node. `fresh`: any number, another one in each life.
    pub(crate) fn new(port: u16, own: NodeEntry, fresh: u32) -> Self {
        let mut table = Self {
            port,
            live: Vec::new(),
            old: VecDeque::new(),
            fresh,
        };
        table.register(OURS, own);
        table
    }

    /// Answers a request, which is all bytes behind its length field. Connections are numbered from 1, each asks once.
    pub(crate) fn answer(
        &mut self,
        connection: u64,
        request: &[u8],
        peer_is_local: bool,
    ) -> Answer {
        let Some(request) = Request::parse(request) else {
            return Answer::Close;
        };
        match request {
            Request::LookUp(name) => Answer::Reply(protocol::found(self.find(name))),
            Request::Names => Answer::Reply(self.names()),
            // The rest is for this host alone.
            _ if !peer_is_local => Answer::Close,
            Request::Unregistrable { highest_version } => {
                Answer::Reply(protocol::refused(highest_version))
            }
            Request::Register(entry) => self.requested(connection, entry),
            Request::Dump => Answer::Reply(self.dump()),
            Request::Kill => Answer::Reply(protocol::not_killed()),
        }
    }

    /// A connection has ended: if it held a name, that is free.
    pub(crate) fn closed(&mut self, connection: u64) {
        let Some(at) = self
            .live
            .iter()
            .position(|live| live.connection == connection && connection != OURS)
        else {
            return;
        };
        let live = self.live.remove(at);
        if self.old.len() == MAX_OLD {
            self.old.pop_front();
        }
        self.old.push_back(Old {
            connection,
            creation: live.creation,
            name: live.entry.name,
            port: live.entry.port,
        });
    }

    /// The names of the other nodes, the oldest first.
    pub(crate) fn others(&self) -> impl Iterator<Item = &str> {
        let others = self.live.iter().filter(|live| live.connection != OURS);
        others.map(|live| live.entry.name.as_str())
    }

    fn requested(&mut self, connection: u64, entry: NodeEntry) -> Answer {
        let highest_version = entry.highest_version;
        if self.find(&entry.name).is_some() {
            // OTP's leaves this connection open, though it holds nothing; nobody has a use for that.
            return Answer::Reply(protocol::refused(highest_version));
        }
        if self.live.len() >= MAX_NAMES {
            return Answer::Close;
        }
        let creation = self.register(connection, entry);
        Answer::Keep(protocol::registered(highest_version, creation))
    }

    fn register(&mut self, connection: u64, entry: NodeEntry) -> u32 {
        let earlier = self.old.iter().position(|old| old.name == entry.name);
        let last = match earlier.and_then(|at| self.old.remove(at)) {
            Some(old) => old.creation,
            None => {
                // An odd step through all numbers, so that no two names begin close to each other.
                self.fresh = self.fresh.wrapping_add(0x9e37_79b9);
                self.fresh
            }
        };
        let creation = last.wrapping_add(1).max(FIRST_CREATION);
        self.live.push(Live {
            connection,
            creation,
            entry,
        });
        creation
    }

    fn find(&self, name: &str) -> Option<&NodeEntry> {
        let mut entries = self.live.iter().map(|live| &live.entry);
        entries.find(|entry| entry.name == name)
    }

    fn names(&self) -> Vec<u8> {
        let mut list = protocol::list(self.port);
        for Live { entry, .. } in self.live.iter().rev() {
            list.extend(protocol::name_line(&entry.name, entry.port).into_bytes());
        }
        list
    }

    fn dump(&self) -> Vec<u8> {
        let mut list = protocol::list(self.port);
        for live in self.live.iter().rev() {
            let NodeEntry { name, port, .. } = &live.entry;
            list.extend(protocol::live_line(name, *port, live.connection).into_bytes());
        }
        for old in &self.old {
            list.extend(protocol::old_line(&old.name, old.port, old.connection).into_bytes());
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn table() -> Table {
        Table::new(4369, NodeEntry::new("own", 9000), 7)
    }

    fn registration(name: &str, port: u16, highest_version: u16) -> Vec<u8> {
        let mut bytes = vec![120];
        bytes.extend(port.to_be_bytes());
        bytes.extend([77, 0]);
        bytes.extend(highest_version.to_be_bytes());
        bytes.extend(5_u16.to_be_bytes());
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([0, 2, 1, 2]);
        bytes
    }

    fn creation(answer: Answer) -> u32 {
        let Answer::Keep(bytes) = answer else {
            panic!("not registered: {answer:?}");
        };
        match bytes[..] {
            [118, 0, a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            [121, 0, a, b] => u16::from_be_bytes([a, b]).into(),
            _ => panic!("{bytes:?}"),
        }
    }

    fn text(answer: Answer) -> String {
        let Answer::Reply(bytes) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(bytes[..4], [0, 0, 17, 17]);
        String::from_utf8(bytes[4..].to_vec()).unwrap()
    }

    #[test]
    fn the_newest_name_is_listed_first_and_the_own_one_with_them() {
        let mut table = table();
        creation(table.answer(1, &registration("a", 1, 6), true));
        creation(table.answer(2, &registration("b", 2, 6), true));
        let names = "name b at port 2\nname a at port 1\nname own at port 9000\n";
        assert_eq!(text(table.answer(3, b"n", false)), names);
        table.closed(1);
        assert_eq!(
            text(table.answer(4, b"d", true)),
            "active name     <b> at port 2, fd = 2\n\0active name     <own> at port 9000, fd = 0\n\0\
             old/unused name <a>, port = 1, fd = 1 \n\0"
        );
        assert_eq!(table.others().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_node_is_found_with_all_that_it_registered() {
        let mut table = table();
        creation(table.answer(1, &registration("a", 258, 6), true));
        let found = [&[119, 0, 1, 2, 77, 0, 0, 6, 0, 5, 0, 1, b'a', 0, 2, 1, 2][..]].concat();
        assert_eq!(table.answer(2, b"za", false), Answer::Reply(found));
        assert_eq!(table.answer(3, b"zb", false), Answer::Reply(vec![119, 1]));
    }

    #[test]
    fn only_this_host_may_register_dump_or_kill() {
        let mut table = table();
        for request in [&registration("a", 1, 6)[..], b"d", b"k"] {
            assert_eq!(table.answer(1, request, false), Answer::Close);
        }
        assert_eq!(table.answer(1, b"k", true), Answer::Reply(b"NO".to_vec()));
        assert_eq!(table.answer(1, b"sown\0", true), Answer::Close);
        assert_eq!(table.others().count(), 0);
    }

    #[test]
    fn a_name_has_one_node_and_ours_is_never_given_up() {
        let mut table = table();
        table.closed(OURS);
        for taken in ["own", "a"] {
            let _ = table.answer(1, &registration("a", 1, 6), true);
            let refused = Answer::Reply(vec![118, 1, 0, 0, 0, 99]);
            assert_eq!(table.answer(2, &registration(taken, 1, 6), true), refused);
            // Nor does the end of the one who was refused take it from the one who has it.
            table.closed(2);
        }
        let refused = Answer::Reply(vec![121, 1, 0, 99]);
        assert_eq!(table.answer(3, &registration("a", 1, 5), true), refused);
    }

    #[test]
    fn the_table_is_bounded_and_a_place_becomes_free_again() {
        let mut table = table();
        for number in 1..MAX_NAMES as u64 {
            creation(table.answer(number, &registration(&format!("n{number}"), 1, 6), true));
        }
        let one_more = registration("one_more", 1, 6);
        assert_eq!(table.answer(9999, &one_more, true), Answer::Close);
        table.closed(5);
        creation(table.answer(9999, &one_more, true));
        for number in 10_000..13_000 {
            table.closed(number - 1);
            creation(table.answer(number, &registration(&format!("m{number}"), 1, 6), true));
        }
        assert_eq!((table.live.len(), table.old.len()), (MAX_NAMES, MAX_OLD));
    }

    #[test]
    fn creations_skip_those_of_old_nodes_when_they_begin_again() {
        let fresh = u32::MAX.wrapping_sub(0x9e37_79b9).wrapping_sub(0x9e37_79b9);
        let mut table = Table::new(4369, NodeEntry::new("own", 1), fresh);
        assert_eq!(creation(table.answer(1, &registration("a", 1, 6), true)), 4);
        table.closed(1);
        assert_eq!(creation(table.answer(2, &registration("a", 1, 6), true)), 5);
    }

    proptest! {
        /// Nodes come and go; each life of a name has another creation than the one before, of the kind that it can
        /// read, and who is registered is what a plain map says.
        #[test]
        fn each_life_of_a_name_has_another_creation(
            fresh in any::<u32>(),
            steps in prop::collection::vec((0..8_u16, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut table = Table::new(4369, NodeEntry::new("own", 1), fresh);
            let mut live = HashMap::new();
            let mut last = HashMap::new();
            for (connection, (node, arrives, wide)) in (1..).zip(steps) {
                let (name, version) = (format!("n{node}"), if wide { 6 } else { 5 });
                if arrives {
                    let answer = table.answer(connection, &registration(&name, node, version), true);
                    if live.contains_key(&node) {
                        prop_assert!(matches!(answer, Answer::Reply(_)));
                        continue;
                    }
                    let creation = creation(answer);
                    let kind = if wide { 4..=u32::MAX } else { 1..=3 };
                    prop_assert!(kind.contains(&creation));
                    prop_assert_ne!(last.insert((node, wide), (creation, connection)).map(|(c, _)| c), Some(creation));
                    // Of two kinds of creation only the last one counts.
                    last.remove(&(node, !wide));
                    live.insert(node, connection);
                } else if let Some(connection) = live.remove(&node) {
                    table.closed(connection);
                }
                let found = table.answer(0, format!("z{name}").as_bytes(), false);
                prop_assert_eq!(found != Answer::Reply(vec![119, 1]), live.contains_key(&node));
                prop_assert_eq!(table.others().count(), live.len());
            }
        }

        #[test]
        fn any_bytes_are_answered_within_bounds(
            requests in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..60),
            tag in prop::sample::select(&[120_u8, 122, 110, 100, 107, 115][..]),
        ) {
            let mut table = table();
            for (connection, (local, mut request)) in (1..).zip(requests) {
                if let Some(first) = request.first_mut() {
                    *first = tag;
                }
                match table.answer(connection, &request, local) {
                    Answer::Close => {}
                    Answer::Keep(bytes) => prop_assert!(local && bytes.len() <= 6),
                    Answer::Reply(bytes) => prop_assert!(bytes.len() <= 4 + 61 * 2100),
                }
            }
        }
    }
}
