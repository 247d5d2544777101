use super::*;
use crate::{
    dist::{
        frame::{Agreed, Decoder, FrameError, PASS_THROUGH, VERSION},
        outbox::{COPY_UP_TO, Outbox},
    },
    term::{self, Limits, Term},
};
use bytes::Buf;
use eetf::{Atom, FixInteger, List, Pid, Reference};
use erl_dist::{message::Message as Theirs, term::Mfa, term::PidOrAtom};
use proptest::{collection::vec, prelude::*};

/// Terms of every kind that a control message or a payload has.
pub(in crate::dist) fn any_raw() -> impl Strategy<Value = Raw> {
    let leaf = prop_oneof![
        "[a-z$]{0,6}".prop_map(term::atom),
        any::<i64>().prop_map(term::int),
        vec(any::<u8>(), 0..40).prop_map(term::binary),
        "[a-z]{0,6}".prop_map(|text| term::string(&text)),
        any::<(u32, u32, u32)>()
            .prop_map(|(id, serial, creation)| Term::from(Pid::new("a@h", id, serial, creation))),
        vec(any::<u32>(), 1..=5).prop_map(|id| {
            Term::from(Reference {
                node: Atom::from("a@h"),
                id,
                creation: 9,
            })
        }),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(term::tuple),
            vec(inner, 0..4).prop_map(term::list),
        ]
    })
    .prop_map(|term| Raw::encode(&term))
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        any_raw().prop_map(Body::from),
        (any_raw(), any_raw()).prop_map(|(a, b)| Body::pair(&a, &b)),
        // Longer than what the outbox copies.
        any_raw().prop_map(|a| Body::pair(&a, &large(COPY_UP_TO + 1))),
    ]
}

pub(in crate::dist) fn large(length: usize) -> Raw {
    Raw::encode(&term::binary(vec![7; length]))
}

pub(in crate::dist) fn any_message() -> impl Strategy<Value = Message<Body>> {
    let fields = (any_raw(), any_raw(), any_raw(), any_raw(), any_raw());
    (0..14, fields, any_body(), any::<i64>()).prop_map(|(kind, (a, b, c, d, e), body, flags)| {
        match kind {
            0 => Message::Send {
                to: a,
                message: body,
            },
            1 => Message::RegSend {
                from: a,
                to: b,
                message: body,
            },
            2 => Message::AliasSend {
                from: a,
                alias: b,
                owner: None,
                message: body,
            },
            3 => Message::Link { from: a, to: b },
            4 => Message::Unlink {
                id: a,
                from: b,
                to: c,
            },
            5 => Message::UnlinkAck {
                id: a,
                from: b,
                to: c,
            },
            6 => Message::Exit {
                from: a,
                to: b,
                reason: body,
            },
            7 => Message::Exit2 {
                from: a,
                to: b,
                reason: body,
            },
            8 => Message::Monitor {
                watcher: a,
                target: b,
                reference: c,
            },
            9 => Message::Demonitor {
                watcher: a,
                target: b,
                reference: c,
            },
            10 => Message::MonitorExit {
                target: a,
                watcher: b,
                reference: c,
                reason: body,
            },
            11 => Message::GroupLeader { leader: a, pid: b },
            12 => Message::SpawnRequest {
                id: a,
                from: b,
                leader: c,
                mfa: d,
                options: e,
                args: body,
            },
            _ => Message::SpawnReply {
                id: a,
                to: b,
                flags,
                result: c,
            },
        }
    })
}

