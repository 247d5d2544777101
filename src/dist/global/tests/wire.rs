//! What is on the wire, term by term, and what comes of a hostile one.

use super::super::{
    Effect, Global, Input, Me,
    terms::{Entry, Op, lockers_lock},
};
use super::net::{method, pid};
use crate::{
    dist::call::{atom, integer, list, nil, tuple},
    term::{self, Raw},
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const PEER: &str = "n1@h";

/// A machine, and what it did last.
struct One {
    global: Global,
    now: Instant,
    done: Vec<Effect>,
}

impl One {
    fn new() -> Self {
        let now = Instant::now();
        let me = Me {
            name: "n0@h".into(),
            locker: pid(0, 1, 4),
            registrar: pid(0, 2, 4),
            seed: 1,
        };
        let mut one = Self {
            global: Global::new(now, me),
            now,
            done: Vec::new(),
        };
        one.input(Input::PeerUp { peer: PEER.into() });
        one
    }

    fn input(&mut self, input: Input) {
        self.done.clear();
        self.global.handle(self.now, input, &mut self.done);
    }

    fn cast(&mut self, message: &Raw) {
        let message = tuple(&[&atom("$gen_cast"), message]);
        self.input(Input::Message {
            peer: PEER.into(),
            message,
        });
    }

    fn wait(&mut self, time: Duration) {
        self.done.clear();
        self.now += time;
        self.global.wake(self.now, &mut self.done);
    }

    fn casts(&self) -> Vec<String> {
        let text = |raw: &Raw| format!("{:?}", raw);
        (self.done.iter())
            .filter_map(|effect| match effect {
                Effect::Cast { message, .. } | Effect::Tell { message, .. } => Some(text(message)),
                _ => None,
            })
            .collect()
    }

    fn tag(&self) -> i64 {
        self.global.peers[PEER]
            .dialogue
            .as_ref()
            .map_or(0, |dialogue| dialogue.tag())
    }
}

fn init_connect(tag: i64) -> Raw {
    let map = Raw::encode(&term::map([]));
    let locker = tuple(&[
        &atom("locker"),
        &atom("no_longer_a_pid"),
        &map,
        &pid(1, 1, 4),
    ]);
    let version = tuple(&[&integer(8), &integer(tag)]);
    tuple(&[&atom("init_connect"), &version, &atom(PEER), &locker])
}

fn lock_set(set: &str, tag: i64) -> Raw {
    let (head, set) = (atom("lock_set"), atom(set));
    tuple(&[&head, &pid(1, 1, 4), &set, &nil(), &integer(tag)])
}

#[test]
fn the_terms_of_a_dialogue_are_those_of_otp() {
    let mut one = One::new();
    let tag = one.tag();
    let greeting =
        format!("{{init_connect,{{8,{tag}}},n0@h,{{locker,no_longer_a_pid,#{{}},<n0@h.1.0>}}}}");
    assert_eq!(one.casts(), [greeting]);
    one.cast(&init_connect(-7));
    assert_eq!(one.casts(), [format!("{{init_connect_ack,n0@h,-7,{tag}}}")]);
    one.cast(&lock_set("true", tag));
    let lock = "{global,[<n0@h.1.0>,<n1@h.1.0>]}";
    let exchange = "{exchange,n0@h,[],[],-7}";
    assert_eq!(one.casts(), ["{lock_set,<n0@h.1.0>,true,[],-7}", exchange]);
    let names = list(&[tuple(&[
        &atom("x"),
        &pid(1, 9, 4),
        &method("random_exit_name"),
    ])]);
    one.cast(&tuple(&[
        &atom("exchange"),
        &atom(PEER),
        &names,
        &nil(),
        &integer(tag),
    ]));
    assert_eq!(one.casts(), ["{resolved,n0@h,[],[],unused,[],-7}"]);
    let known = list(&[tuple(&[&atom("n2@h"), &integer(8)])]);
    let (head, unused) = (atom("resolved"), atom("unused"));
    let tag = integer(tag);
    one.cast(&tuple(&[
        &head,
        &atom(PEER),
        &nil(),
        &known,
        &unused,
        &nil(),
        &tag,
    ]));
    assert_eq!(
        one.global.known.keys().collect::<Vec<_>>(),
        ["n1@h", "n2@h"]
    );
    assert_eq!(one.global.names().count(), 1);
    assert!(one.global.is_lock_free());
    let new_nodes = super::super::terms::new_nodes(
        "n0@h",
        &[Op::Insert(Entry {
            name: atom("x"),
            pid: pid(1, 9, 4),
            method: atom("m"),
        })],
        &known,
        8,
        &lockers_lock(&pid(1, 1, 4), &pid(0, 1, 4)),
    );
    let text = format!("{new_nodes:?}");
    assert!(
        text.ends_with(&format!("[{{vsn,8}},{{lock,{lock}}}]}}")),
        "{text}"
    );
}

#[test]
fn a_peer_that_only_says_in_sync_is_left_alone() {
    let mut one = One::new();
    one.cast(&tuple(&[&atom("in_sync"), &atom(PEER), &atom("true")]));
    assert!(one.done.is_empty());
    assert_eq!(one.global.wake_at(), None);
}

#[test]
fn a_peer_that_locks_and_falls_silent_is_cancelled_and_then_disconnected() {
    let mut one = One::new();
    let mut ends = Vec::new();
    for round in 0..3 {
        one.cast(&init_connect(-7 - round));
        let tag = one.tag();
        one.cast(&lock_set("true", tag));
        assert!(one.global.is_global_locked());
        one.wait(Duration::from_secs(10));
        assert!(one.global.is_lock_free());
        ends.push(format!("{:?}", one.done));
    }
    assert!(ends[0].contains("{cancel_connect,n0@h,-7}"), "{}", ends[0]);
    assert!(ends[1].contains("{cancel_connect,n0@h,-8}"), "{}", ends[1]);
    assert!(ends[2].contains("Disconnect"), "{}", ends[2]);
}

#[test]
fn remove_connection_is_obeyed_and_lost_connection_of_others_leads_to_it() {
    let mut one = One::new();
    let message = tuple(&[&atom("remove_connection"), &atom(PEER)]);
    one.input(Input::Message {
        peer: PEER.into(),
        message,
    });
    assert!(
        matches!(&one.done[..], [Effect::Disconnect { .. }]),
        "{:?}",
        one.done
    );

    let mut one = One::new();
    one.cast(&init_connect(-7));
    let lost = [
        &atom("lost_connection"),
        &atom("n2@h"),
        &integer(1),
        &integer(1),
        &atom(PEER),
    ];
    let message = tuple(&lost);
    one.input(Input::Message {
        peer: PEER.into(),
        message: message.clone(),
    });
    assert_eq!(one.casts(), ["{remove_connection,n0@h}"]);
    one.input(Input::Message {
        peer: PEER.into(),
        message,
    });
    assert!(one.done.is_empty());
    one.wait(Duration::from_secs(5));
    assert!(
        matches!(&one.done[..], [Effect::Disconnect { .. }]),
        "{:?}",
        one.done
    );
}

#[test]
fn the_death_of_a_peer_is_told_to_nobody() {
    let mut net = super::cluster(3, 21);
    net.effects.clear();
    net.restart(2);
    net.run(Duration::from_secs(30));
    let told = format!("{:?}", net.effects);
    assert!(!told.contains("lost_connection"), "{told}");
}

/// Terms that resemble those of the protocol, with anything anywhere.
fn odd() -> impl Strategy<Value = Raw> {
    let words = [
        "init_connect",
        "init_connect_ack",
        "lock_set",
        "exchange",
        "resolved",
        "new_nodes",
        "in_sync",
        "cancel_connect",
        "lost_connection",
        "remove_connection",
        "set_lock",
        "del_lock",
        "register",
        "unregister",
        "$gen_call",
        "$gen_cast",
        "locker",
        "insert",
        "delete",
        "lock",
        "global",
        "n0@h",
        "n1@h",
        "n2@h",
        "true",
        "false",
        "get_known",
        "x",
    ];
    let leaf = prop_oneof![
        6 => proptest::sample::select(words.to_vec()).prop_map(atom),
        2 => (-9..9_i64).prop_map(integer),
        1 => any::<i64>().prop_map(integer),
        3 => (0..3_usize, 1..12_u32).prop_map(|(node, id)| pid(node, id, 4)),
        1 => Just(nil()),
        1 => Just(method("random_exit_name")),
    ];
    leaf.prop_recursive(4, 40, 7, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 0..7)
                .prop_map(|fields| tuple(&fields.iter().collect::<Vec<_>>())),
            1 => proptest::collection::vec(inner, 0..5).prop_map(|items| list(&items)),
        ]
    })
}

