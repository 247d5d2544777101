use super::*;
use crate::dist::ids::Ids;
use proptest::prelude::*;

const PEER: u64 = 7;

fn state() -> State {
    let own: NodeName = "a@h".parse().unwrap();
    State::new(Ids::new(own.clone(), 9), own, ["rex".to_owned()])
}

/// Pids and references of a peer.
fn there() -> Ids {
    Ids::new(peer(), 4)
}

fn peer() -> NodeName {
    "b@h".parse().unwrap()
}

fn doing(state: &mut State, what: impl FnOnce(&mut State, &mut Vec<Effect>)) -> Vec<Effect> {
    let mut effects = Vec::new();
    what(state, &mut effects);
    effects
}

fn signal(message: Message<Body>) -> Effect {
    Effect::Signal {
        connection: PEER,
        message,
    }
}

fn watch_from_there(state: &mut State, target: Raw) -> Vec<Effect> {
    let message = Message::Monitor {
        watcher: there().pid(1),
        target,
        reference: there().reference(5),
    };
    doing(state, |state, effects| {
        state.received(PEER, &peer(), message, effects)
    })
}

#[test]
fn a_name_has_one_owner_until_that_ends() {
    let mut state = state();
    let (one, two) = (state.spawn(), state.spawn());
    assert!(state.register(one, "worker"));
    assert!(!state.register(two, "worker"));
    assert!(!state.register(one, "other"), "it has a name");
    for impossible in ["rex", "undefined", &"x".repeat(300)] {
        assert!(!state.register(two, impossible));
    }
    doing(&mut state, |s, e| s.end(one, &call::atom("normal"), e));
    assert!(state.register(two, "worker"));
    assert_eq!(state.whereis("worker"), Some(two));
}

#[test]
fn whoever_watches_what_is_not_here_hears_noproc_at_once() {
    let mut state = state();
    for target in [call::atom("nobody"), state.pid(77)] {
        assert_eq!(
            watch_from_there(&mut state, target.clone()),
            [signal(Message::MonitorExit {
                target,
                watcher: there().pid(1),
                reference: there().reference(5),
                reason: call::atom("noproc").into(),
            })]
        );
    }
}

#[test]
fn a_process_that_ends_tells_its_links_first_and_then_its_watchers() {
    let mut state = state();
    let number = state.spawn();
    let pid = state.pid(number);
    assert_eq!(watch_from_there(&mut state, pid.clone()), []);
    let link = Message::Link {
        from: there().pid(2),
        to: pid.clone(),
    };
    doing(&mut state, |s, e| s.received(PEER, &peer(), link, e));
    let reason = call::atom("shot");
    assert_eq!(
        doing(&mut state, |s, e| s.end(number, &reason, e)),
        [
            signal(Message::Exit {
                from: pid.clone(),
                to: there().pid(2),
                reason: reason.clone().into(),
            }),
            signal(Message::MonitorExit {
                target: pid,
                watcher: there().pid(1),
                reference: there().reference(5),
                reason: reason.clone().into(),
            }),
            Effect::Over(number, reason),
        ]
    );
    assert_eq!(state.counts(), Counts::default());
}

#[test]
fn a_monitor_of_a_name_is_answered_with_the_name() {
    let mut state = state();
    let number = state.spawn();
    state.register(number, "worker");
    watch_from_there(&mut state, call::atom("worker"));
    let effects = doing(&mut state, |s, e| s.end(number, &call::atom("x"), e));
    assert!(
        matches!(&effects[0], Effect::Signal { message: Message::MonitorExit { target, .. }, .. }
        if *target == call::atom("worker"))
    );
}

