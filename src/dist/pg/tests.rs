mod network;

use super::*;
use crate::dist::NodeName;
use crate::term::{Raw, Term, atom, int, list, map, parse, tuple, write::put_pid};
use bytes::BytesMut;
use proptest::prelude::*;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn pid(node: &str, id: u32) -> Raw {
    let mut out = BytesMut::new();
    put_pid(&mut out, node, id, 0, 7);
    Raw::own(out)
}

fn us(id: u32) -> Raw {
    pid("us@h", id)
}

fn it(id: u32) -> Raw {
    pid("it@h", id)
}

fn term(raw: &Raw) -> Term {
    raw.decode().unwrap()
}

fn scope() -> Scope {
    Scope::new(node("us@h"), us(1), Limits::default())
}

fn a(name: &str) -> Raw {
    Raw::encode(&atom(name))
}

fn pids(pids: &[&Raw]) -> Term {
    list(pids.iter().map(|pid| term(pid)).collect::<Vec<_>>())
}

/// A message from the scope process of `it@h`.
fn say(fields: impl Into<Vec<Term>>) -> Input {
    let message = Raw::encode(&tuple(fields));
    Input::Message {
        from: node("it@h"),
        message,
    }
}

fn cast(fields: impl Into<Vec<Term>>) -> Input {
    say([atom("$gen_cast"), tuple(fields)])
}

fn told(scope: &mut Scope, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    scope.handle(input, &mut effects);
    effects
}

fn joined(scope: &mut Scope, groups: &[Raw], pids: &[Raw]) -> Vec<Effect> {
    let mut effects = Vec::new();
    scope.join(groups, pids, &mut effects).unwrap();
    effects
}

fn left(scope: &mut Scope, groups: &[Raw], pids: &[Raw]) -> (bool, Vec<Effect>) {
    let mut effects = Vec::new();
    (scope.leave(groups, pids, &mut effects).unwrap(), effects)
}

/// What is sent to the scope process of `it@h`.
fn sent(effects: &[Effect]) -> Vec<Term> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { node, to, message } => {
            assert_eq!((node.as_str(), to), ("it@h", &it(1)));
            Some(term(message))
        }
        _ => None,
    });
    sent.collect()
}

fn delivered(effects: &[Effect]) -> Vec<(Raw, Term)> {
    let delivered = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver { to, message } => Some((to.clone(), term(message))),
        _ => None,
    });
    delivered.collect()
}

#[test]
fn a_peer_of_otp_25_and_27_is_met_in_their_words() {
    let mut scope = scope();
    joined(&mut scope, &[a("g")], &[us(5), us(5)]);
    let up = told(&mut scope, Input::PeerUp(node("it@h")));
    let [Effect::SendName { node: to, message }] = &up[..] else {
        panic!("{up:?}");
    };
    assert_eq!(to.as_str(), "it@h");
    assert_eq!(term(message), tuple([atom("discover"), term(&us(1))]));
    let groups = list([tuple([atom("g"), pids(&[&it(7)])])]);
    let effects = told(&mut scope, cast([atom("sync"), term(&it(1)), groups]));
    assert_eq!(effects, [Effect::Monitor(it(1))]);
    assert_eq!(scope.members(&a("g")).len(), 3);
    // A change before it has all our members would crash it, or be for nothing.
    assert_eq!(sent(&joined(&mut scope, &[a("h")], &[us(6)])), []);
    let effects = told(&mut scope, say([atom("discover"), term(&it(1))]));
    let [all] = &sent(&effects)[..] else {
        panic!("{effects:?}");
    };
    let groups = |names: [&str; 2]| {
        let entry = |name| match name {
            "g" => tuple([atom("g"), pids(&[&us(5), &us(5)])]),
            _ => tuple([atom("h"), pids(&[&us(6)])]),
        };
        let all = tuple([atom("sync"), term(&us(1)), list(names.map(entry))]);
        tuple([atom("$gen_cast"), all])
    };
    assert!(
        [groups(["g", "h"]), groups(["h", "g"])].contains(all),
        "{all}"
    );
    assert_eq!(
        sent(&joined(&mut scope, &[a("g")], &[us(6), us(8)])),
        [tuple([
            atom("join"),
            term(&us(1)),
            atom("g"),
            pids(&[&us(6), &us(8)])
        ])]
    );
    assert_eq!(
        sent(&left(&mut scope, &[a("g")], &[us(8), us(9)]).1),
        [tuple([
            atom("leave"),
            term(&us(1)),
            pids(&[&us(8)]),
            list([atom("g")])
        ])]
    );
    // One message for the end of a process, and each group as often as it was joined.
    let groups = list([atom("g"), atom("g")]);
    assert_eq!(
        sent(&told(&mut scope, Input::LocalEnded(us(5)))),
        [tuple([
            atom("leave"),
            term(&us(1)),
            pids(&[&us(5)]),
            groups
        ])]
    );
}

