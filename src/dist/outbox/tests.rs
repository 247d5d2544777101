use super::*;
use crate::{
    dist::{
        frame::Decoder,
        message::tests::{any_message, atom, large, pid, raw, read, reference},
    },
    term::{self, Limits, Term},
};
use proptest::{collection::vec, prelude::*};

const CACHE: Agreed = Agreed {
    cache: true,
    fragments: false,
    altact: false,
    records: false,
};
const BOTH: Agreed = Agreed {
    cache: true,
    fragments: true,
    altact: true,
    records: true,
};
const ALL: [Agreed; 4] = [
    Agreed {
        cache: false,
        fragments: false,
        altact: false,
        records: false,
    },
    CACHE,
    Agreed {
        cache: false,
        fragments: true,
        altact: false,
        records: false,
    },
    BOTH,
];

/// The other end: frames out of a stream of bytes, and messages out of those.
struct Reader {
    decoder: Decoder,
    bytes: BytesMut,
    frames: Vec<Bytes>,
}

impl Reader {
    fn new(agreed: Agreed) -> Self {
        Self {
            decoder: Decoder::new(agreed, Limits::default(), usize::MAX / 2),
            bytes: BytesMut::new(),
            frames: Vec::new(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Message<Raw>> {
        self.bytes.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(head) = self.bytes.first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if self.bytes.len() < length + 4 {
                break;
            }
            self.bytes.advance(4);
            let frame = self.bytes.split_to(length).freeze();
            if frame.is_empty() {
                continue;
            }
            messages.extend(self.decoder.decode(&frame).unwrap());
            self.frames.push(frame);
        }
        messages
    }

    fn all(&mut self, out: &mut Outbox) -> Vec<Message<Raw>> {
        let mut messages = Vec::new();
        while !out.is_empty() {
            let _ = out.refill();
            let bytes = out.copy_to_bytes(out.remaining());
            messages.extend(self.feed(&bytes));
        }
        assert_eq!((out.len(), out.large()), (0, 0));
        assert!(out.receivers.is_empty(), "nothing is left behind");
        messages
    }
}

fn send(to: u32, message: Raw) -> Message<Body> {
    Message::Send {
        to: raw(pid(to)),
        message: message.into(),
    }
}

fn push_all(out: &mut Outbox, messages: &[Message<Body>]) {
    for message in messages {
        out.push(message.clone()).unwrap();
    }
}

/// Every kind of term that a message can bring, more than its header has room for among them.
fn wide(atoms: usize) -> Raw {
    let atoms = (0..atoms).map(|n| term::atom(format!("atom_{n}")));
    Raw::encode(&term::list(atoms.collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_written_is_read_back_whatever_was_agreed(messages in vec(any_message(), 1..8)) {
        for agreed in ALL {
            let mut out = Outbox::new(agreed);
            push_all(&mut out, &messages);
            let got = Reader::new(agreed).all(&mut out);
            let expected: Vec<_> = messages.iter().map(read).collect();
            prop_assert_eq!(got, expected);
        }
    }

    /// What came with atoms in its header is passed on over another connection, with another header or none.
    #[test]
    fn what_is_passed_on_is_the_same_term(messages in vec(any_message(), 1..5), size in 0..4000_usize) {
        let payload = Raw::encode(&term::tuple([wide(size / 10).decode().unwrap(), term::binary(vec![1; size])]));
        let mut first = Outbox::new(BOTH);
        push_all(&mut first, &messages);
        first.push(send(9, payload.clone())).unwrap();
        let arrived = Reader::new(BOTH).all(&mut first);
        for agreed in ALL {
            let mut out = Outbox::new(agreed);
            for message in &arrived {
                if let Message::Send { to, message } = message {
                    let message = Body::pair(to, message);
                    out.push(Message::Send { to: to.clone(), message }).unwrap();
                }
            }
            for message in Reader::new(agreed).all(&mut out) {
                let Message::Send { to, message } = message else { panic!("{message:?}") };
                let [first, second] = message.view().tuple_n::<2>().unwrap();
                prop_assert_eq!(first, to.view());
                let passed = Message::Send { to: to.clone(), message: message.sub(second) };
                prop_assert!(arrived.contains(&passed), "another term");
            }
        }
    }

    /// Whatever the socket takes at a time, and however often something is added meanwhile, the same messages come, and
    /// those to one receiver in their order.
    #[test]
    fn any_steps_bring_the_same_messages(
        messages in vec((0..3_u32, prop_oneof![0..2000_usize, 60_000..300_000_usize]), 1..12),
        steps in vec(1..100_000_usize, 0..60),
    ) {
        for agreed in ALL {
            let (mut out, mut reader) = (Outbox::new(agreed), Reader::new(agreed));
            let mut got: HashMap<Raw, Vec<usize>> = HashMap::new();
            let mut steps = steps.iter().copied().chain(std::iter::repeat(40_000));
            let mut left = messages.iter();
            loop {
                if let Some((to, size)) = left.next() {
                    out.push(send(*to, large(*size))).unwrap();
                } else if out.is_empty() {
                    break;
                }
                let _ = out.refill();
                let mut slices = [IoSlice::new(&[]); 64];
                let filled = out.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
                prop_assert_eq!(seen.len(), out.remaining(), "64 slices hold these few pieces");
                prop_assert!(!out.chunk().is_empty() && seen.starts_with(out.chunk()));
                let step = steps.next().unwrap_or(1).min(seen.len());
                for message in reader.feed(&seen[..step]) {
                    let Message::Send { to, message } = message else { panic!("{message:?}") };
                    let size = message.view().as_binary().unwrap().len();
                    got.entry(to.compact()).or_default().push(size);
                }
                out.advance(step);
            }
            for to in 0..3 {
                let expected: Vec<usize> = messages.iter().filter(|(t, _)| *t == to).map(|(_, size)| *size).collect();
                prop_assert_eq!(got.remove(&raw(pid(to))).unwrap_or_default(), expected);
            }
        }
    }
}

#[test]
fn a_large_value_is_passed_on_without_being_copied() {
    for agreed in ALL {
        let value = large(1024 * 1024);
        let mut out = Outbox::new(agreed);
        out.push(Message::Send {
            to: raw(pid(1)),
            message: Body::pair(&atom("tag"), &value),
        })
        .unwrap();
        let value = value.to_bytes().as_ptr_range();
        let mut shared = 0;
        while !out.is_empty() {
            let _ = out.refill();
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = out.chunks_vectored(&mut slices);
            shared += slices[..filled]
                .iter()
                .filter(|slice| value.contains(&slice.as_ptr()))
                .map(|slice| slice.len())
                .sum::<usize>();
            out.advance(out.remaining());
        }
        // The beginning of what goes into the first fragment is copied together with its head.
        assert!(shared > 1024 * 1024 - FRAGMENT, "{agreed:?}: {shared}");
    }
}

#[test]
fn an_emptied_outbox_does_not_keep_its_memory() {
    for agreed in ALL {
        let small = send(1, atom("x"));
        let mut out = Outbox::new(agreed);
        // To the brim, so that no free capacity gives the size of what was allocated away.
        while out.len() < 1024 * 1024 || out.tail.capacity() - out.tail.len() > 200 {
            out.push(small.clone()).unwrap();
        }
        while out.has_remaining() {
            out.advance(out.chunk().len().min(100_000));
        }
        out.push(small).unwrap();
        // What can be used again shows only when it is asked for: the old memory would serve this at once.
        assert!(!out.tail.try_reclaim(512 * 1024), "a peak is kept for ever");
    }
}

#[test]
fn an_atom_is_written_out_once_and_then_named_by_its_entry() {
    let mut out = Outbox::new(CACHE);
    let mut reader = Reader::new(CACHE);
    let message = send(
        1,
        raw(term::list([
            term::atom("a_long_atom"),
            term::atom("a_long_atom"),
        ])),
    );
    push_all(&mut out, &[message.clone(), message.clone()]);
    assert_eq!(reader.all(&mut out), [read(&message), read(&message)]);
    let occurs = |frame: &Bytes| {
        frame
            .windows(11)
            .filter(|part| part == b"a_long_atom")
            .count()
    };
    assert_eq!(reader.frames.iter().map(occurs).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn atoms_beyond_the_255th_of_a_message_are_written_out() {
    for atoms in [254, 255, 256, 2000, 5000] {
        let mut out = Outbox::new(CACHE);
        let messages = [send(1, wide(atoms)), send(1, wide(3)), send(1, wide(atoms))];
        push_all(&mut out, &messages);
        let expected: Vec<_> = messages.iter().map(read).collect();
        assert_eq!(Reader::new(CACHE).all(&mut out), expected, "{atoms} atoms");
    }
}

#[test]
fn long_and_wide_atoms_go_through_the_header_too() {
    let atoms = [
        "x".repeat(255),
        "\u{1F600}".repeat(255),
        "ß".into(),
        String::new(),
    ];
    let atoms = atoms.map(term::atom);
    let message = send(1, raw(term::list(atoms)));
    let mut out = Outbox::new(CACHE);
    push_all(&mut out, &[message.clone(), message.clone()]);
    assert_eq!(
        Reader::new(CACHE).all(&mut out),
        [read(&message), read(&message)]
    );
}

/// The size of a fun stands in it, so atoms inside that change their length would make it wrong.
#[test]
fn a_local_fun_keeps_its_size_whatever_becomes_of_its_atoms() {
    let fun = |free_vars: Vec<Term>| {
        Term::from(eetf::InternalFun::New {
            module: eetf::Atom::from("some_module"),
            arity: 1,
            pid: pid(1),
            free_vars,
            index: 3,
            uniq: [7; 16],
            old_index: 3,
            old_uniq: 99,
        })
    };
    let fun = fun(vec![
        term::atom("inside"),
        fun(vec![term::atom("deeper")]),
        term::int(1),
    ]);
    // Written by a node whose entries go into funs as well, as OTP's do.
    let plain = raw(term::tuple([term::atom("f"), fun, term::atom("f")])).to_bytes();
    let names: Vec<std::sync::Arc<str>> = ["f", "some_module", "a@h", "inside", "deeper"]
        .map(Into::into)
        .into();
    let mut framed = Vec::new();
    let mut copied = 0;
    let mut sizes = Vec::new();
    walk(&plain, true, |met| match met {
        Met::Atom { at, len } => {
            let name = std::str::from_utf8(&plain[at + 2..at + len]).unwrap();
            let index = names.iter().position(|known| **known == *name).unwrap();
            framed.extend_from_slice(&plain[copied..at]);
            framed.extend_from_slice(&[CACHED_ATOM, index as u8]);
            copied = at + len;
        }
        Met::FunOpen { at } => {
            framed.extend_from_slice(&plain[copied..=at]);
            copied = at + 1;
            sizes.push(framed.len());
        }
        Met::FunClose { at } => {
            framed.extend_from_slice(&plain[copied..at]);
            copied = at;
            let at = sizes.pop().unwrap();
            let size = (framed.len() - at) as u32;
            framed[at..at + 4].copy_from_slice(&size.to_be_bytes());
        }
        Met::Fun { .. } | Met::Record => unreachable!("funs are walked into"),
    });
    framed.extend_from_slice(&plain[copied..]);
    let table = std::sync::Arc::new(AtomTable::new(names));
    let (term, _) = Raw::check_framed(&framed.into(), &Limits::default(), &table).unwrap();
    assert_eq!(term.to_bytes(), plain);
    assert_eq!(
        term.decode().unwrap(),
        Raw::check(plain, &Limits::default())
            .unwrap()
            .decode()
            .unwrap()
    );
    for agreed in ALL {
        let mut out = Outbox::new(agreed);
        out.push(send(1, term.clone())).unwrap();
        let [Message::Send { message, .. }] = &Reader::new(agreed).all(&mut out)[..] else {
            panic!("not what was sent");
        };
        assert_eq!(*message, term);
    }
}

#[test]
fn a_small_message_waits_for_two_fragments_of_a_large_one_and_no_more() {
    let mut out = Outbox::new(BOTH);
    let mut reader = Reader::new(BOTH);
    out.push(send(1, large(50 * FRAGMENT))).unwrap();
    let _ = out.refill();
    out.push(send(2, atom("small"))).unwrap();
    let bytes = out.copy_to_bytes(out.remaining());
    assert!(bytes.len() < 3 * FRAGMENT, "{}", bytes.len());
    assert_eq!(reader.feed(&bytes), [read(&send(2, atom("small")))]);
    // To the same receiver it must not pass.
    out.push(send(1, atom("behind"))).unwrap();
    out.push(send(2, atom("beside"))).unwrap();
    let got: Vec<Raw> = reader
        .all(&mut out)
        .into_iter()
        .map(|message| match message {
            Message::Send { message, .. } => message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, [atom("beside"), large(50 * FRAGMENT), atom("behind")]);
}

#[test]
fn an_answer_through_an_alias_does_not_pass_a_large_one_to_the_same_process() {
    let answer = |alias: u32, value: Raw| Message::AliasSend {
        from: raw(pid(99)),
        alias: raw(reference(alias)),
        owner: Some(raw(pid(1))),
        message: value.into(),
    };
    let mut out = Outbox::new(BOTH);
    push_all(
        &mut out,
        &[answer(1, large(5 * FRAGMENT)), answer(2, atom("second"))],
    );
    let aliases: Vec<Raw> = Reader::new(BOTH)
        .all(&mut out)
        .into_iter()
        .map(|message| match message {
            Message::AliasSend { alias, .. } => alias.compact(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(aliases, [raw(reference(1)), raw(reference(2))]);
}

#[test]
fn an_alias_is_sent_to_by_the_operation_that_the_peer_knows() {
    for (altact, operation) in [(false, 33), (true, 37)] {
        let agreed = Agreed { altact, ..CACHE };
        let mut out = Outbox::new(agreed);
        out.push(Message::AliasSend {
            from: raw(pid(1)),
            alias: raw(reference(1)),
            owner: None,
            message: atom("x").into(),
        })
        .unwrap();
        let mut reader = Reader::new(agreed);
        assert_eq!(reader.all(&mut out).len(), 1);
        // Behind 131, 68 and the header: a tuple whose first element is the operation.
        let frame = &reader.frames[0];
        let tuple = frame
            .windows(4)
            .find(|b| b[0] == 104 && b[2] == 97)
            .unwrap();
        assert_eq!(tuple[3], operation);
    }
}

/// OTP 28 and older drop the connection over a record.
#[test]
fn a_record_is_kept_from_a_peer_that_knows_none() {
    // #m:point{x = 1}
    let mut bytes = vec![104, 1, 67, 0, 0, 0, 1, 0, 119, 1, b'm', 119, 5];
    bytes.extend_from_slice(b"point");
    bytes.extend_from_slice(&[119, 1, b'x', 97, 1]);
    let record = Raw::check(bytes.into(), &Limits::default()).unwrap();
    let atoms = term::list(
        (0..300)
            .map(|n| term::atom(format!("a{n}")))
            .collect::<Vec<_>>(),
    );
    let long = Body::pair(&raw(atoms), &record).term();
    for term in [&record, &long] {
        // As it comes in from a peer that has them, with atoms in its header.
        let mut out = Outbox::new(BOTH);
        out.push(send(1, term.clone())).unwrap();
        let [Message::Send { message, .. }] = &Reader::new(BOTH).all(&mut out)[..] else {
            panic!("not what was sent");
        };
        assert_eq!(message, term);
        let wrapped = Body::pair(&atom("wrapped"), message).term();
        for agreed in [
            CACHE,
            Agreed {
                records: false,
                ..BOTH
            },
        ] {
            let mut out = Outbox::new(agreed);
            for term in [message, &wrapped] {
                assert_eq!(out.push(send(1, term.clone())), Err(Unfit::Record));
            }
            let fine = send(1, atom("point"));
            out.push(fine.clone()).unwrap();
            assert_eq!(Reader::new(agreed).all(&mut out), [read(&fine)]);
        }
    }
}

#[test]
fn it_is_told_when_a_record_that_waited_behind_a_large_message_is_not_sent() {
    let record = vec![67, 0, 0, 0, 0, 0, 119, 1, b'm', 119, 1, b'p'];
    let record = Raw::check(record.into(), &Limits::default()).unwrap();
    let large = raw(term::binary(vec![7; 10 * FRAGMENT]));
    let agreed = Agreed {
        records: false,
        ..BOTH
    };
    let mut out = Outbox::new(agreed);
    out.push(send(1, large)).unwrap();
    out.push(send(1, record)).unwrap();
    let mut unfit = Vec::new();
    while !out.is_empty() {
        unfit.extend(out.refill());
        out.advance(out.chunk().len());
    }
    assert_eq!(unfit, [Unfit::Record]);
}