#[test]
fn until_the_other_side_knows_of_an_unlink_its_exit_and_its_link_are_ignored() {
    let mut state = state();
    let number = state.spawn();
    let (pid, other) = (state.pid(number), there().pid(2));
    doing(&mut state, |s, e| s.link(number, &other, Some(PEER), e));
    let effects = doing(&mut state, |s, e| s.unlink(number, &other, e));
    let [
        Effect::Signal {
            message: Message::Unlink { id, .. },
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    let exit = Message::Exit {
        from: other.clone(),
        to: pid.clone(),
        reason: call::atom("late"),
    };
    assert_eq!(
        doing(&mut state, |s, e| s.received(PEER, &peer(), exit, e)),
        []
    );
    assert!(state.lives(number));
    let ack = |id: &Raw| Message::UnlinkAck {
        id: id.clone(),
        from: other.clone(),
        to: pid.clone(),
    };
    doing(&mut state, |s, e| {
        s.received(PEER, &peer(), ack(&call::integer(3)), e)
    });
    assert_eq!(state.counts().links, 1, "that was not our id");
    doing(&mut state, |s, e| s.received(PEER, &peer(), ack(id), e));
    assert_eq!(state.counts().links, 0);
}

#[test]
fn a_pid_is_the_same_in_whatever_form_its_nodes_name_came() {
    let mut state = state();
    let number = state.spawn();
    // The name as latin1, as `term_to_binary` of OTP 25 writes it.
    let latin1 = [
        &[88, 100, 0, 3][..],
        b"b@h",
        &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4],
    ]
    .concat();
    let latin1 = Raw::check(latin1.into(), &Default::default()).unwrap();
    doing(&mut state, |s, e| s.link(number, &latin1, Some(PEER), e));
    let exit = Message::Exit {
        from: there().pid(2),
        to: state.pid(number),
        reason: call::atom("bang"),
    };
    doing(&mut state, |s, e| s.received(PEER, &peer(), exit, e));
    assert!(!state.lives(number));
}

#[test]
fn an_unlink_is_always_acknowledged() {
    let mut state = state();
    let (gone, other) = (state.pid(77), there().pid(2));
    let unlink = Message::Unlink {
        id: call::integer(3),
        from: other.clone(),
        to: gone.clone(),
    };
    assert_eq!(
        doing(&mut state, |s, e| s.received(PEER, &peer(), unlink, e)),
        [signal(Message::UnlinkAck {
            id: call::integer(3),
            from: gone,
            to: other,
        })]
    );
}

#[test]
fn kill_cannot_be_trapped_when_it_is_sent_but_can_when_a_link_brings_it() {
    let mut state = state();
    let kill = call::atom("kill");
    let (one, two) = (state.spawn(), state.spawn());
    let other = there().pid(2);
    for number in [one, two] {
        state.trap_exit(number, true);
        doing(&mut state, |s, e| s.link(number, &other, Some(PEER), e));
    }
    let exit = Message::Exit {
        from: other.clone(),
        to: state.pid(one),
        reason: kill.clone(),
    };
    doing(&mut state, |s, e| s.received(PEER, &peer(), exit, e));
    assert!(state.lives(one));
    let exit = Message::Exit2 {
        from: other,
        to: state.pid(two),
        reason: kill,
    };
    let effects = doing(&mut state, |s, e| s.received(PEER, &peer(), exit, e));
    assert!(effects.contains(&Effect::Over(two, call::atom("killed"))));
}

#[test]
fn a_normal_exit_ends_nobody_but_its_own_sender() {
    let mut state = state();
    let (one, two) = (state.spawn(), state.spawn());
    let (from, to, normal) = (state.pid(one), state.pid(two), call::atom("normal"));
    doing(&mut state, |s, e| s.exit(&from, &to, normal.clone(), e));
    assert!(state.lives(two));
    doing(&mut state, |s, e| s.exit(&from, &from, normal, e));
    assert!(!state.lives(one));
}

#[test]
fn a_function_that_a_peer_runs_is_watched_and_ended_by_others() {
    let mut state = state();
    for ends_by_itself in [true, false] {
        let number = state.ids.fresh();
        state.lend(number, PEER + 1);
        let pid = state.pid(number);
        assert_eq!(watch_from_there(&mut state, pid.clone()), []);
        let effects = doing(&mut state, |state, effects| {
            if ends_by_itself {
                state.returned(number, &call::atom("stop"), effects);
            } else {
                let exit = Message::Exit2 {
                    from: there().pid(1),
                    to: pid.clone(),
                    reason: call::atom("stop"),
                };
                state.received(PEER, &peer(), exit, effects);
            }
        });
        let told = matches!(&effects[0], Effect::Signal { connection: PEER, message: Message::MonitorExit { reason, .. } }
            if reason.clone().into_raw() == call::atom("stop"));
        assert!(told, "{effects:?}");
        let stopped = Effect::Stop {
            connection: PEER + 1,
            number,
            reason: call::atom("stop"),
        };
        assert_eq!(effects.contains(&stopped), !ends_by_itself);
        assert_eq!(state.counts(), Counts::default());
    }
}

#[test]
fn an_alias_that_is_spent_or_taken_back_reaches_nobody() {
    let mut state = state();
    let owner = state.spawn();
    let (once, kept) = (state.alias(owner, true), state.alias(owner, false));
    let mail = call::atom("hello");
    let send = |state: &mut State, alias| {
        let mut effects = Vec::new();
        state.send_alias(alias, mail.clone(), &mut effects);
        effects.len()
    };
    assert_eq!([send(&mut state, once), send(&mut state, once)], [1, 0]);
    assert_eq!([send(&mut state, kept), send(&mut state, kept)], [1, 1]);
    assert!(state.unalias(owner, kept));
    assert_eq!(send(&mut state, kept), 0);
    assert_eq!(state.counts().aliases, 0);
}

#[test]
fn a_peer_cannot_fire_a_monitor_of_what_is_not_at_it() {
    let mut state = state();
    let owner = state.spawn();
    let target = Target::Pid(there().pid(2));
    let mut effects = Vec::new();
    let monitor = state.monitor(owner, &target, Some(PEER), &mut effects);
    let fire = Message::MonitorExit {
        target: there().pid(2),
        watcher: state.pid(owner),
        reference: state.ids.reference(monitor.0),
        reason: call::atom("lie"),
    };
    let fired = doing(&mut state, |s, e| {
        s.received(PEER + 1, &"c@h".parse().unwrap(), fire.clone(), e)
    });
    assert_eq!(fired, []);
    let fired = doing(&mut state, |s, e| s.received(PEER, &peer(), fire, e));
    assert_eq!(fired.len(), 1);
}

#[test]
fn a_process_hears_exactly_once_that_a_connection_is_gone() {
    let mut state = state();
    let owner = state.spawn();
    state.trap_exit(owner, true);
    let other = there().pid(2);
    doing(&mut state, |s, e| {
        s.link(owner, &other, Some(PEER), e);
        s.monitor(owner, &Target::Pid(other.clone()), Some(PEER), e);
        s.monitor(owner, &Target::Name("x".into(), peer()), Some(PEER), e);
        s.watch_nodes(owner, true);
    });
    let down = |state: &mut State, connection| {
        doing(state, |s, e| s.down(&peer(), true, connection, e)).len()
    };
    assert_eq!(down(&mut state, PEER), 4);
    assert_eq!(down(&mut state, PEER), 1, "only that the node is down");
    assert_eq!(state.counts().links + state.counts().monitors, 0);
}

#[test]
fn many_that_are_linked_in_a_row_all_end_with_the_first() {
    let mut state = state();
    let all: Vec<u64> = (0..10_000).map(|_| state.spawn()).collect();
    for pair in all.windows(2) {
        let next = state.pid(pair[1]);
        doing(&mut state, |s, e| s.link(pair[0], &next, None, e));
    }
    doing(&mut state, |s, e| s.end(all[0], &call::atom("x"), e));
    assert_eq!(state.counts(), Counts::default());
}

#[derive(Debug, Clone)]
enum Step {
    Spawn,
    Name(usize, u8),
    Trap(usize),
    Link(usize, usize),
    LinkThere(usize, u8),
    LinkedFromThere(u8, usize),
    Unlink(usize, usize),
    UnlinkThere(usize, u8),
    Watch(usize, usize),
    WatchThere(usize, u8),
    WatchedFromThere(u8, usize),
    Alias(usize, bool),
    Exit(usize, usize),
    End(usize),
    Down,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..6_usize;
    prop_oneof![
        Just(Step::Spawn),
        (who.clone(), 0..3_u8).prop_map(|(a, b)| Step::Name(a, b)),
        who.clone().prop_map(Step::Trap),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Link(a, b)),
        (who.clone(), 0..3_u8).prop_map(|(a, b)| Step::LinkThere(a, b)),
        (0..3_u8, who.clone()).prop_map(|(a, b)| Step::LinkedFromThere(a, b)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Unlink(a, b)),
        (who.clone(), 0..3_u8).prop_map(|(a, b)| Step::UnlinkThere(a, b)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Watch(a, b)),
        (who.clone(), 0..3_u8).prop_map(|(a, b)| Step::WatchThere(a, b)),
        (0..3_u8, who.clone()).prop_map(|(a, b)| Step::WatchedFromThere(a, b)),
        (who.clone(), any::<bool>()).prop_map(|(a, b)| Step::Alias(a, b)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Exit(a, b)),
        who.prop_map(Step::End),
        Just(Step::Down),
    ]
}