#[test]
fn who_discovers_us_is_monitored_and_discovered_once() {
    let mut scope = scope();
    let discover = || say([atom("discover"), term(&it(1))]);
    let all = tuple([atom("sync"), term(&us(1)), list([])]);
    let all = tuple([atom("$gen_cast"), all]);
    let effects = told(&mut scope, discover());
    assert_eq!(effects[0], Effect::Monitor(it(1)));
    let back = tuple([atom("discover"), term(&us(1))]);
    assert_eq!(sent(&effects), [all.clone(), back]);
    assert_eq!(sent(&told(&mut scope, discover())), [all]);
}

#[test]
fn a_peer_of_otp_29_is_answered_in_its_version() {
    let mut scope = scope();
    joined(&mut scope, &[a("g")], &[us(5)]);
    let effects = told(&mut scope, say([atom("discover"), term(&it(1)), int(1)]));
    let groups = map([(atom("g"), pids(&[&us(5)]))]);
    let all = tuple([atom("local_data"), term(&us(1)), int(1), groups]);
    assert_eq!(
        sent(&effects),
        [
            tuple([atom("$gen_cast"), all]),
            tuple([atom("discover"), term(&us(1)), int(1)])
        ]
    );
    let groups = map([
        (atom("g"), pids(&[&it(7), &it(7)])),
        (atom("h"), pids(&[&it(8)])),
    ]);
    told(
        &mut scope,
        cast([atom("local_data"), term(&it(1)), int(1), groups]),
    );
    assert_eq!(scope.members(&a("g")).len(), 3);
    let update = list([
        tuple([atom("g"), list([]), pids(&[&it(7)])]),
        tuple([atom("h"), pids(&[&it(9)]), pids(&[&it(8)])]),
    ]);
    told(&mut scope, say([atom("update"), term(&it(1)), update]));
    assert_eq!(scope.members(&a("g")).len(), 2);
    assert_eq!(scope.members(&a("h")), [it(9)]);
    let change = |add, remove| {
        let change = list([tuple([atom("g"), add, remove])]);
        vec![tuple([atom("update"), term(&us(1)), change])]
    };
    let effects = joined(&mut scope, &[a("g")], &[us(6)]);
    assert_eq!(sent(&effects), change(pids(&[&us(6)]), list([])));
    let effects = told(&mut scope, Input::LocalEnded(us(6)));
    assert_eq!(sent(&effects), change(list([]), pids(&[&us(6)])));
    // The old forms are still understood: it uses them until it has heard our version.
    told(
        &mut scope,
        say([atom("join"), term(&it(1)), atom("h"), term(&it(3))]),
    );
    assert_eq!(scope.members(&a("h")).len(), 2);
}

#[test]
fn who_joined_twice_has_to_leave_twice() {
    let mut scope = scope();
    let effects = joined(&mut scope, &[a("g")], &[us(5)]);
    assert_eq!(effects, [Effect::Watch(us(5))]);
    assert_eq!(joined(&mut scope, &[a("g")], &[us(5)]), []);
    assert_eq!(left(&mut scope, &[a("g")], &[us(5)]), (true, vec![]));
    assert_eq!(scope.local_members(&a("g")), [us(5)]);
    let unwatched = vec![Effect::Unwatch(us(5))];
    assert_eq!(left(&mut scope, &[a("g")], &[us(5)]), (true, unwatched));
    assert_eq!(left(&mut scope, &[a("g")], &[us(5)]), (false, vec![]));
    assert!(scope.is_empty());
}