/// A good message with one of its parts, or one of theirs, made odd.
fn spoilt(tag: i64, which: u8, at: usize, with: Raw) -> Raw {
    let entry = tuple(&[&atom("x"), &pid(1, 9, 4), &method("random_exit_name")]);
    let insert = list(&[tuple(&[&atom("insert"), &entry])]);
    let id = tuple(&[&atom("global"), &pid(1, 3, 4)]);
    let from = tuple(&[&pid(1, 3, 4), &integer(1)]);
    let (me, tag, yes) = (atom(PEER), integer(tag), atom("true"));
    let known = list(&[tuple(&[&atom("n2@h"), &integer(8)])]);
    let cast = |mut fields: Vec<Raw>| {
        let at = at % (fields.len() + 1);
        if let Some(field) = fields.get_mut(at) {
            *field = with.clone();
        }
        tuple(&[
            &atom("$gen_cast"),
            &tuple(&fields.iter().collect::<Vec<_>>()),
        ])
    };
    match which % 8 {
        0 => tuple(&[&atom("$gen_cast"), &init_connect(-7)]),
        1 => cast(vec![atom("lock_set"), pid(1, 1, 4), yes, nil(), tag]),
        2 => cast(vec![atom("exchange"), me, list(&[entry]), nil(), tag]),
        3 => cast(vec![
            atom("resolved"),
            me,
            insert,
            known,
            atom("unused"),
            nil(),
            tag,
        ]),
        4 => cast(vec![
            atom("new_nodes"),
            me,
            insert,
            nil(),
            known,
            list(std::slice::from_ref(&with)),
        ]),
        5 => tuple(&[&atom("$gen_call"), &from, &tuple(&[&atom("set_lock"), &id])]),
        6 => tuple(&[&atom("cancel_connect"), &me, &tag]),
        _ => with.clone(),
    }
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_or_hold_a_lock_beyond_the_peer(
        messages in proptest::collection::vec((any::<u8>(), 0..8_usize, odd(), 0..4000_u64), 0..60),
    ) {
        let mut one = One::new();
        for (which, at, with, millis) in messages {
            let message = spoilt(one.tag(), which, at, with);
            one.input(Input::Message { peer: PEER.into(), message });
            one.wait(Duration::from_millis(millis));
        }
        one.input(Input::PeerDown { peer: PEER.into() });
        for _ in 0..200 {
            let Some(at) = one.global.wake_at() else { break };
            one.now = one.now.max(at);
            one.wait(Duration::ZERO);
        }
        prop_assert!(one.global.is_lock_free());
        prop_assert_eq!(one.global.wake_at(), None);
        prop_assert!(one.global.names().all(|entry| entry.pid.view().node().is_some_and(|n| n == "n0@h")));
    }
}
