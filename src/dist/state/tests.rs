use super::*;
use crate::dist::process::state as process;
use crate::term::{self, Term};
use eetf::{Atom, Pid, Reference};

const SECOND: Duration = Duration::from_secs(1);

/// A state, the messages it wants written, and everything else it wants done. The program has no processes.
struct Bench {
    state: State,
    processes: process::State,
    written: Vec<Message<Raw>>,
    others: Vec<Effect>,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        let own = Own {
            ids: Ids::new("own@h".parse().unwrap(), 7),
            name: call::atom("own@h"),
            names: [("net_kernel", 2), ("rex", 3), ("echo", 4)]
                .map(|(name, number)| (name.to_owned(), number))
                .into(),
            tick_time: 60 * SECOND,
        };
        let ids = own.ids.clone();
        let names = own.names.keys().cloned().collect::<Vec<_>>();
        Self {
            state: State::new(Arc::new(own), start),
            processes: process::State::new(ids, "own@h".parse().unwrap(), names),
            written: Vec::new(),
            others: Vec::new(),
            start,
        }
    }

    fn input(&mut self, input: Input) -> &mut Self {
        let mut effects = Vec::new();
        self.state.handle(input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(message) => self.written.push(read(message)),
                Effect::Process(message) => self.process(message),
                Effect::Returned(..) => {}
                Effect::Broadcast { from, name, .. } => {
                    let answer = self.state.broadcast(from, Some(&name));
                    self.written.push(read(answer));
                }
                other => self.others.push(other),
            }
        }
        self
    }

    fn process(&mut self, message: Message<Raw>) {
        let mut effects = Vec::new();
        let peer = "peer@h".parse().unwrap();
        self.processes.received(1, &peer, message, &mut effects);
        for effect in effects {
            match effect {
                process::Effect::Signal { message, .. } => self.written.push(read(message)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn receive(&mut self, message: Message<Raw>) -> &mut Self {
        self.input(Input::Received(message))
    }

    /// What was written since the last look.
    fn written(&mut self) -> Vec<Message<Raw>> {
        std::mem::take(&mut self.written)
    }

    /// The one question that the service was asked.
    fn asked(&mut self) -> Caller {
        match std::mem::take(&mut self.others).pop() {
            Some(Effect::Ask(caller, _)) if self.others.is_empty() => caller,
            other => panic!("{other:?}"),
        }
    }

    /// A function of the peer's, spawned with these options, that answers later.
    fn parked(&mut self, mfa: &Raw, options: &[&str], args: Term) -> (u64, Raw) {
        self.receive(Message::SpawnRequest {
            id: reference(1),
            from: peer(1),
            leader: peer(9),
            mfa: mfa.clone(),
            options: raw(term::list(
                options.iter().map(|o| term::atom(*o)).collect::<Vec<_>>(),
            )),
            args: raw(args),
        });
        let pid = match &self.written()[..] {
            [Message::SpawnReply { result, .. }] => result.clone(),
            other => panic!("{other:?}"),
        };
        let caller = self.asked();
        (self.state.park(caller), pid)
    }

    fn parked_erpc(&mut self) -> (u64, Raw) {
        self.parked(&execute_call(), &["monitor"], erpc_args())
    }

    fn cancelled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.others)
            .into_iter()
            .map(|effect| match effect {
                Effect::Cancel(number) => number,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn is_empty(&self) -> bool {
        let State {
            parked,
            parked_requests,
            waiting,
            ..
        } = &self.state;
        parked.is_empty() && parked_requests.is_empty() && waiting.is_empty()
    }

    fn own_pid(&self, number: u64) -> Raw {
        self.state.own.ids.pid(number)
    }

    fn own_reference(&self, number: u64) -> Raw {
        self.state.own.ids.reference(number)
    }
}

/// A written message as the peer would read it.
fn read(message: Message<Body>) -> Message<Raw> {
    use crate::dist::{frame::Agreed, frame::Decoder, outbox::Outbox};
    use bytes::Buf;
    let agreed = Agreed::default();
    let mut out = Outbox::new(agreed);
    out.push(message).unwrap();
    let length = out.remaining();
    let bytes = out.copy_to_bytes(length).slice(4..);
    let mut decoder = Decoder::new(agreed, crate::term::Limits::default(), usize::MAX);
    decoder.decode(&bytes).unwrap().unwrap()
}

fn raw(term: impl Into<Term>) -> Raw {
    Raw::encode(&term.into())
}

fn atom(name: &str) -> Raw {
    call::atom(name)
}

fn peer(id: u32) -> Raw {
    raw(Pid::new("peer@h", id, 0, 9))
}

fn reference_term(id: u32) -> Term {
    Reference {
        node: Atom::from("peer@h"),
        id: vec![id, 2, 3],
        creation: 9,
    }
    .into()
}

fn reference(id: u32) -> Raw {
    raw(reference_term(id))
}

fn mfa(module: &str, function: &str, arity: i64) -> Raw {
    raw(term::tuple([
        term::atom(module),
        term::atom(function),
        term::int(arity),
    ]))
}

fn execute_call() -> Raw {
    mfa("erpc", "execute_call", 4)
}

fn erpc_args() -> Term {
    let name = |name: &str| term::atom(name);
    term::list([reference_term(1), name("m"), name("f"), term::nil()])
}

fn alias_tag(id: u32) -> Term {
    term::improper([term::atom("alias")], reference_term(id))
}

fn gen_call_to(name: &str, tag: Term, request: Term) -> Message<Raw> {
    let from = term::tuple([Term::from(Pid::new("peer@h", 1, 0, 9)), tag]);
    to_name(name, term::tuple([term::atom("$gen_call"), from, request]))
}

fn to_name(name: &str, message: Term) -> Message<Raw> {
    Message::RegSend {
        from: peer(1),
        to: atom(name),
        message: raw(message),
    }
}

fn monitor(target: &Raw, id: u32) -> Message<Raw> {
    Message::Monitor {
        watcher: peer(1),
        target: target.clone(),
        reference: reference(id),
    }
}

fn demonitor(target: &Raw, id: u32) -> Message<Raw> {
    Message::Demonitor {
        watcher: peer(1),
        target: target.clone(),
        reference: reference(id),
    }
}

fn monitor_exit(target: &Raw, id: u32, reason: Raw) -> Message<Raw> {
    Message::MonitorExit {
        target: target.clone(),
        watcher: peer(1),
        reference: reference(id),
        reason,
    }
}

fn exit_to(from: &Raw, to: &Raw, reason: &str) -> Message<Raw> {
    Message::Exit {
        from: from.clone(),
        to: to.clone(),
        reason: atom(reason),
    }
}

#[test]
fn a_monitor_of_an_absent_name_is_answered_noproc_with_the_name() {
    let mut bench = Bench::new();
    for name in ["nosuch", "global_name_server", "pg"] {
        let written = bench.receive(monitor(&atom(name), 5)).written();
        assert_eq!(written, [monitor_exit(&atom(name), 5, atom("noproc"))]);
    }
}

#[test]
fn a_monitor_of_an_absent_pid_is_answered_noproc_with_the_pid() {
    let mut bench = Bench::new();
    let earlier_life = Ids::new("own@h".parse().unwrap(), 6).pid(4);
    for pid in [bench.own_pid(12345), earlier_life, peer(3)] {
        let written = bench.receive(monitor(&pid, 5)).written();
        assert_eq!(written, [monitor_exit(&pid, 5, atom("noproc"))]);
    }
}

#[test]
fn what_lives_is_watched_in_silence() {
    let mut bench = Bench::new();
    for target in [
        atom("echo"),
        atom("net_kernel"),
        bench.own_pid(4),
        bench.own_pid(CALLER),
    ] {
        assert_eq!(bench.receive(monitor(&target, 5)).written(), []);
        assert_eq!(bench.receive(demonitor(&target, 5)).written(), []);
    }
    assert!(bench.is_empty() && bench.others.is_empty());
}

#[test]
fn a_link_to_what_is_not_here_breaks_with_noproc() {
    let mut bench = Bench::new();
    let (dead, named) = (bench.own_pid(12345), bench.own_pid(4));
    let link = |to: &Raw| Message::Link {
        from: peer(1),
        to: to.clone(),
    };
    assert_eq!(
        bench.receive(link(&dead)).written(),
        [exit_to(&dead, &peer(1), "noproc")]
    );
    assert_eq!(bench.receive(link(&named)).written(), []);
}

#[test]
fn an_unlink_is_acknowledged_whether_there_was_a_link_or_not() {
    let mut bench = Bench::new();
    let (_, linked) = bench.parked(&mfa("m", "f", 0), &["link"], term::nil());
    for to in [linked.clone(), bench.own_pid(4), bench.own_pid(12345)] {
        let (id, from) = (raw(term::int(1 << 40)), peer(1));
        let unlink = Message::Unlink {
            id: id.clone(),
            from: from.clone(),
            to: to.clone(),
        };
        let ack = Message::UnlinkAck {
            id,
            from: to,
            to: from,
        };
        assert_eq!(bench.receive(unlink).written(), [ack]);
    }
    // The link is gone, so the end of the other process is no matter any more.
    bench.receive(exit_to(&peer(1), &linked, "boom"));
    assert!(!bench.is_empty() && bench.written().is_empty());
}

#[test]
fn net_kernel_says_yes_to_is_auth() {
    let mut bench = Bench::new();
    let is_auth = term::tuple([term::atom("is_auth"), term::atom("peer@h")]);
    let written = bench
        .receive(gen_call_to("net_kernel", alias_tag(5), is_auth))
        .written();
    assert_eq!(
        written,
        [Message::AliasSend {
            from: bench.own_pid(2),
            alias: reference(5),
            owner: None,
            message: raw(term::tuple([alias_tag(5), term::atom("yes")])),
        }]
    );
}

#[test]
fn init_connect_is_answered_with_in_sync_and_nothing_else() {
    let mut bench = Bench::new();
    let cast = |message: Term| {
        to_name(
            "global_name_server",
            term::tuple([term::atom("$gen_cast"), message]),
        )
    };
    let init_connect = term::tuple([
        term::atom("init_connect"),
        term::tuple([term::int(8), term::int(-5)]),
        term::atom("peer@h"),
        term::tuple([term::atom("locker")]),
    ]);
    let in_sync = term::tuple([
        term::atom("in_sync"),
        term::atom("own@h"),
        term::atom("true"),
    ]);
    let answer = Message::RegSend {
        from: bench.own_pid(CALLER),
        to: atom("global_name_server"),
        message: raw(term::tuple([term::atom("$gen_cast"), in_sync.clone()])),
    };
    assert_eq!(bench.receive(cast(init_connect)).written(), [answer]);

    for other in [in_sync, term::tuple([term::atom("lock_set")]), term::nil()] {
        assert_eq!(bench.receive(cast(other)).written(), []);
    }
    assert!(bench.is_empty() && bench.others.is_empty());
}

#[test]
fn features_request_is_answered() {
    let mut bench = Bench::new();
    let pid = Term::from(Pid::new("peer@h", 1, 0, 9));
    let request = term::tuple([pid, term::atom("features_request")]);
    let reply = term::tuple([
        term::atom("features_reply"),
        term::atom("own@h"),
        term::list([term::atom("erpc")]),
    ]);
    assert_eq!(
        bench.receive(to_name("rex", request)).written(),
        [Message::Send {
            to: peer(1),
            message: raw(reply)
        }]
    );
}

#[test]
fn a_synchronous_cast_says_whether_the_name_is_here() {
    let mut bench = Bench::new();
    let sbcast = |name: &str| {
        let pid = Term::from(Pid::new("peer@h", 1, 0, 9));
        let request = term::tuple([term::atom("sbcast"), term::atom(name), term::atom("hi")]);
        to_name("rex", term::tuple([pid, request]))
    };
    let answer = |result: Term| {
        let own = || term::atom("own@h");
        [Message::Send {
            to: peer(1),
            message: raw(term::tuple([term::atom("rex"), own(), result])),
        }]
    };
    let written = bench.receive(sbcast("echo")).written();
    assert_eq!(written, answer(term::atom("own@h")));
    assert!(matches!(
        &bench.others[..],
        [Effect::Tell(Request::Info { name, .. })] if name == "echo"
    ));
    let absent = term::tuple([term::atom("nonexisting_name"), term::atom("nosuch")]);
    assert_eq!(bench.receive(sbcast("nosuch")).written(), answer(absent));
}

#[test]
fn a_c_node_may_call_through_rex() {
    let mut bench = Bench::new();
    let pid = || Term::from(Pid::new("peer@h", 1, 0, 9));
    let request = term::tuple([
        term::atom("call"),
        term::atom("m"),
        term::atom("f"),
        term::nil(),
        pid(),
    ]);
    bench.receive(to_name("rex", term::tuple([pid(), request])));
    let caller = bench.asked();
    let answer = bench
        .input(Input::Answered(caller, Outcome::Reply(atom("v"))))
        .written();
    assert_eq!(
        answer,
        [Message::Send {
            to: peer(1),
            message: raw(term::tuple([term::atom("rex"), term::atom("v")]))
        }]
    );
}

#[test]
fn a_spawn_request_gets_one_reply_before_the_end_of_its_process() {
    for options in [&[][..], &["monitor"], &["link"], &["link", "monitor"]] {
        let mut bench = Bench::new();
        let (number, pid) = bench.parked(&mfa("m", "f", 0), options, term::nil());
        let end = bench
            .input(Input::Unparked(number, Outcome::Error(atom("why"))))
            .written();
        let reason = raw(term::tuple([term::atom("why"), term::nil()]));
        let mut expected = Vec::new();
        if options.contains(&"link") {
            expected.push(Message::Exit {
                from: pid.clone(),
                to: peer(1),
                reason: reason.clone(),
            });
        }
        if options.contains(&"monitor") {
            expected.push(monitor_exit(&pid, 1, reason));
        }
        assert_eq!(end, expected, "links first, then monitors");
        assert!(bench.is_empty());
        // A second answer, as of a future that was aborted too late, changes nothing.
        bench.input(Input::Unparked(number, Outcome::Undef));
        assert_eq!(bench.written(), []);
    }
}

#[test]
fn a_spawn_request_that_cannot_be_applied_is_answered_badarg() {
    let mut bench = Bench::new();
    let written = bench
        .receive(Message::SpawnRequest {
            id: reference(1),
            from: peer(1),
            leader: peer(1),
            mfa: mfa("m", "f", 1),
            options: raw(term::nil()),
            args: atom("unreadable"),
        })
        .written();
    assert_eq!(
        written,
        [Message::SpawnReply {
            id: reference(1),
            to: peer(1),
            flags: 0,
            result: atom("badarg")
        }]
    );
    assert!(bench.is_empty() && bench.others.is_empty());
}

#[test]
fn the_spawn_reply_tells_which_link_and_monitor_were_made() {
    for (options, expected) in [
        (&[][..], 0),
        (&["link"], 1),
        (&["monitor"], 2),
        (&["link", "monitor"], 3),
    ] {
        let mut bench = Bench::new();
        bench.receive(Message::SpawnRequest {
            id: reference(1),
            from: peer(1),
            leader: peer(1),
            mfa: mfa("m", "f", 0),
            options: raw(term::list(
                options.iter().map(|o| term::atom(*o)).collect::<Vec<_>>(),
            )),
            args: raw(term::nil()),
        });
        assert!(matches!(
            &bench.written()[..],
            [Message::SpawnReply { flags, .. }] if *flags == expected
        ));
    }
}

#[test]
fn a_parked_call_is_cancelled_when_its_caller_takes_the_monitor_back() {
    let mut bench = Bench::new();
    let (number, pid) = bench.parked_erpc();
    bench.receive(demonitor(&pid, 1));
    assert_eq!(bench.cancelled(), [number]);
    assert!(bench.is_empty() && bench.written().is_empty());

    bench.receive(gen_call_to("echo", alias_tag(5), term::atom("slow")));
    let caller = bench.asked();
    let number = bench.state.park(caller);
    bench.receive(demonitor(&atom("echo"), 5));
    assert_eq!(bench.cancelled(), [number]);
    assert!(bench.is_empty() && bench.written().is_empty());
}

#[test]
fn a_process_of_its_own_goes_on_without_its_monitor() {
    let mut bench = Bench::new();
    let (number, pid) = bench.parked(&mfa("m", "f", 0), &["monitor", "link"], term::nil());
    bench.receive(demonitor(&pid, 1));
    assert!(bench.others.is_empty());
    let end = bench
        .input(Input::Unparked(number, Outcome::Reply(atom("v"))))
        .written();
    assert_eq!(end, [exit_to(&pid, &peer(1), "normal")]);
    assert!(bench.is_empty());
}

#[test]
fn a_call_that_others_watch_goes_on_without_its_caller() {
    let mut bench = Bench::new();
    let (number, pid) = bench.parked_erpc();
    bench.receive(monitor(&pid, 6)).receive(demonitor(&pid, 1));
    assert!(bench.others.is_empty());
    let end = bench
        .input(Input::Unparked(number, Outcome::Undef))
        .written();
    assert!(
        matches!(&end[..], [Message::MonitorExit { reference: to, .. }] if *to == reference(6)),
        "{end:?}"
    );
}

#[test]
fn a_later_watcher_can_take_its_monitor_back() {
    let mut bench = Bench::new();
    let (number, pid) = bench.parked(&mfa("m", "f", 0), &[], term::nil());
    bench
        .receive(monitor(&pid, 6))
        .receive(monitor(&pid, 7))
        .receive(demonitor(&pid, 6));
    let end = bench
        .input(Input::Unparked(number, Outcome::Reply(atom("v"))))
        .written();
    assert_eq!(end, [monitor_exit(&pid, 7, atom("normal"))]);
}

#[test]
fn exit_ends_a_spawned_process_and_whoever_is_linked_hears_it() {
    for (reason, heard) in [("shutdown", "shutdown"), ("kill", "killed")] {
        let mut bench = Bench::new();
        let (number, pid) = bench.parked(&mfa("m", "f", 0), &["link", "monitor"], term::nil());
        // A supervisor ends its children so, and waits for their link to break.
        let end = bench
            .receive(Message::Exit2 {
                from: peer(1),
                to: pid.clone(),
                reason: atom(reason),
            })
            .written();
        assert_eq!(
            end,
            [
                exit_to(&pid, &peer(1), heard),
                monitor_exit(&pid, 1, atom(heard))
            ]
        );
        assert_eq!(bench.cancelled(), [number]);
        assert!(bench.is_empty());
    }
}

#[test]
fn a_broken_link_ends_a_spawned_process_and_is_not_answered() {
    let mut bench = Bench::new();
    let (number, pid) = bench.parked(&mfa("m", "f", 0), &["link"], term::nil());
    bench.receive(monitor(&pid, 6));
    // Not linked to this one; and a normal end ends nobody else.
    bench.receive(exit_to(&peer(5), &pid, "boom"));
    assert!(bench.written().is_empty() && bench.others.is_empty());
    let end = bench.receive(exit_to(&peer(1), &pid, "boom")).written();
    assert_eq!(end, [monitor_exit(&pid, 6, atom("boom"))]);
    assert_eq!(bench.cancelled(), [number]);
}

#[test]
fn exits_do_nothing_to_what_has_a_name() {
    let mut bench = Bench::new();
    let named = bench.own_pid(4);
    bench
        .receive(exit_to(&peer(1), &named, "kill"))
        .receive(Message::Exit2 {
            from: peer(1),
            to: named.clone(),
            reason: atom("kill"),
        });
    assert!(bench.written().is_empty() && bench.others.is_empty());
    assert_eq!(bench.receive(monitor(&named, 5)).written(), []);
}

#[test]
fn the_watchers_of_one_process_are_bounded() {
    let mut bench = Bench::new();
    let (_, pid) = bench.parked(&mfa("m", "f", 0), &[], term::nil());
    for id in 0..MAX_WATCHERS as u32 {
        bench
            .receive(monitor(&pid, 100 + id))
            .receive(Message::Link {
                from: peer(100 + id),
                to: pid.clone(),
            });
    }
    assert_eq!(bench.written(), []);
    assert_eq!(
        bench.receive(monitor(&pid, 5)).written(),
        [monitor_exit(&pid, 5, atom("system_limit"))]
    );
    let link = Message::Link {
        from: peer(1),
        to: pid.clone(),
    };
    assert_eq!(
        bench.receive(link).written(),
        [exit_to(&pid, &peer(1), "system_limit")]
    );
}

#[test]
fn at_most_so_many_callers_are_parked() {
    let mut bench = Bench::new();
    for _ in 0..MAX_PARKED {
        assert!(bench.state.has_room());
        bench.receive(gen_call_to("echo", term::nil(), term::nil()));
        let caller = bench.asked();
        bench.state.park(caller);
    }
    assert!(!bench.state.has_room());
}

#[test]
fn what_is_parked_does_not_hold_the_frame_that_brought_it() {
    let mut bench = Bench::new();
    let large = term::binary(vec![0; 100_000]);
    let message = gen_call_to("echo", alias_tag(5), large);
    let Message::RegSend { message: bytes, .. } = &message else {
        panic!();
    };
    let frame = bytes.to_bytes().clone();
    bench.receive(message);
    let caller = bench.asked();
    bench.state.park(caller);
    assert!(frame.is_unique(), "a parked caller keeps a whole frame");
}

#[test]
fn an_error_over_a_gen_call_reaches_the_callers_monitor() {
    let mut bench = Bench::new();
    let multi_call = term::improper([alias_tag(5)], reference_term(6));
    for (tag, monitor) in [(alias_tag(5), 5), (multi_call, 6), (reference_term(7), 7)] {
        bench.receive(gen_call_to("echo", tag, term::nil()));
        let caller = bench.asked();
        let written = bench
            .input(Input::Answered(caller, Outcome::Error(atom("why"))))
            .written();
        assert_eq!(written, [monitor_exit(&atom("echo"), monitor, atom("why"))]);
    }
}

/// The answer of a function that the peer ran for call `number`.
fn answer(bench: &Bench, number: u64, fields: &[&Raw]) -> Message<Raw> {
    let reference = bench.own_reference(number);
    let mut all = vec![&reference];
    all.extend(fields);
    Message::MonitorExit {
        target: peer(50),
        watcher: bench.own_pid(CALLER),
        reason: call::tuple(&all),
        reference,
    }
}

fn spawn_reply(bench: &Bench, number: u64, result: Raw) -> Message<Raw> {
    Message::SpawnReply {
        id: bench.own_reference(number),
        to: bench.own_pid(CALLER),
        flags: 2,
        result,
    }
}

fn call(number: u64) -> Input {
    Input::Call {
        number,
        module: atom("m"),
        function: atom("f"),
        args: call::nil(),
    }
}

fn gen_call_input(number: u64) -> Input {
    Input::GenCall {
        number,
        process: atom("server"),
        request: atom("q"),
    }
}

fn finished(bench: &mut Bench) -> Vec<(u64, Result<Raw, Failure>)> {
    std::mem::take(&mut bench.others)
        .into_iter()
        .map(|effect| match effect {
            Effect::Finish(number, result) => (number, result),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn our_call_ends_with_what_the_function_made_of_it() {
    let cases: [(&[&Raw], Result<Raw, Failure>); 4] = [
        (&[&atom("return"), &atom("v")], Ok(atom("v"))),
        (
            &[&atom("throw"), &atom("t")],
            Err(Failure::Exception {
                class: "throw".into(),
                reason: atom("t"),
                stack: call::nil(),
            }),
        ),
        (
            &[&atom("exit"), &atom("x")],
            Err(Failure::Exception {
                class: "exit".into(),
                reason: atom("x"),
                stack: call::nil(),
            }),
        ),
        (
            &[&atom("error"), &atom("e"), &atom("stack")],
            Err(Failure::Exception {
                class: "error".into(),
                reason: atom("e"),
                stack: atom("stack"),
            }),
        ),
    ];
    for (fields, expected) in cases {
        let mut bench = Bench::new();
        bench.input(call(2000));
        assert!(matches!(
            &bench.written()[..],
            [Message::SpawnRequest { .. }]
        ));
        let (reply, end) = (
            spawn_reply(&bench, 2000, peer(50)),
            answer(&bench, 2000, fields),
        );
        bench.receive(reply).receive(end);
        assert_eq!(finished(&mut bench), [(2000, expected)]);
        assert!(bench.is_empty() && bench.written().is_empty());
    }
}

#[test]
fn our_call_fails_when_the_process_is_killed_or_refused() {
    let mut bench = Bench::new();
    bench.input(call(2000)).input(call(2001));
    let killed = Message::MonitorExit {
        target: peer(50),
        watcher: bench.own_pid(CALLER),
        reference: bench.own_reference(2000),
        reason: atom("killed"),
    };
    let (reply, refused) = (
        spawn_reply(&bench, 2000, peer(50)),
        spawn_reply(&bench, 2001, atom("notsup")),
    );
    bench.receive(reply).receive(killed).receive(refused);
    assert_eq!(
        finished(&mut bench),
        [
            (2000, Err(Failure::Exit(atom("killed")))),
            (2001, Err(Failure::Refused("notsup".into())))
        ]
    );
    assert!(bench.is_empty());
}

#[test]
fn an_abandoned_function_call_is_taken_back_only_after_its_spawn_reply() {
    let mut bench = Bench::new();
    bench.input(call(2000));
    bench.written();
    bench.input(Input::Abandon(2000));
    assert_eq!(bench.written(), []);
    let reply = spawn_reply(&bench, 2000, peer(50));
    assert_eq!(
        bench.receive(reply).written(),
        [Message::Demonitor {
            watcher: bench.own_pid(CALLER),
            target: peer(50),
            reference: bench.own_reference(2000)
        }]
    );
    assert!(bench.is_empty() && bench.others.is_empty());

    // Answered or refused before it heard of that: nothing is left either.
    bench.input(call(2001)).input(Input::Abandon(2001));
    let refused = spawn_reply(&bench, 2001, atom("system_limit"));
    bench.receive(refused);
    assert!(bench.is_empty() && bench.others.is_empty());
}

#[test]
fn an_abandoned_call_after_its_spawn_reply_is_taken_back_at_once() {
    let mut bench = Bench::new();
    bench.input(call(2000));
    let reply = spawn_reply(&bench, 2000, peer(50));
    bench.receive(reply).written();
    assert!(matches!(
        &bench.input(Input::Abandon(2000)).written()[..],
        [Message::Demonitor { target, .. }] if *target == peer(50)
    ));
    let late = answer(&bench, 2000, &[&atom("return"), &atom("late")]);
    bench.receive(late);
    assert!(bench.is_empty() && bench.others.is_empty());
}

#[test]
fn a_gen_call_of_ours_is_answered_once_by_alias_or_pid() {
    let reply_to = |bench: &Bench, by_alias: bool| {
        let reference = bench.own_reference(2000);
        let tag = term::improper([term::atom("alias")], reference.decode().unwrap());
        let message = raw(term::tuple([tag, term::atom("v")]));
        match by_alias {
            true => Message::AliasSend {
                from: peer(5),
                alias: reference,
                owner: None,
                message,
            },
            false => Message::Send {
                to: bench.own_pid(CALLER),
                message,
            },
        }
    };
    for by_alias in [true, false] {
        let mut bench = Bench::new();
        bench.input(gen_call_input(2000));
        assert!(matches!(
            &bench.written()[..],
            [Message::Monitor { .. }, Message::RegSend { .. }]
        ));
        let (first, second) = (reply_to(&bench, by_alias), reply_to(&bench, !by_alias));
        bench.receive(first);
        assert_eq!(finished(&mut bench), [(2000, Ok(atom("v")))]);
        assert!(matches!(&bench.written()[..], [Message::Demonitor { .. }]));
        bench.receive(second);
        assert!(bench.is_empty() && bench.others.is_empty() && bench.written().is_empty());
    }
}

#[test]
fn a_gen_call_of_ours_to_an_absent_name_fails_with_noproc() {
    let mut bench = Bench::new();
    bench.input(gen_call_input(2000));
    let noproc = Message::MonitorExit {
        target: atom("server"),
        watcher: bench.own_pid(CALLER),
        reference: bench.own_reference(2000),
        reason: atom("noproc"),
    };
    bench.receive(noproc);
    assert_eq!(
        finished(&mut bench),
        [(2000, Err(Failure::Exit(atom("noproc"))))]
    );
    assert!(bench.is_empty());
}

#[test]
fn a_message_to_the_reference_of_a_function_call_is_no_answer_to_it() {
    let mut bench = Bench::new();
    bench.input(call(2000));
    let forged = Message::AliasSend {
        from: peer(5),
        alias: bench.own_reference(2000),
        owner: None,
        message: raw(term::tuple([term::atom("x"), term::atom("forged")])),
    };
    bench.receive(forged);
    assert!(bench.others.is_empty() && !bench.is_empty());
}

#[test]
fn output_of_what_we_call_is_acknowledged() {
    let mut bench = Bench::new();
    let request = |what: Term| Message::Send {
        to: bench.own_pid(CALLER),
        message: raw(term::tuple([
            term::atom("io_request"),
            Pid::new("peer@h", 1, 0, 9).into(),
            reference_term(5),
            what,
        ])),
    };
    let chars = |kind: &str| {
        term::tuple([
            term::atom(kind),
            term::atom("unicode"),
            term::binary(*b"hello"),
        ])
    };
    let error = |why: &str| term::tuple([term::atom("error"), term::atom(why)]);
    let cases = [
        (chars("put_chars"), term::atom("ok")),
        (chars("get_line"), term::atom("eof")),
        (term::atom("getopts"), term::nil()),
        (
            term::tuple([term::atom("get_geometry"), term::atom("rows")]),
            error("enotsup"),
        ),
        (term::atom("what"), error("request")),
    ];
    let cases: Vec<_> = cases.map(|(r, a)| (request(r), a)).into();
    for (request, answer) in cases {
        assert_eq!(
            bench.receive(request).written(),
            [Message::Send {
                to: peer(1),
                message: raw(term::tuple([
                    term::atom("io_reply"),
                    reference_term(5),
                    answer
                ]))
            }]
        );
    }
}

#[test]
fn nothing_is_left_after_the_end() {
    let mut bench = Bench::new();
    let (erpc, _) = bench.parked_erpc();
    bench.receive(gen_call_to("echo", alias_tag(5), term::nil()));
    let caller = bench.asked();
    let parked = bench.state.park(caller);
    let args = term::list([term::atom("m"), term::atom("f"), term::nil()]);
    let (cast, _) = bench.parked(&mfa("erpc", "execute_cast", 3), &[], args);
    bench
        .input(call(2000))
        .input(gen_call_input(2001))
        .input(call(2002))
        .input(Input::Abandon(2002));
    assert!(bench.others.is_empty());

    let mut effects = Vec::new();
    bench.state.close(&DownReason::Closed, &mut effects);
    assert!(bench.is_empty());
    let (mut told, mut cancelled, mut returned) = (Vec::new(), Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Finish(number, Err(Failure::NoConnection(DownReason::Closed))) => {
                told.push(number)
            }
            Effect::Cancel(number) => cancelled.push(number),
            Effect::Returned(number, _) => returned.push(number),
            other => panic!("{other:?}"),
        }
    }
    told.sort_unstable();
    cancelled.sort_unstable();
    assert_eq!(
        returned,
        [cast],
        "others hear that nobody follows it any more"
    );
    assert_eq!(told, [2000, 2001]);
    assert_eq!(cancelled, [erpc, parked], "and {cast}, a cast, runs on");
}

#[test]
fn a_silent_peer_is_dropped_after_the_tick_time() {
    let mut bench = Bench::new();
    let start = bench.start;
    bench.state.read(start + SECOND);
    let almost = start + 60 * SECOND + SECOND / 2;
    assert!(bench.state.wake(almost, false, true).is_ok());
    assert_eq!(
        bench.state.wake(start + 61 * SECOND, false, true),
        Err(DownReason::TickTimeout)
    );
}

#[test]
fn our_own_tick_is_never_later_than_a_quarter_of_the_tick_time() {
    let mut bench = Bench::new();
    let mut now = bench.start;
    let mut written = now;
    // Looked at every eighth of the tick time, with a tick written whenever it is asked for.
    for _ in 0..100 {
        now += 60 * SECOND / 8;
        bench.state.read(now);
        if bench.state.wake(now, false, true) == Ok(true) {
            assert!(now - written <= 15 * SECOND);
            bench.state.wrote(now, false);
            written = now;
        }
        assert!(now - written < 15 * SECOND, "nothing written for too long");
    }
}

#[test]
fn a_peer_that_takes_no_bytes_is_cut_off_and_one_that_is_slow_is_not() {
    let mut bench = Bench::new();
    let start = bench.start;
    let mut now = start;
    // Slow, and so full that we do not read: its silence is ours.
    for _ in 0..30 {
        now += 10 * SECOND;
        bench.state.wrote(now, true);
        assert_eq!(bench.state.wake(now, true, false), Ok(false));
    }
    let stuck = now;
    loop {
        now += 10 * SECOND;
        match bench.state.wake(now, true, false) {
            Ok(tick) => assert!(!tick && now - stuck < 60 * SECOND),
            Err(reason) => {
                assert_eq!((reason, now - stuck), (DownReason::NotReading, 60 * SECOND));
                return;
            }
        }
    }
}