#[test]
fn only_processes_of_ours_join_here() {
    let mut scope = scope();
    let mut effects = Vec::new();
    let refused = scope.join(&[a("g")], &[us(5), it(5)], &mut effects);
    assert_eq!(refused, Err(Refused::NotLocal(it(5))));
    assert!(scope.join(&[a("g")], &[a("no_pid")], &mut effects).is_err());
    assert!(effects.is_empty() && scope.is_empty());
}

#[test]
fn monitors_hear_of_their_group_or_of_all() {
    let mut scope = scope();
    let mut effects = Vec::new();
    joined(&mut scope, &[a("g")], &[us(5)]);
    let (one, all) = (Raw::encode(&int(1)), Raw::encode(&int(2)));
    let now = scope.monitor(&us(6), one.clone(), &a("g"), &mut effects);
    assert_eq!(now, Ok(vec![us(5)]));
    let now = scope.monitor_scope(&us(7), all.clone(), &mut effects);
    assert_eq!(now, Ok(vec![(a("g"), vec![us(5)])]));
    assert_eq!(effects, [Effect::Watch(us(6)), Effect::Watch(us(7))]);
    told(&mut scope, say([atom("discover"), term(&it(1))]));
    let notice =
        |r: i64, what: &str, group: &str| tuple([int(r), atom(what), atom(group), pids(&[&it(9)])]);
    let join = |group: &str| say([atom("join"), term(&it(1)), atom(group), term(&it(9))]);
    assert_eq!(
        delivered(&told(&mut scope, join("g"))),
        [
            (us(7), notice(2, "join", "g")),
            (us(6), notice(1, "join", "g"))
        ]
    );
    assert_eq!(
        delivered(&told(&mut scope, join("h"))),
        [(us(7), notice(2, "join", "h"))]
    );
    let mut effects = Vec::new();
    assert!(scope.demonitor(&all, &mut effects));
    assert!(!scope.demonitor(&all, &mut effects));
    assert_eq!(effects, [Effect::Unwatch(us(7))]);
    let down = told(&mut scope, Input::ScopeDown(it(1)));
    assert_eq!(delivered(&down), [(us(6), notice(1, "leave", "g"))]);
    assert_eq!(told(&mut scope, Input::LocalEnded(us(6))), []);
    assert_eq!(told(&mut scope, Input::LocalEnded(us(5))), []);
    assert!(scope.is_empty());
}

#[test]
fn a_sync_replaces_and_tells_the_difference() {
    let mut scope = scope();
    let mut effects = Vec::new();
    let reference = Raw::encode(&int(1));
    scope
        .monitor(&us(6), reference, &a("g"), &mut effects)
        .unwrap();
    let mut sync = |members: &[&Raw]| {
        let groups = list([tuple([atom("g"), pids(members)])]);
        delivered(&told(
            &mut scope,
            cast([atom("sync"), term(&it(1)), groups]),
        ))
    };
    let notice = |what: &str, pid| {
        (
            us(6),
            tuple([int(1), atom(what), atom("g"), pids(&[&it(pid)])]),
        )
    };
    assert_eq!(sync(&[&it(5)]), [notice("join", 5)]);
    assert_eq!(sync(&[&it(5)]), []);
    assert_eq!(sync(&[&it(6)]), [notice("leave", 5), notice("join", 6)]);
    assert_eq!(sync(&[]), [notice("leave", 6)]);
}

#[test]
fn another_scope_process_takes_the_place_of_the_one_before() {
    let mut scope = scope();
    let groups = list([tuple([atom("g"), pids(&[&it(5)])])]);
    told(&mut scope, cast([atom("sync"), term(&it(1)), groups]));
    let effects = told(&mut scope, say([atom("discover"), term(&it(2))]));
    assert_eq!(
        effects[..2],
        [Effect::Demonitor(it(1)), Effect::Monitor(it(2))]
    );
    assert!(scope.members(&a("g")).is_empty());
    told(&mut scope, Input::ScopeDown(it(1)));
    assert_eq!(scope.peers().count(), 1);
    told(&mut scope, Input::PeerDown(node("it@h")));
    assert!(scope.is_empty());
}

#[test]
fn who_was_not_met_changes_nothing() {
    let mut scope = scope();
    told(
        &mut scope,
        say([atom("join"), term(&it(1)), atom("g"), term(&it(9))]),
    );
    told(
        &mut scope,
        say([atom("leave"), term(&it(1)), term(&it(9)), list([atom("g")])]),
    );
    assert!(scope.is_empty());
}

