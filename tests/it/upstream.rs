//! The defects of `eetf` 0.11 and `erl_dist` 0.8 that docs/upstream.md tells of: that each is still there, so that we
//! notice when it is not. Then its paragraph goes, and what stands in for it here can.
//!
//! What ends the process runs in a process of its own, which may use 3 GiB of addresses.

use super::support::DEADLINE;
use super::terms::Erl;
use eetf::{
    Atom, BigInteger, BitBinary, ByteList, FixInteger, Float, ImproperList, InternalFun, List, Map,
    Pid, Reference, Term, Tuple,
};

use erl_dist::handshake::{
    ClientSideHandshake, HandshakeError, HandshakeStatus, ServerSideHandshake,
};
use erl_dist::message::{Message, Receiver, RecvError, Sender, channel};
use erl_dist::node::{Creation, LocalNode};
use erl_dist::{DistributionFlags, LOWEST_DISTRIBUTION_PROTOCOL_VERSION as VERSION};
use futures_util::{AsyncRead, AsyncWrite, FutureExt};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::compat::TokioAsyncReadCompatExt;

fn int(value: i32) -> Term {
    Term::from(FixInteger { value })
}

fn atom(name: &str) -> Term {
    Term::from(Atom::from(name))
}

/// As the crate writes it, 131 included.
fn encoded(term: impl Into<Term>) -> Vec<u8> {
    let mut bytes = Vec::new();
    term.into().encode(&mut bytes).expect("the crate writes it");
    bytes
}

/// As the crate reads it; 131 is put in front.
fn decoded(bytes: &[u8]) -> Result<Term, eetf::DecodeError> {
    Term::decode(&[&[131], bytes].concat()[..])
}

// ---------------------------------------------------------------- eetf: writing

#[test]
fn eetf_writes_negative_integers_of_a_list_as_bytes() {
    let written = encoded(List::from(vec![int(-1), int(2)]));
    assert_eq!(written, [131, 107, 0, 2, 255, 2], "mended: [-1, 2]");
}

#[test]
fn eetf_cuts_the_length_of_a_long_byte_list() {
    let long = Term::from(ByteList::from(vec![7; 65_537]));
    let written = encoded(long.clone());
    assert_eq!(written[..4], [131, 107, 0, 1], "mended: 65,537 bytes");
    assert_eq!(written.len(), 4 + 65_537);
    let pair = encoded(Tuple::from(vec![long, atom("more")]));
    assert!(Erl::start().read(&[pair])[0].is_empty());
}

#[test]
fn eetf_writes_what_erlang_has_no_value_for() {
    let old_fun = InternalFun::Old {
        module: Atom::from("m"),
        pid: Pid::new("a@b", 1, 2, 3),
        free_vars: Vec::new(),
        index: 1,
        uniq: 1,
    };
    let reference = Reference {
        node: Atom::from("a@b"),
        id: vec![1; 6],
        creation: 1,
    };
    let written = [
        encoded(Atom::from("a".repeat(256))),
        encoded(Float { value: f64::NAN }),
        encoded(old_fun),
        encoded(reference),
    ];
    for (bytes, forms) in written.iter().zip(Erl::start().read(&written)) {
        assert!(forms.is_empty(), "erl reads {bytes:?}");
    }
}

// Without overflow checks, as in a release, it goes on with other bits.
#[cfg(debug_assertions)]
#[test]
fn eetf_panics_on_a_bitstring_of_whole_bytes_that_says_so_with_0() {
    let panicked = catch_unwind(|| encoded(BitBinary::from((vec![1], 0))));
    assert!(panicked.is_err(), "mended: gives {panicked:?}");
}

// ---------------------------------------------------------------- eetf: reading

#[test]
fn eetf_panics_on_tags_of_the_distribution_header() {
    for bytes in [&[68, 0][..], &[82, 0], &[104, 1, 82, 0]] {
        let panicked = catch_unwind(|| decoded(bytes));
        assert!(panicked.is_err(), "mended: {bytes:?} gives {panicked:?}");
    }
}