/// The message as it is read: every payload is one term.
pub(in crate::dist) fn read(message: &Message<Body>) -> Message<Raw> {
    match message.clone() {
        Message::Send { to, message } => Message::Send {
            to,
            message: message.term(),
        },
        Message::RegSend { from, to, message } => Message::RegSend {
            from,
            to,
            message: message.term(),
        },
        Message::AliasSend {
            from,
            alias,
            message,
            ..
        } => Message::AliasSend {
            from,
            alias,
            owner: None,
            message: message.term(),
        },
        Message::Link { from, to } => Message::Link { from, to },
        Message::Unlink { id, from, to } => Message::Unlink { id, from, to },
        Message::UnlinkAck { id, from, to } => Message::UnlinkAck { id, from, to },
        Message::Exit { from, to, reason } => Message::Exit {
            from,
            to,
            reason: reason.term(),
        },
        Message::Exit2 { from, to, reason } => Message::Exit2 {
            from,
            to,
            reason: reason.term(),
        },
        Message::Monitor {
            watcher,
            target,
            reference,
        } => Message::Monitor {
            watcher,
            target,
            reference,
        },
        Message::Demonitor {
            watcher,
            target,
            reference,
        } => Message::Demonitor {
            watcher,
            target,
            reference,
        },
        Message::MonitorExit {
            target,
            watcher,
            reference,
            reason,
        } => Message::MonitorExit {
            target,
            watcher,
            reference,
            reason: reason.term(),
        },
        Message::GroupLeader { leader, pid } => Message::GroupLeader { leader, pid },
        Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            args,
        } => Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            args: args.term(),
        },
        Message::SpawnReply {
            id,
            to,
            flags,
            result,
        } => Message::SpawnReply {
            id,
            to,
            flags,
            result,
        },
    }
}

/// The bytes of messages as the socket would see them.
fn written(messages: &[Message<Body>]) -> Bytes {
    let mut out = Outbox::new(Agreed::default());
    for message in messages {
        out.push(message.clone()).unwrap();
    }
    let length = out.remaining();
    out.copy_to_bytes(length)
}

/// One frame without its length.
fn frame(message: &Message<Body>) -> Bytes {
    let bytes = written(std::slice::from_ref(message));
    assert_eq!(bytes[..4], (bytes.len() as u32 - 4).to_be_bytes());
    bytes.slice(4..)
}

/// A frame as a peer writes it: a control tuple and perhaps a payload.
fn crafted(op: i64, fields: &[&Raw], payload: Option<&Raw>) -> Bytes {
    let mut out = BytesMut::from(&[PASS_THROUGH, VERSION][..]);
    put_tuple(&mut out, fields.len() + 1);
    put_int(&mut out, op);
    for field in fields {
        put_raw(&mut out, field);
    }
    if let Some(payload) = payload {
        out.extend_from_slice(&[VERSION]);
        put_raw(&mut out, payload);
    }
    out.freeze()
}

fn decoded(frame: &Bytes) -> Result<Message<Raw>, FrameError> {
    let mut decoder = Decoder::new(Agreed::default(), Limits::default(), usize::MAX);
    decoder
        .decode(frame)
        .map(|message| message.expect("a whole message"))
}

pub(in crate::dist) fn raw(term: impl Into<Term>) -> Raw {
    Raw::encode(&term.into())
}

pub(in crate::dist) fn atom(name: &str) -> Raw {
    raw(term::atom(name))
}

pub(in crate::dist) fn pid(id: u32) -> Pid {
    Pid::new("a@h", id, 0, 9)
}

pub(in crate::dist) fn reference(id: u32) -> Reference {
    Reference {
        node: Atom::from("a@h"),
        id: vec![id, 2, 3],
        creation: 9,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in any_message()) {
        prop_assert_eq!(decoded(&frame(&message)).unwrap(), read(&message));
    }

    #[test]
    fn a_frame_that_is_cut_off_is_an_error(message in any_message(), at: prop::sample::Index) {
        let whole = frame(&message);
        let cut = whole.slice(..at.index(whole.len()));
        match decoded(&cut) {
            // Its caller is owed an answer; the arguments are no list, so it is an error.
            Ok(Message::SpawnRequest { args, .. }) => prop_assert!(args.view().list().is_none()),
            other => prop_assert!(other.is_err()),
        }
    }

    #[test]
    fn bytes_after_the_payload_change_nothing(message in any_message(), more in vec(any::<u8>(), 0..9)) {
        let bytes = [&frame(&message)[..], &more].concat();
        // After a control message without payload they are not looked at either.
        prop_assert_eq!(decoded(&bytes.into()).unwrap(), read(&message));
    }

    #[test]
    fn changed_bytes_are_an_error_or_another_message_and_never_a_panic(
        message in any_message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = frame(&message).to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decoded(&bytes.into());
    }

    #[test]
    fn garbage_is_never_a_panic(bytes in vec(any::<u8>(), 0..200), framed: bool) {
        let bytes = if framed { [&[PASS_THROUGH, VERSION, 104], &bytes[..]].concat() } else { bytes };
        let _ = decoded(&bytes.into());
    }
}

