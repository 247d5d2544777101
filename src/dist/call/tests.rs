use super::*;
use crate::term::{self, Limits, Term};
use eetf::{Atom as AtomTerm, Pid, Reference};
use proptest::prelude::*;

fn raw(term: impl Into<Term>) -> Raw {
    Raw::encode(&term.into())
}

fn pid(id: u32) -> Term {
    Pid::new("peer@h", id, 0, 9).into()
}

fn reference(words: Vec<u32>) -> Term {
    Reference {
        node: AtomTerm::from("peer@h"),
        id: words,
        creation: 9,
    }
    .into()
}

fn alias(words: Vec<u32>) -> Term {
    term::improper([term::atom("alias")], reference(words))
}

fn gen_call(tag: Term, request: Term) -> Raw {
    let from = term::tuple([pid(1), tag]);
    raw(term::tuple([term::atom("$gen_call"), from, request]))
}

fn caller(tag: Term) -> From {
    match open(gen_call(tag, term::atom("q"))) {
        Envelope::Call { from, request } => {
            assert_eq!(request, atom("q"));
            from
        }
        other => panic!("{other:?}"),
    }
}

fn body(message: &Message<Body>) -> Term {
    match message {
        Message::Send { message, .. } | Message::AliasSend { message, .. } => {
            message.term().decode().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// Every shape of tag that OTP 25 to 29 sends, where the answer goes, and the reference of the monitor in it.
fn tags() -> Vec<(Term, Option<Term>, Option<Term>)> {
    let (three, five) = (vec![1, 2, 3], vec![1, 2, 3, 4, 5]);
    let plain = reference(three.clone());
    vec![
        // gen_server:call, gen_statem:call, send_request
        (
            alias(three.clone()),
            Some(plain.clone()),
            Some(plain.clone()),
        ),
        (
            alias(five.clone()),
            Some(reference(five.clone())),
            Some(reference(five.clone())),
        ),
        // gen_server:multi_call since 27
        (
            term::improper([alias(five.clone())], plain.clone()),
            Some(reference(five.clone())),
            Some(plain.clone()),
        ),
        // and what gen:reply takes beside it
        (
            term::list([alias(five.clone()), term::atom("more")]),
            Some(reference(five.clone())),
            None,
        ),
        // multi_call of 25, and everybody before there were aliases
        (
            term::tuple([plain.clone(), term::atom("peer@h")]),
            None,
            None,
        ),
        (plain.clone(), None, Some(plain)),
        // C nodes and others: any term
        (term::atom("tag"), None, None),
        (term::nil(), None, None),
        (term::string("tag"), None, None),
        (
            term::improper([term::atom("alias")], term::atom("no_reference")),
            None,
            None,
        ),
        (
            term::list([term::atom("alias"), reference(five)]),
            None,
            None,
        ),
    ]
}

#[test]
fn a_reply_goes_to_the_alias_when_the_tag_has_one_and_else_to_the_pid() {
    let own = raw(pid(77));
    for (tag, alias, _) in tags() {
        let reply = caller(tag.clone()).reply(own.clone(), &atom("answer"));
        assert_eq!(
            body(&reply),
            term::tuple([tag.clone(), term::atom("answer")]),
            "the tag comes back as it was"
        );
        match (reply, alias) {
            (Message::AliasSend { from, alias, .. }, Some(expected)) => {
                assert_eq!((from, alias), (own.clone(), raw(expected)));
            }
            (Message::Send { to, .. }, None) => assert_eq!(to, raw(pid(1))),
            (other, _) => panic!("{tag:?}: {other:?}"),
        }
    }
}

#[test]
fn the_monitor_of_a_caller_is_found_in_its_tag() {
    for (tag, _, monitor) in tags() {
        assert_eq!(caller(tag.clone()).monitor, monitor.map(raw), "{tag:?}");
    }
}

#[test]
fn a_call_whose_from_is_no_pid_is_a_bare_message() {
    for from in [
        term::atom("x"),
        term::tuple([term::atom("no_pid"), alias(vec![1])]),
        term::tuple([pid(1)]),
    ] {
        let message = raw(term::tuple([
            term::atom("$gen_call"),
            from,
            term::atom("request"),
        ]));
        assert_eq!(open(message.clone()), Envelope::Bare(message));
    }
}

#[test]
fn casts_and_bare_messages_are_told_apart() {
    let cast = raw(term::tuple([term::atom("$gen_cast"), term::int(1)]));
    assert_eq!(open(cast), Envelope::Cast(raw(term::int(1))));
    let bare = raw(term::tuple([term::atom("data"), term::int(1)]));
    assert_eq!(open(bare.clone()), Envelope::Bare(bare));
}

fn mfa(module: &str, function: &str, arity: i64) -> Raw {
    raw(term::tuple([
        term::atom(module),
        term::atom(function),
        term::int(arity),
    ]))
}

/// `erpc:execute_call(ResRef, m, f, Args)` for any form of argument list.
fn erpc(args: Term) -> Task {
    let args = term::list([reference(vec![5]), term::atom("m"), term::atom("f"), args]);
    task(&mfa("erpc", "execute_call", 4), &raw(args)).unwrap()
}

fn reason(task: &Task, outcome: Outcome) -> Term {
    task.exit_reason(&outcome).term().decode().unwrap()
}

fn undef_stack() -> Term {
    term::list([term::tuple([
        term::atom("m"),
        term::atom("f"),
        term::list([term::int(5)]),
        term::nil(),
    ])])
}

#[test]
fn the_result_of_erpc_is_in_the_exit_reason() {
    // The list [5] arrives as a string.
    let task = erpc(term::list([term::int(5)]));
    assert_eq!((task.module.as_str(), task.function.as_str()), ("m", "f"));
    assert_eq!(task.args, [raw(term::int(5))]);
    let tagged = |rest: Vec<Term>| term::tuple([vec![reference(vec![5])], rest].concat());
    assert_eq!(
        reason(&task, Outcome::Reply(raw(term::int(1)))),
        tagged(vec![term::atom("return"), term::int(1)])
    );
    assert_eq!(
        reason(&task, Outcome::Error(atom("why"))),
        tagged(vec![term::atom("error"), term::atom("why"), term::nil()])
    );
    assert_eq!(
        reason(&task, Outcome::Undef),
        tagged(vec![
            term::atom("error"),
            term::atom("undef"),
            undef_stack()
        ])
    );
}

#[test]
fn a_spawned_process_ends_as_one_of_the_beam_would() {
    let args = raw(term::list([term::int(5)]));
    let task = task(&mfa("m", "f", 1), &args).unwrap();
    assert_eq!(task.style, Style::Process);
    assert_eq!(
        reason(&task, Outcome::Reply(atom("x"))),
        term::atom("normal")
    );
    assert_eq!(
        reason(&task, Outcome::Error(atom("why"))),
        term::tuple([term::atom("why"), term::nil()])
    );
    assert_eq!(
        reason(&task, Outcome::Undef),
        term::tuple([term::atom("undef"), undef_stack()])
    );
}

#[test]
fn rex_answers_the_value_or_badrpc() {
    let task = erpc(term::list([term::int(5)]));
    assert_eq!(task.rex_reply(&Outcome::Reply(atom("x"))), atom("x"));
    let exit = |reason: Term, stack: Term| {
        let exit = term::tuple([term::atom("EXIT"), term::tuple([reason, stack])]);
        term::tuple([term::atom("badrpc"), exit])
    };
    assert_eq!(
        task.rex_reply(&Outcome::Undef).decode().unwrap(),
        exit(term::atom("undef"), undef_stack())
    );
    assert_eq!(
        task.rex_reply(&Outcome::Error(atom("why")))
            .decode()
            .unwrap(),
        exit(term::atom("why"), term::nil())
    );
}

#[test]
fn a_cast_function_and_a_call_without_arguments_are_read() {
    let args = raw(term::list([term::atom("m"), term::atom("f"), term::nil()]));
    let cast = task(&mfa("erpc", "execute_cast", 3), &args).unwrap();
    assert_eq!((cast.args.len(), &cast.style), (0, &Style::Process));
    assert!(erpc(term::nil()).args.is_empty());
}

#[test]
fn what_cannot_be_applied_is_no_task() {
    let args = raw(term::list([]));
    for mfa in [
        atom("m"),
        raw(term::tuple([term::atom("m"), term::int(1), term::int(0)])),
    ] {
        assert!(task(&mfa, &args).is_none());
    }
    let improper = raw(term::improper([term::int(1)], term::int(2)));
    for args in [improper, atom("unreadable")] {
        assert!(task(&mfa("m", "f", 1), &args).is_none());
    }
    let no_list = term::list([
        reference(vec![5]),
        term::atom("m"),
        term::atom("f"),
        term::atom("x"),
    ]);
    assert!(task(&mfa("erpc", "execute_call", 4), &raw(no_list)).is_none());
}

proptest! {
    #[test]
    fn any_message_can_be_opened(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok((message, _)) = Raw::check_prefix(&bytes.into(), &Limits::default()) {
            let _ = open(message.clone());
            let _ = task(&message, &message);
        }
    }
}