// Without overflow checks, as in a release, it goes on with other bits.
#[cfg(debug_assertions)]
#[test]
fn eetf_panics_on_a_bitstring_with_0_or_9_bits_in_its_last_byte() {
    for bits in [0, 9, 255] {
        let panicked = catch_unwind(|| decoded(&[77, 0, 0, 0, 1, bits, 1]));
        assert!(panicked.is_err(), "mended: {bits} give {panicked:?}");
    }
}

#[test]
fn eetf_reads_a_float_of_text_with_half_of_its_digits() {
    let text = |text: &str| {
        let mut bytes = vec![99];
        bytes.extend(text.bytes());
        bytes.resize(32, 0);
        decoded(&bytes)
    };
    let read = text("1.10000000000000008882e+00").expect("a float");
    assert_eq!(
        read,
        Term::from(Float {
            value: f64::from(1.1f32)
        })
    );
    assert_ne!(read, Term::from(Float { value: 1.1 }), "mended");
    let large = text("1.00000000000000005250e+300");
    assert!(large.is_err(), "mended: gives {large:?}");
}

#[test]
fn eetf_refuses_latin1_atoms_with_letters_beyond_ascii() {
    for bytes in [&[115, 1, 0xe9][..], &[100, 0, 1, 0xe9]] {
        let read = decoded(bytes);
        assert!(read.is_err(), "mended: {bytes:?} gives {read:?}");
    }
    // And takes bytes that are not what it says they are.
    assert_eq!(
        decoded(&[115, 2, 0xc3, 0xa9]).ok(),
        Some(atom("é")),
        "mended"
    );
}

#[test]
fn eetf_does_not_know_the_tags_of_records_and_local_terms() {
    for tag in [67, 121] {
        let read = decoded(&[tag, 0, 0, 0, 0, 0, 119, 1, b'm', 119, 1, b'r']);
        let unknown = matches!(read, Err(eetf::DecodeError::UnknownTag { tag: t }) if t == tag);
        assert!(unknown, "mended: gives {read:?}");
    }
}

#[test]
fn eetf_takes_a_list_that_goes_on_in_its_tail_for_an_improper_one() {
    // [1 | "ab"], which is [1, 97, 98].
    let read = decoded(&[108, 0, 0, 0, 1, 97, 1, 107, 0, 2, 97, 98]).expect("a list");
    let improper = ImproperList {
        elements: vec![int(1)],
        last: Box::new(Term::from(ByteList::from(vec![97, 98]))),
    };
    assert_eq!(read, Term::from(improper), "mended");
}

#[test]
fn eetf_does_not_look_at_the_size_of_what_it_unfolds() {
    // Announces 3 bytes, unfolds to a binary of 1 MB.
    let inner = [&[109, 0, 0x0f, 0x42, 0x40][..], &[0; 1_000_000]].concat();
    let packed = vec![80, 0, 0, 0, 3];
    let mut zlib = flate2::write::ZlibEncoder::new(packed, flate2::Compression::best());
    std::io::Write::write_all(&mut zlib, &inner).expect("memory");
    let packed = zlib.finish().expect("memory");
    assert!(packed.len() < 2_000);
    let read = decoded(&packed);
    assert!(
        matches!(read, Ok(Term::Binary(b)) if b.bytes.len() == 1_000_000),
        "mended"
    );
}

// ---------------------------------------------------------------- eetf: values

#[test]
fn eetf_has_more_than_one_term_for_one_value() {
    assert_ne!(int(1), Term::from(BigInteger::from(1)), "mended");
    // Which of the two it is depends on the sender.
    let [list, string] = [&[108, 0, 0, 0, 1, 97, 5, 106][..], &[107, 0, 1, 5]];
    assert_ne!(decoded(list).ok(), decoded(string).ok(), "mended");
    assert_ne!(
        decoded(&[110, 1, 0, 5]).ok(),
        decoded(&[97, 5]).ok(),
        "mended"
    );
}