#[test]
fn all_of_a_peer_counts_or_nothing() {
    let limits = Limits {
        peer: 2_000,
        ..Limits::default()
    };
    let mut scope = Scope::new(node("us@h"), us(1), limits);
    let sync = |many: u32| {
        let members: Vec<Raw> = (10..10 + many).map(it).collect();
        let groups = list([tuple([
            atom("g"),
            pids(&members.iter().collect::<Vec<_>>()),
        ])]);
        cast([atom("sync"), term(&it(1)), groups])
    };
    told(&mut scope, sync(3));
    assert_eq!(scope.members(&a("g")).len(), 3);
    let mut logged = 0;
    for id in 100..200 {
        let effects = told(
            &mut scope,
            say([atom("join"), term(&it(1)), atom("g"), term(&it(id))]),
        );
        logged += effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Log { .. }))
            .count();
    }
    assert_eq!((scope.members(&a("g")).len(), logged), (0, 1));
    told(&mut scope, sync(1_000));
    assert!(scope.members(&a("g")).is_empty());
    told(&mut scope, sync(3));
    assert_eq!(scope.members(&a("g")).len(), 3);
    told(&mut scope, Input::PeerDown(node("it@h")));
    assert!(scope.is_empty());
}

#[test]
fn our_own_are_bounded_too() {
    let limits = Limits {
        local: 500,
        monitors: 1,
        ..Limits::default()
    };
    let mut scope = Scope::new(node("us@h"), us(1), limits);
    let mut effects = Vec::new();
    let many: Vec<Raw> = (0..100).map(us).collect();
    assert_eq!(
        scope.join(&[a("g")], &many, &mut effects),
        Err(Refused::Full)
    );
    assert!(scope.is_empty() && effects.is_empty());
    scope.monitor_scope(&us(5), a("r"), &mut effects).unwrap();
    let refused = scope.monitor_scope(&us(5), a("s"), &mut effects);
    assert_eq!(refused, Err(Refused::TooManyMonitors));
}

#[test]
fn leaving_many_groups_with_many_pids_is_not_multiplied_out() {
    let mut scope = scope();
    told(&mut scope, say([atom("discover"), term(&it(1))]));
    let some: Vec<Raw> = (10..2_000).map(it).collect();
    let groups = list((0..2_000).map(|n| int(1_000 + n)).collect::<Vec<_>>());
    let all = pids(&some.iter().collect::<Vec<_>>());
    let effects = told(&mut scope, say([atom("leave"), term(&it(1)), all, groups]));
    assert!(matches!(effects[..], [Effect::Log { .. }]));
}

#[test]
fn a_group_is_the_same_however_its_name_is_written() {
    let mut scope = scope();
    // {a, 1, "b"}, the integer in four bytes, the string as a list, the atom in the oldest form.
    let other = [
        &[104, 3, 100, 0, 1, b'a', 98, 0, 0, 0, 1][..],
        &[108, 0, 0, 0, 1, 97, b'b', 106],
    ];
    let other = Raw::check(other.concat().into(), &crate::term::Limits::default()).unwrap();
    joined(&mut scope, &[other], &[us(5)]);
    let name = Raw::encode(&parse("{a, 1, \"b\"}").unwrap());
    assert_eq!(scope.members(&name), [us(5)]);
}