proptest! {
    /// Whatever happened before: when all have ended, nothing is kept; and every monitor that was not taken back has
    /// fired exactly once.
    #[test]
    fn nothing_is_kept_of_what_has_ended(steps in proptest::collection::vec(step(), 0..60)) {
        let mut state = state();
        let mut all: Vec<u64> = vec![state.spawn()];
        let mut effects = Vec::new();
        let mut monitors = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let number = |who: usize| all[who % all.len()];
            let e = &mut effects;
            match step {
                Step::Spawn => all.push(state.spawn()),
                Step::Name(a, name) => {
                    state.register(number(a), &format!("name{name}"));
                }
                Step::Trap(a) => state.trap_exit(number(a), true),
                Step::Link(a, b) => {
                    let pid = state.pid(number(b));
                    state.link(number(a), &pid, None, e);
                }
                Step::LinkThere(a, b) => state.link(number(a), &there().pid(b.into()), Some(PEER), e),
                Step::LinkedFromThere(a, b) => {
                    let (from, to) = (there().pid(a.into()), state.pid(number(b)));
                    state.received(PEER, &peer(), Message::Link { from, to }, e);
                }
                Step::Unlink(a, b) => {
                    let pid = state.pid(number(b));
                    state.unlink(number(a), &pid, e);
                }
                Step::UnlinkThere(a, b) => state.unlink(number(a), &there().pid(b.into()), e),
                Step::Watch(a, b) => {
                    let target = Target::Pid(state.pid(number(b)));
                    if state.lives(number(a)) {
                        monitors.push((number(a), state.monitor(number(a), &target, None, e)));
                    }
                }
                Step::WatchThere(a, b) => {
                    let target = Target::Pid(there().pid(b.into()));
                    if state.lives(number(a)) {
                        monitors.push((number(a), state.monitor(number(a), &target, Some(PEER), e)));
                    }
                }
                Step::WatchedFromThere(a, b) => {
                    let message = Message::Monitor {
                        watcher: there().pid(a.into()),
                        target: state.pid(number(b)),
                        reference: there().reference(n as u64),
                    };
                    state.received(PEER, &peer(), message, e);
                }
                Step::Alias(a, once) => {
                    state.alias(number(a), once);
                }
                Step::Exit(a, b) => {
                    let (from, to) = (state.pid(number(a)), state.pid(number(b)));
                    state.exit(&from, &to, call::atom("shot"), e);
                }
                Step::End(a) => state.end(number(a), &call::atom("done"), e),
                Step::Down => state.down(&peer(), true, PEER, e),
            }
        }
        state.down(&peer(), true, PEER, &mut effects);
        let fired = |monitor: Monitor| effects.iter().filter(|effect| {
            matches!(effect, Effect::Deliver(_, Mail::Down { monitor: m, .. }) if *m == monitor)
        }).count();
        for (owner, monitor) in monitors {
            // Those of a process that lives and that still stand have not fired, and all others of it once.
            let stands = usize::from(state.monitors.contains_key(&monitor.0));
            prop_assert!(fired(monitor) + stands <= 1);
            if state.lives(owner) {
                prop_assert_eq!(fired(monitor) + stands, 1);
            }
        }
        for number in all {
            state.end(number, &call::atom("done"), &mut effects);
        }
        prop_assert_eq!(state.counts(), Counts::default());
        prop_assert!(state.watchers.is_empty() && state.node_watchers.is_empty());
    }
}

#[test]
fn a_peer_cannot_speak_for_the_processes_of_another_node() {
    let mut state = state();
    let number = state.spawn();
    let (pid, other) = (state.pid(number), there().pid(2));
    let liar: NodeName = "liar@h".parse().unwrap();
    doing(&mut state, |s, e| s.link(number, &other, Some(PEER), e));
    for message in [
        Message::Exit {
            from: other.clone(),
            to: pid.clone(),
            reason: call::atom("bang"),
        },
        Message::Exit2 {
            from: other.clone(),
            to: pid.clone(),
            reason: call::atom("kill"),
        },
        Message::Unlink {
            id: call::integer(1),
            from: other.clone(),
            to: pid.clone(),
        },
        Message::Monitor {
            watcher: other,
            target: pid,
            reference: there().reference(5),
        },
    ] {
        let effects = doing(&mut state, |s, e| s.received(PEER + 1, &liar, message, e));
        assert_eq!(effects, []);
    }
    assert_eq!((state.counts().processes, state.counts().links), (1, 1));
    assert_eq!(state.counts().watchers, 0);
}