#[test]
fn eetf_loses_entries_of_maps() {
    let float = |bits: u64| [&[70][..], &bits.to_be_bytes(), &[106]].concat();
    // #{0.0 => [], -0.0 => []} has two keys from OTP 27 on.
    let zeros = [&[116, 0, 0, 0, 2][..], &float(0), &float(1 << 63)].concat();
    let read = decoded(&zeros).expect("a map");
    assert!(
        matches!(read, Term::Map(map) if map.map.len() == 1),
        "mended"
    );
    // The same key twice is no term for Erlang.
    let twice = decoded(&[116, 0, 0, 0, 2, 97, 1, 106, 97, 1, 106]);
    assert!(
        matches!(twice, Ok(Term::Map(map)) if map.map.len() == 1),
        "mended"
    );
}

#[test]
fn eetf_hashes_equal_maps_differently() {
    let map = || {
        let pairs = (0..50).map(|n| (int(n), int(n)));
        Map::from(pairs.collect::<std::collections::HashMap<_, _>>())
    };
    let hash = || {
        let mut hasher = DefaultHasher::new();
        map().hash(&mut hasher);
        hasher.finish()
    };
    assert_eq!(map(), map());
    assert_ne!(hash(), hash(), "mended");
}

// ---------------------------------------------------------------- eetf: what ends the process

/// What may end a process, by name.
const DEADLY: [(&str, fn()); 4] = [
    ("a list of 4 billion elements in 6 bytes", || {
        let _ = decoded(&[108, 255, 255, 255, 255]);
    }),
    ("a tuple of 4 billion elements in 6 bytes", || {
        let _ = decoded(&[105, 255, 255, 255, 255]);
    }),
    ("400 kB of nested tuples", || {
        let mut bytes = [104, 1].repeat(200_000);
        bytes.push(106);
        let _ = decoded(&bytes);
    }),
    ("a frame of 4 GiB of which nothing has come", || {
        let stream = Stream::with(&[255, 255, 255, 255, 112]);
        let (_, mut receiver) = channel(stream, DistributionFlags::new());
        let _ = receiver.recv().now_or_never();
    }),
];