#[test]
fn a_trace_token_does_not_shift_the_fields() {
    let (a, b, token) = (&raw(pid(1)), &raw(pid(2)), &atom("token"));
    let (name, payload) = (&atom("name"), &atom("payload"));
    let reference = &raw(reference(5));
    let message = payload.clone();
    let send = Message::Send {
        to: b.clone(),
        message: message.clone(),
    };
    assert_eq!(
        decoded(&crafted(12, &[&atom(""), b, token], Some(payload))).unwrap(),
        send
    );
    assert_eq!(decoded(&crafted(22, &[a, b], Some(payload))).unwrap(), send);
    assert_eq!(
        decoded(&crafted(23, &[a, b, token], Some(payload))).unwrap(),
        send
    );
    assert_eq!(
        decoded(&crafted(16, &[a, &atom(""), name, token], Some(payload))).unwrap(),
        Message::RegSend {
            from: a.clone(),
            to: name.clone(),
            message: message.clone()
        }
    );
    assert_eq!(
        decoded(&crafted(34, &[a, reference, token], Some(payload))).unwrap(),
        Message::AliasSend {
            from: a.clone(),
            alias: reference.clone(),
            owner: None,
            message: message.clone()
        }
    );
    let exit = Message::Exit {
        from: a.clone(),
        to: b.clone(),
        reason: message.clone(),
    };
    assert_eq!(decoded(&crafted(3, &[a, b, payload], None)).unwrap(), exit);
    assert_eq!(
        decoded(&crafted(13, &[a, b, token, payload], None)).unwrap(),
        exit
    );
    assert_eq!(
        decoded(&crafted(25, &[a, b, token], Some(payload))).unwrap(),
        exit
    );
    let exit2 = Message::Exit2 {
        from: a.clone(),
        to: b.clone(),
        reason: message.clone(),
    };
    assert_eq!(decoded(&crafted(8, &[a, b, payload], None)).unwrap(), exit2);
    assert_eq!(
        decoded(&crafted(18, &[a, b, token, payload], None)).unwrap(),
        exit2
    );
    assert_eq!(
        decoded(&crafted(27, &[a, b, token], Some(payload))).unwrap(),
        exit2
    );
    assert_eq!(
        decoded(&crafted(21, &[a, b, reference, payload], None)).unwrap(),
        Message::MonitorExit {
            target: a.clone(),
            watcher: b.clone(),
            reference: reference.clone(),
            reason: message.clone()
        }
    );
    let (mfa, options) = (&raw(term::tuple([])), &raw(term::nil()));
    assert_eq!(
        decoded(&crafted(
            30,
            &[reference, a, b, mfa, options, token],
            Some(payload)
        ))
        .unwrap(),
        Message::SpawnRequest {
            id: reference.clone(),
            from: a.clone(),
            leader: b.clone(),
            mfa: mfa.clone(),
            options: options.clone(),
            args: message
        }
    );
    assert_eq!(
        decoded(&crafted(
            32,
            &[reference, a, &raw(term::int(3)), b, token],
            None
        ))
        .unwrap(),
        Message::SpawnReply {
            id: reference.clone(),
            to: a.clone(),
            flags: 3,
            result: b.clone()
        }
    );
}