#[test]
fn functions_answer_as_otp_does() {
    let mut scope = scope();
    joined(&mut scope, &[a("g")], &[us(5)]);
    told(
        &mut scope,
        cast([
            atom("sync"),
            term(&it(1)),
            list([tuple([atom("h"), pids(&[&it(5)])])]),
        ]),
    );
    let ask = |function: &str, args: &[Raw]| {
        apply(|name| (name == "pg").then_some(&scope), function, args)
    };
    let value = |term: Term| Answered::Value(Raw::encode(&term));
    assert_eq!(ask("get_members", &[a("h")]), value(pids(&[&it(5)])));
    assert_eq!(
        ask("get_members", &[a("pg"), a("h")]),
        value(pids(&[&it(5)]))
    );
    assert_eq!(ask("get_local_members", &[a("h")]), value(list([])));
    assert_eq!(
        ask("get_local_members", &[a("pg"), a("g")]),
        value(pids(&[&us(5)]))
    );
    assert_eq!(ask("get_members", &[a("other"), a("g")]), value(list([])));
    assert_eq!(ask("which_local_groups", &[]), value(list([atom("g")])));
    let both = ask("which_groups", &[a("pg")]);
    let orders = [["g", "h"], ["h", "g"]].map(|names| value(list(names.map(atom))));
    assert!(orders.contains(&both));
    assert_eq!(
        ask("which_groups", &[a("other")]),
        Answered::Error(a("badarg"))
    );
    assert_eq!(
        ask("which_groups", &[Raw::encode(&int(1))]),
        Answered::Error(a("badarg"))
    );
    assert_eq!(ask("join", &[a("g"), us(5)]), Answered::Undef);
}

/// Messages that are nearly right.
fn nearly() -> impl Strategy<Value = Term> {
    let leaf = prop_oneof![
        Just(term(&it(1))),
        Just(term(&it(5))),
        Just(term(&us(1))),
        Just(term(&pid("else@h", 1))),
        Just(atom("g")),
        Just(int(1)),
        Just(int(-1)),
        Just(list([])),
        Just(crate::term::improper([term(&it(5))], atom("x"))),
    ];
    let inner = leaf.prop_recursive(3, 24, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(list),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(tuple),
            (inner.clone(), inner).prop_map(|pair| map([pair])),
        ]
    });
    const TAGS: [&str; 8] = [
        "discover",
        "sync",
        "local_data",
        "join",
        "leave",
        "update",
        "$gen_call",
        "nodeup",
    ];
    (
        proptest::sample::select(&TAGS[..]),
        proptest::collection::vec(inner, 0..4),
        any::<bool>(),
    )
        .prop_map(|(tag, mut fields, cast)| {
            fields.insert(0, atom(tag));
            match cast {
                true => tuple([atom("$gen_cast"), tuple(fields)]),
                false => tuple(fields),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_term_of_a_peer_touches_what_is_not_its_own(messages in proptest::collection::vec(nearly(), 1..6)) {
        let mut scope = scope();
        joined(&mut scope, &[a("g")], &[us(5)]);
        let from = node("else@h");
        let groups = list([tuple([atom("g"), pids(&[&pid("else@h", 5)])])]);
        let sync = tuple([atom("sync"), term(&pid("else@h", 1)), groups]);
        told(&mut scope, Input::Message { from, message: Raw::encode(&sync) });
        for message in messages {
            let (message, from) = (Raw::encode(&message), node("it@h"));
            let effects = told(&mut scope, Input::Message { from, message });
            for effect in effects {
                match effect {
                    Effect::Send { node, to, .. } => {
                        assert_eq!(node.as_str(), "it@h");
                        assert_eq!(to.view().node().as_deref(), Some("it@h"));
                    }
                    Effect::Monitor(pid) | Effect::Demonitor(pid) => {
                        assert_eq!(pid.view().node().as_deref(), Some("it@h"));
                    }
                    Effect::Log { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let members = scope.members(&a("g"));
            assert!(members.contains(&us(5)) && members.contains(&pid("else@h", 5)));
            assert!(members.iter().filter(|pid| pid.view().node().as_deref() != Some("it@h")).count() == 2);
        }
        for node in ["it@h", "else@h"] {
            told(&mut scope, Input::PeerDown(node.parse().unwrap()));
        }
        told(&mut scope, Input::LocalEnded(us(5)));
        assert!(scope.is_empty());
    }

    #[test]
    fn rubbish_changes_nothing(message in nearly()) {
        let known = || {
            let mut scope = scope();
            told(&mut scope, say([atom("discover"), term(&it(1))]));
            scope
        };
        let mut scope = known();
        let raw = Raw::encode(&message);
        if terms::read(&raw, &node("it@h"), usize::MAX).is_err() {
            let effects = told(&mut scope, Input::Message { from: node("it@h"), message: raw });
            assert!(matches!(effects[..], [Effect::Log { .. }]));
            assert_eq!(scope.groups().count(), 0);
            told(&mut scope, Input::PeerDown(node("it@h")));
            assert!(scope.is_empty());
        }
    }
}