#[test]
fn a_few_bytes_end_the_process_of_whoever_reads_them() {
    let program = std::env::current_exe().expect("this program");
    for (name, _) in DEADLY {
        let ended = Command::new("sh")
            .args(["-c", "ulimit -c 0; ulimit -v 3145728; exec \"$0\" \"$@\""])
            .arg(&program)
            .args([
                "upstream::in_a_process_of_its_own",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("REDGRID_DEADLY", name)
            .output()
            .expect("this program");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("it begins"), "{name} did not run: {said}");
        // SIGABRT, by the allocator or by the guard of the stack.
        assert_eq!(ended.status.signal(), Some(6), "mended: {name}: {said}");
    }
}

#[test]
#[ignore = "run by the one above, and made to end its process"]
fn in_a_process_of_its_own() {
    let name = std::env::var("REDGRID_DEADLY").expect("which one");
    let (_, deadly) = DEADLY
        .iter()
        .find(|(n, _)| *n == name)
        .expect("one of them");
    eprintln!("it begins");
    deadly();
}

// ---------------------------------------------------------------- erl_dist: flags and messages

#[test]
fn erl_dist_has_another_bit_for_the_digest_of_mandatory_flags() {
    let bit = DistributionFlags::MANDATORY_25_DIGEST.bits();
    assert_eq!(bit, 1 << 36, "mended");
    // What a real erl offers: the digest's own bit, and not this one, which is an internal one.
    let flags = "io:format(\"~b\", [element(2, erts_internal:get_dflags())]), halt().";
    let said = Command::new("erl")
        .args(["-noshell", "-eval", flags])
        .output()
        .expect("erl");
    let flags: u64 = String::from_utf8_lossy(&said.stdout)
        .parse()
        .expect("a number");
    assert_ne!(flags & 0x400_0000, 0);
    assert_eq!(flags & bit, 0);
}

/// A control message and its payload, as the crate's reader takes them: each with its 131.
fn message(control: Vec<Term>, payload: Option<&[u8]>) -> Result<Message, RecvError> {
    let mut bytes = encoded(Tuple::from(control));
    bytes.extend(payload.into_iter().flatten());
    Message::read_from(&mut bytes.as_slice())
}

#[test]
fn erl_dist_cannot_read_the_traced_message_that_it_writes() {
    let sent = Message::send_tt(Pid::new("a@b", 1, 2, 3), atom("hello"), atom("token"));
    let mut bytes = Vec::new();
    sent.write_into(&mut bytes).expect("a message");
    let read = Message::read_from(&mut bytes.as_slice());
    assert!(
        matches!(read, Err(RecvError::Decode(_))),
        "mended: {read:?}"
    );
}

fn spawn_request(payload: &[u8]) -> Result<Message, RecvError> {
    let reference = Term::from(Reference::from(("a@b", vec![1, 2, 3])));
    let pid = || Term::from(Pid::new("a@b", 1, 2, 3));
    let mfa = Term::from(Tuple::from(vec![atom("m"), atom("f"), int(1)]));
    let options = Term::from(List::nil());
    message(
        vec![int(29), reference, pid(), pid(), mfa, options],
        Some(payload),
    )
}

#[test]
fn erl_dist_refuses_spawn_requests_whose_arguments_are_bytes() {
    assert!(spawn_request(&[131, 108, 0, 0, 0, 1, 119, 1, b'a', 106]).is_ok());
    // [5], as every Erlang node writes it.
    let read = spawn_request(&[131, 107, 0, 1, 5]);
    assert!(
        matches!(read, Err(RecvError::Decode(_))),
        "mended: {read:?}"
    );
}

#[test]
fn erl_dist_does_not_know_the_message_to_an_alias_of_otp_28() {
    let alias = Term::from(Reference::from(("a@b", vec![1, 2, 3])));
    let pid = Term::from(Pid::new("a@b", 1, 2, 3));
    let read = message(vec![int(37), pid, alias, int(0)], Some(&[131, 106]));
    assert!(
        matches!(read, Err(RecvError::UnsupportedOp { op: 37 })),
        "mended: {read:?}"
    );
}

#[test]
fn erl_dist_panics_when_a_tick_is_written_as_a_message() {
    let panicked = catch_unwind(|| Message::Tick.write_into(&mut Vec::new()).is_ok());
    assert!(panicked.is_err(), "mended");
}

// ---------------------------------------------------------------- erl_dist: channel

/// A connection in memory: what has come, what was written, how much of that was flushed.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Wire>>);

#[derive(Default)]
struct Wire {
    came: Vec<u8>,
    written: Vec<u8>,
    flushed: usize,
}

impl Stream {
    fn with(came: &[u8]) -> Self {
        let stream = Self::default();
        stream.wire().came.extend(came);
        stream
    }

    fn wire(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.0.lock().expect("the wire")
    }

    fn channel(&self) -> (Sender<Self>, Receiver<Self>) {
        channel(self.clone(), DistributionFlags::new())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut wire = self.wire();
        let count = into.len().min(wire.came.len());
        if count == 0 {
            return Poll::Pending;
        }
        into[..count].copy_from_slice(&wire.came[..count]);
        wire.came.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.wire().written.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut wire = self.wire();
        wire.flushed = wire.written.len();
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn some_frame() -> Vec<u8> {
    let stream = Stream::default();
    let message = Message::send(Pid::new("a@b", 1, 2, 3), atom("hello"));
    let sent = stream.channel().0.send(message).now_or_never();
    assert!(matches!(sent, Some(Ok(()))));
    let wire = stream.wire();
    assert_eq!(wire.flushed, wire.written.len());
    wire.written.clone()
}

#[test]
fn erl_dist_does_not_flush_a_tick() {
    let stream = Stream::default();
    let sent = stream.channel().0.send(Message::Tick).now_or_never();
    assert!(matches!(sent, Some(Ok(()))));
    let wire = stream.wire();
    assert_eq!((wire.written.len(), wire.flushed), (4, 0), "mended");
}

#[test]
fn erl_dist_loses_bytes_when_waiting_for_a_message_is_given_up() {
    let frame = some_frame();
    let stream = Stream::with(&frame[..10]);
    let (_, mut receiver) = stream.channel();
    // As a `select!` with a timer does.
    assert!(receiver.recv().now_or_never().is_none());
    stream.wire().came.extend(&frame[10..]);
    let read = receiver.recv().now_or_never();
    assert!(!matches!(read, Some(Ok(_))), "mended: {read:?}");
}

#[test]
fn erl_dist_leaves_the_body_of_a_frame_that_it_does_not_know() {
    let unknown = [0, 0, 0, 5, 131, 68, 0, 104, 0];
    let stream = Stream::with(&[&unknown[..], &some_frame()].concat());
    let (_, mut receiver) = stream.channel();
    let read = receiver.recv().now_or_never();
    assert!(matches!(
        read,
        Some(Err(RecvError::UnexpectedTypeTag { tag: 131 }))
    ));
    let read = receiver.recv().now_or_never();
    assert!(!matches!(read, Some(Ok(_))), "mended: {read:?}");
}

// ---------------------------------------------------------------- erl_dist: handshake

fn node(name: &str) -> LocalNode {
    LocalNode::new(name.parse().expect("a node name"), Creation::new(7))
}

async fn said(stream: &mut tokio::io::DuplexStream) -> Vec<u8> {
    let length = stream.read_u16().await.expect("a message");
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.expect("a message");
    message
}

#[tokio::test(start_paused = true)]
async fn erl_dist_never_says_whether_to_replace_a_connection_that_is_alive() {
    let (a, mut b) = tokio::io::duplex(4096);
    let mut handshake = ClientSideHandshake::new(a.compat(), node("a@h"), "cookie");
    let acceptor = async {
        assert_eq!(said(&mut b).await[0], b'N');
        b.write_all(b"\0\x06salive").await.expect("a line");
        tokio::time::timeout(DEADLINE, said(&mut b)).await
    };
    let dialler = async {
        let status = handshake
            .execute_send_name(VERSION)
            .await
            .expect("a status");
        assert_eq!(status, HandshakeStatus::Alive);
        tokio::time::timeout(2 * DEADLINE, handshake.execute_rest(true))
            .await
            .is_err()
    };
    let (answer, dialler_waits) = tokio::join!(acceptor, dialler);
    assert!(answer.is_err() && dialler_waits, "mended: said {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn erl_dist_does_not_read_the_answer_to_alive() {
    let (a, mut b) = tokio::io::duplex(4096);
    let mut handshake = ServerSideHandshake::new(a.compat(), node("a@h"), "cookie");
    let flags = DistributionFlags::mandatory().bits().to_be_bytes();
    let name = [&[0, 18, b'N'][..], &flags, &[0, 0, 0, 7, 0, 3], b"b@h"].concat();
    b.write_all(&name).await.expect("a line");
    let name = handshake.execute_recv_name().await.expect("a name");
    assert_eq!(name.map(|name| name.to_string()).as_deref(), Some("b@h"));
    b.write_all(b"\0\x05strue").await.expect("a line");
    let rest = handshake.execute_rest(HandshakeStatus::Alive);
    let rest = tokio::time::timeout(Duration::from_secs(60), rest)
        .await
        .expect("an end");
    // It takes `true` for the answer to its challenge.
    let tag = matches!(rest, Err(HandshakeError::UnexpectedTag { tag: b's', .. }));
    assert!(tag, "mended: {:?}", rest.map(|(_, node)| node));
}

#[tokio::test]
async fn erl_dist_connects_to_another_node_than_the_one_that_was_meant_and_to_one_without_flags() {
    let (a, b) = tokio::io::duplex(4096);
    let mut flagless = node("other@h");
    flagless.flags = DistributionFlags::HANDSHAKE_23;
    let acceptor = async {
        let mut handshake = ServerSideHandshake::new(b.compat(), flagless, "cookie");
        handshake.execute_recv_name().await.expect("a name");
        handshake.execute_rest(HandshakeStatus::Ok).await.is_ok()
    };
    let dialler = async {
        // Nowhere can the caller say whom it dials.
        let mut handshake = ClientSideHandshake::new(a.compat(), node("a@h"), "cookie");
        handshake
            .execute_send_name(VERSION)
            .await
            .expect("a status");
        handshake.execute_rest(true).await
    };
    let (accepted, dialled) = tokio::join!(acceptor, dialler);
    let peer = dialled.map(|(_, peer)| peer).expect("mended: refused");
    assert!(accepted && peer.name.name() == "other");
    assert!(!peer.flags.contains(DistributionFlags::mandatory()));
}