#[test]
fn what_was_not_agreed_upon_is_an_error_that_names_it() {
    let pid = &raw(pid(1));
    for (bytes, text) in [
        (Bytes::from_static(&[VERSION, 68, 0]), "begins with 68"),
        (Bytes::from_static(&[PASS_THROUGH, 104]), "begins with 112"),
        (crafted(37, &[pid, pid], None), "operation 37 with 3 fields"),
        (crafted(99, &[], None), "99"),
        (crafted(1, &[pid], None), "operation 1 with 2 fields"),
        (crafted(2, &[pid, pid], None), "without its payload"),
        (
            crafted(2, &[&atom(""), pid], Some(&large(100))).slice(..60),
            "whose payload is no term",
        ),
    ] {
        let error = decoded(&bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
}

#[test]
fn the_flags_of_operation_37_say_what_is_sent_to_whom() {
    let (from, to, payload) = (&raw(pid(1)), &raw(pid(2)), &atom("payload"));
    let (alias, name, token) = (&raw(reference(5)), &atom("name"), &atom("token"));
    let message = payload.clone();
    let read = |flags: Term, to: &Raw| {
        let plain = decoded(&crafted(
            37,
            &[&raw(flags.clone()), from, to],
            Some(payload),
        ));
        let traced = decoded(&crafted(37, &[&raw(flags), from, to, token], Some(payload)));
        assert_eq!(plain.as_ref().unwrap(), &traced.unwrap());
        plain.unwrap()
    };
    let (from, to, alias, name) = (from.clone(), to.clone(), alias.clone(), name.clone());
    // Bit 0 is the priority, bit 1 says that a token follows: neither changes what arrives.
    for priority in 0..2 {
        let message = message.clone();
        let sent = Message::AliasSend {
            from: from.clone(),
            alias: alias.clone(),
            owner: None,
            message: message.clone(),
        };
        assert_eq!(read(term::int(4 | priority), &alias), sent);
        let sent = Message::RegSend {
            from: from.clone(),
            to: name.clone(),
            message: message.clone(),
        };
        assert_eq!(read(term::int(8 | priority), &name), sent);
        let sent = Message::Exit2 {
            from: from.clone(),
            to: to.clone(),
            reason: message.clone(),
        };
        assert_eq!(read(term::int(16 | priority), &to), sent);
        let sent = Message::Send {
            to: to.clone(),
            message,
        };
        assert_eq!(read(term::int(priority), &to), sent);
    }
}

/// A caller of `spawn/4` or `rpc:call/4` waits for ever without an answer, so what is left of its request must arrive.
#[test]
fn a_spawn_request_with_unreadable_arguments_still_arrives() {
    let (id, from) = (&raw(reference(1)), &raw(pid(1)));
    let whole = crafted(
        29,
        &[id, from, from, &raw(term::tuple([])), &raw(term::nil())],
        Some(&large(100)),
    );
    for frame in [
        whole.slice(..whole.len() - 1),
        whole.slice(..whole.len() - 106),
    ] {
        match decoded(&frame) {
            Ok(Message::SpawnRequest { id: got, args, .. }) => {
                assert_eq!(got, *id);
                assert!(args.view().list().is_none(), "{args:?} could be applied");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_crate_reads_what_we_write() {
    let (a, b, r) = (raw(pid(1)), raw(pid(2)), raw(reference(5)));
    let value = term::tuple([term::atom("x"), term::binary(vec![1; 20])]);
    let body = || Body::from(raw(value.clone()));
    let name = || PidOrAtom::Atom(Atom::from("name"));
    let own = || PidOrAtom::Pid(pid(1));
    let mfa = Mfa {
        module: Atom::from("m"),
        function: Atom::from("f"),
        arity: FixInteger::from(1),
    };
    let cases = [
        (
            Message::Send {
                to: a.clone(),
                message: body(),
            },
            Theirs::send(pid(1), value.clone()),
        ),
        (
            Message::RegSend {
                from: a.clone(),
                to: atom("name"),
                message: body(),
            },
            Theirs::reg_send(pid(1), Atom::from("name"), value.clone()),
        ),
        (
            Message::AliasSend {
                from: a.clone(),
                alias: r.clone(),
                owner: None,
                message: body(),
            },
            Theirs::alias_send(pid(1), reference(5), value.clone()),
        ),
        (
            Message::Link {
                from: a.clone(),
                to: b.clone(),
            },
            Theirs::link(pid(1), pid(2)),
        ),
        (
            Message::Unlink {
                id: raw(term::int(7)),
                from: a.clone(),
                to: b.clone(),
            },
            Theirs::unlink_id(term::int(7), pid(1), pid(2)),
        ),
        (
            Message::UnlinkAck {
                id: raw(term::int(7)),
                from: a.clone(),
                to: b.clone(),
            },
            Theirs::unlink_id_ack(term::int(7), pid(1), pid(2)),
        ),
        (
            Message::Exit {
                from: a.clone(),
                to: b.clone(),
                reason: body(),
            },
            Theirs::payload_exit(pid(1), pid(2), value.clone()),
        ),
        (
            Message::Exit2 {
                from: a.clone(),
                to: b.clone(),
                reason: body(),
            },
            Theirs::payload_exit2(pid(1), pid(2), value.clone()),
        ),
        (
            Message::Monitor {
                watcher: a.clone(),
                target: atom("name"),
                reference: r.clone(),
            },
            Theirs::monitor_p(pid(1), name(), reference(5)),
        ),
        (
            Message::Demonitor {
                watcher: a.clone(),
                target: atom("name"),
                reference: r.clone(),
            },
            Theirs::demonitor_p(pid(1), name(), reference(5)),
        ),
        (
            Message::MonitorExit {
                target: a.clone(),
                watcher: b.clone(),
                reference: r.clone(),
                reason: body(),
            },
            Theirs::payload_monitor_p_exit(own(), pid(2), reference(5), value.clone()),
        ),
        (
            Message::GroupLeader {
                leader: a.clone(),
                pid: b.clone(),
            },
            Theirs::group_leader(pid(1), pid(2)),
        ),
        (
            Message::SpawnRequest {
                id: r.clone(),
                from: a.clone(),
                leader: b.clone(),
                mfa: raw(term::tuple([
                    term::atom("m"),
                    term::atom("f"),
                    term::int(1),
                ])),
                options: raw(term::list([term::atom("monitor")])),
                args: raw(term::list([value.clone()])).into(),
            },
            Theirs::spawn_request(
                reference(5),
                pid(1),
                pid(2),
                mfa,
                List::from(vec![term::atom("monitor")]),
                List::from(vec![value.clone()]),
            ),
        ),
        (
            Message::SpawnReply {
                id: r.clone(),
                to: b.clone(),
                flags: 2,
                result: a.clone(),
            },
            Theirs::spawn_reply(reference(5), pid(2), FixInteger::from(2), own()),
        ),
    ];
    for (ours, theirs) in cases {
        // After the length and the 112, which the crate reads elsewhere.
        let bytes = frame(&ours);
        assert_eq!(Theirs::read_from(&mut &bytes[1..]).unwrap(), theirs);

        let mut bytes = vec![PASS_THROUGH];
        theirs.write_into(&mut bytes).unwrap();
        assert_eq!(decoded(&bytes.into()).unwrap(), read(&ours));
    }
}

#[test]
fn a_part_of_a_frame_shares_its_memory() {
    let bytes = frame(&Message::Send {
        to: raw(pid(1)),
        message: large(1024 * 1024).into(),
    });
    let Message::Send { message, .. } = decoded(&bytes).unwrap() else {
        panic!("not what was sent");
    };
    assert!(bytes.as_ptr_range().contains(&message.to_bytes().as_ptr()));
}
