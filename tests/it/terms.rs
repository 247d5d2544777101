//! Terms and a real `erl`, without a connection between: every term a property test can make, and every term that `erl`
//! makes, is the same on the other side, in whatever form it was written.

use super::support::{DEADLINE, program::Program};
use num_bigint::{BigInt, Sign};
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use redgrid::term::{
    Atom, BitBinary, InternalFun, Limits, Pid, Port, Raw, Reference, Term, TermError, atom, bigint,
    binary, export, float, improper, int, list, map, print, string, tuple,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many terms of our own, and how many of `erl`'s; some are large.
const TERMS: usize = 1_500;
const MADE_BY_ERL: u32 = 1_500;

#[test]
fn every_term_we_write_is_the_same_when_erl_has_read_and_written_it() {
    let (seed, terms) = terms(TERMS);
    let sent: Vec<_> = terms
        .iter()
        .map(|term| Raw::encode(term).to_versioned())
        .collect();
    let mut erl = Erl::start();
    for (term, forms) in terms.iter().zip(erl.read(&sent)) {
        let what = || format!("{} ({seed})", print(term));
        assert!(!forms.is_empty(), "no term for erl: {}", what());
        for form in &forms {
            let back =
                decoded(form).unwrap_or_else(|why| panic!("{why} in {form:?} for {}", what()));
            assert_eq!(&back, term, "{seed}");
            // Which 0.0 it is shows in the bytes only.
            assert_eq!(Raw::encode(&back), Raw::encode(term), "{seed}");
        }
    }
}

#[test]
fn every_term_that_erl_makes_comes_back_to_it_the_same() {
    let seed = seed();
    let mut erl = Erl::start();
    let made = erl.ask(
        &[
            &b"make"[..],
            &seed.0.to_be_bytes(),
            &MADE_BY_ERL.to_be_bytes(),
        ]
        .concat(),
    );
    let mut back = Vec::new();
    for item in &made {
        let (opaque, bytes) = (item[0] == 1, &item[1..]);
        let raw = checked(bytes).unwrap_or_else(|why| panic!("{why} in {bytes:?} ({seed})"));
        // As it came; and taken apart and written again, where that can be.
        let mut again = vec![raw.to_versioned().to_vec()];
        match raw.decode() {
            Ok(term) => {
                assert!(!opaque, "{} was to be opaque ({seed})", print(&term));
                again.push(Raw::encode(&term).to_versioned().to_vec());
            }
            Err(why @ TermError::NotRepresentable { .. }) => {
                assert!(opaque, "{why}: {bytes:?} ({seed})")
            }
            Err(why) => panic!("{why} in {bytes:?} ({seed})"),
        }
        back.push(joined(&again));
    }
    assert!(made.len() > MADE_BY_ERL as usize);
    let verdicts = erl.ask(&[&b"back"[..], &joined(&back)].concat());
    assert_eq!(verdicts.len(), made.len(), "{seed}");
    for verdict in verdicts {
        assert!(
            verdict.is_empty(),
            "{} ({seed})",
            String::from_utf8_lossy(&verdict)
        );
    }
}

/// Forms that no release from 25 on writes by itself, but all of them read.
#[test]
fn both_atom_encodings_and_the_old_tags_mean_to_us_what_they_mean_to_erl() {
    let node = [100, 0, 4, b'n', 0xe9, b'@', b'h'];
    let with = |tag: &[u8], rest: &[u8]| [&[131], tag, &node, rest].concat();
    let mut written = vec![
        vec![131, 100, 0, 2, b'o', b'k'],
        vec![131, 115, 2, b'o', b'k'],
        [&[131, 100, 0, 255][..], &[0xff; 255]].concat(),
        [&[131, 115, 255][..], &[0xe4; 255]].concat(),
        vec![131, 115, 0],
        vec![131, 118, 0, 2, 0xc3, 0xa9],
        vec![131, 119, 2, 0xc3, 0xa9],
        with(&[103], &[0, 0, 0, 9, 0, 0, 0, 1, 3]),
        with(&[88], &[0xff; 12]),
        with(&[102], &[0, 0, 0, 5, 1]),
        with(&[101], &[0, 0, 0, 7, 2]),
        with(&[114, 0, 2], &[3, 0, 0, 0, 1, 0, 0, 0, 2]),
        // [1 | [2 | "ab"]], and lists of nothing.
        vec![
            131, 108, 0, 0, 0, 1, 97, 1, 108, 0, 0, 0, 1, 97, 2, 107, 0, 2, b'a', b'b',
        ],
        vec![131, 108, 0, 0, 0, 0, 106],
        vec![131, 107, 0, 0],
        // Numbers wider than they need to be, zero with a sign, a bitstring of whole bytes and one with rubbish behind it.
        vec![131, 111, 0, 0, 0, 2, 1, 5, 0],
        vec![131, 110, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![131, 110, 0, 1],
        vec![131, 98, 0, 0, 0, 7],
        vec![131, 105, 0, 0, 0, 1, 97, 1],
        vec![131, 77, 0, 0, 0, 1, 8, 255],
        vec![131, 77, 0, 0, 0, 1, 3, 255],
    ];
    for text in ["1.5", "-1.00000000000000005551e-01", "0.0"] {
        let mut bytes = vec![131, 99];
        bytes.extend(text.bytes());
        bytes.resize(33, 0);
        written.push(bytes);
    }
    let mut erl = Erl::start();
    for (bytes, forms) in written.iter().zip(erl.read(&written)) {
        assert!(!forms.is_empty(), "erl does not read {bytes:?}");
        let ours = decoded(bytes).unwrap_or_else(|why| panic!("{why} in {bytes:?}"));
        for form in &forms {
            assert_eq!(
                decoded(form).as_ref(),
                Ok(&ours),
                "{bytes:?}, of erl {form:?}"
            );
        }
    }
}

/// Where the crate's own codec is faithful (docs/upstream.md tells where it is not), it and ours read each other.
#[test]
fn the_crate_reads_what_we_write_and_we_what_it_writes() {
    let (seed, terms) = terms(TERMS);
    let mut compared = 0;
    for term in terms {
        let Some(theirs) = as_the_crate_has_it(&term) else {
            continue;
        };
        compared += 1;
        let read = Term::decode(&Raw::encode(&term).to_versioned()[..]);
        assert_eq!(read.as_ref().ok(), Some(&theirs), "{seed}");
        let mut written = Vec::new();
        theirs.encode(&mut written).expect("a term");
        assert_eq!(decoded(&written), Ok(term), "{seed}");
    }
    assert!(
        compared > TERMS / 2,
        "only {compared} terms could be compared"
    );
}

fn checked(bytes: &[u8]) -> Result<Raw, TermError> {
    Raw::from_versioned(&bytes.to_vec().into(), &Limits::default())
}

fn decoded(bytes: &[u8]) -> Result<Term, TermError> {
    checked(bytes)?.decode()
}

/// The term itself; `None` for terms that the crate writes wrong.
fn as_the_crate_has_it(term: &Term) -> Option<Term> {
    let all =
        |terms: &[Term]| -> Option<Vec<Term>> { terms.iter().map(as_the_crate_has_it).collect() };
    Some(match term {
        Term::List(list) => {
            let byte = |term: &Term| matches!(term, Term::FixInteger(n) if n.value < 256);
            if !list.elements.is_empty() && list.elements.iter().all(byte) {
                return None;
            }
            Term::from(redgrid::term::List::from(all(&list.elements)?))
        }
        Term::ByteList(list) if list.bytes.len() > usize::from(u16::MAX) => return None,
        Term::ImproperList(list) => {
            improper(all(&list.elements)?, as_the_crate_has_it(&list.last)?)
        }
        Term::Tuple(elements) => tuple(all(&elements.elements)?),
        Term::Map(pairs) => {
            let pair = |(k, v)| Some((as_the_crate_has_it(k)?, as_the_crate_has_it(v)?));
            map(pairs.map.iter().map(pair).collect::<Option<Vec<_>>>()?)
        }
        Term::InternalFun(fun) => {
            let mut fun = fun.clone();
            if let InternalFun::New { free_vars, .. } = &mut *fun {
                *free_vars = all(free_vars)?;
            }
            Term::InternalFun(fun)
        }
        other => other.clone(),
    })
}

// ---------------------------------------------------------------- terms

/// What the terms of a run are made from; with it in `REDGRID_SEED` they are made again.
#[derive(Clone, Copy)]
struct Seed(u64);

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "REDGRID_SEED={}", self.0)
    }
}

fn seed() -> Seed {
    match std::env::var("REDGRID_SEED") {
        Ok(seed) => Seed(seed.parse().expect("a number in REDGRID_SEED")),
        Err(_) => Seed(rand::random()),
    }
}

fn terms(count: usize) -> (Seed, Vec<Term>) {
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.0.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = any_term();
    let mut one = || strategy.new_tree(&mut runner).expect("a term").current();
    let mut terms: Vec<Term> = (0..count).map(|_| one()).collect();
    let wide = BigInt::from(1) << 4_194_239u32;
    terms.extend([
        bigint(wide.clone()),
        bigint(-wide),
        list(vec![int(255); 65_535]),
        list(vec![int(255); 65_536]),
        tuple(vec![int(-1); 70_000]),
        map((0..1_000).map(|n| (int(n), int(-n)))),
    ]);
    (seed, terms)
}

/// Every kind of term, in the one form that decoding gives.
fn any_term() -> impl Strategy<Value = Term> {
    leaf().prop_recursive(5, 60, 6, |inner| {
        let several = || vec(inner.clone(), 0..6);
        prop_oneof![
            several().prop_map(tuple),
            several().prop_map(list),
            (several(), inner.clone()).prop_map(|(front, last)| improper(front, last)),
            vec((key(), inner.clone()), 0..6).prop_map(map),
            // A string in front of another list, and integers just beside bytes.
            (vec(-2..258i64, 0..6), several()).prop_map(|(front, rest)| {
                let front = front.into_iter().map(int);
                list(front.chain(rest).collect::<Vec<_>>())
            }),
            (
                several(),
                "[a-z]{3,9}",
                any::<[u8; 16]>(),
                any::<(u32, i32, i32, u8)>()
            )
                .prop_map(
                    |(free_vars, module, uniq, (index, old_index, old_uniq, arity))| {
                        Term::from(InternalFun::New {
                            module: Atom::from(module),
                            arity,
                            // From OTP 27 on funs forget who made them, and this is what is written in its place.
                            pid: Pid::new("nonode@nohost", 0, 0, 0),
                            free_vars,
                            index,
                            uniq,
                            old_index,
                            old_uniq,
                        })
                    }
                ),
        ]
    })
}

/// What a `HashMap` can have as a key: no map in it, and no zero of either sign.
fn key() -> impl Strategy<Value = Term> {
    let zero = |term: &Term| matches!(term, Term::Float(float) if float.value == 0.0);
    let plain = leaf().prop_filter("a zero", move |term| !zero(term));
    prop_oneof![
        3 => plain.clone(),
        1 => vec(plain, 0..3).prop_map(tuple),
    ]
}

fn leaf() -> impl Strategy<Value = Term> + Clone {
    let name = prop_oneof![
        "[a-z][a-z0-9_]{0,8}",
        "[\u{80}-\u{ff}]{1,6}",
        "\\PC{0,6}",
        Just("Ω".repeat(255)),
        Just("\u{10ffff}".repeat(255)),
        Just(String::new())
    ];
    let node = || prop_oneof!["[a-z]{1,5}@[a-z0-9.]{1,8}", "[a-zà-ÿ]{1,5}@h"];
    let creation = || prop_oneof![0..4u32, any::<u32>(), Just(u32::MAX)];
    prop_oneof![
        name.prop_map(atom),
        (-300..300i64).prop_map(int),
        any::<i32>().prop_map(|n| int(i64::from(n))),
        any::<i64>().prop_map(int),
        (any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(plus, le)| {
            let sign = if plus { Sign::Plus } else { Sign::Minus };
            bigint(BigInt::from_bytes_le(sign, &le))
        }),
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("Erlang has finite floats only", |f| f.is_finite())
            .prop_map(float),
        prop::sample::select(vec![0.0, -0.0, 0.1, 5.0e-324, f64::MAX, f64::MIN_POSITIVE])
            .prop_map(float),
        vec(any::<u8>(), 0..20).prop_map(binary),
        vec(any::<u8>(), 1..20).prop_map(|bytes| {
            list(
                bytes
                    .into_iter()
                    .map(|n| int(i64::from(n)))
                    .collect::<Vec<_>>(),
            )
        }),
        "\\PC{0,10}".prop_map(|text| string(&text)),
        (vec(any::<u8>(), 1..5), 1..8u8).prop_map(|(mut bytes, used)| {
            if let Some(last) = bytes.last_mut() {
                *last >>= 8 - used;
            }
            Term::from(BitBinary::from((bytes, used)))
        }),
        (node(), any::<u32>(), any::<u32>(), creation()).prop_map(
            |(node, id, serial, creation)| { Term::from(Pid::new(node, id, serial, creation)) }
        ),
        (
            node(),
            prop_oneof![0..(1u64 << 28), any::<u64>()],
            creation()
        )
            .prop_map(|(node, id, creation)| {
                Term::from(Port {
                    node: Atom::from(node),
                    id,
                    creation,
                })
            }),
        (node(), vec(any::<u32>(), 1..=5), creation()).prop_map(|(node, id, creation)| {
            Term::from(Reference {
                node: Atom::from(node),
                id,
                creation,
            })
        }),
        ("[a-z]{1,5}", "\\PC{1,5}", any::<u8>()).prop_map(|(m, f, a)| export(&m, &f, a)),
    ]
}

// ---------------------------------------------------------------- erl

/// A real `erl` that runs `terms.erl`, killed when dropped.
pub(crate) struct Erl {
    socket: TcpStream,
    _program: Program,
    _folder: TempDir,
}

impl Erl {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let source = folder.path().join("terms.erl");
        std::fs::write(&source, include_str!("terms/terms.erl")).expect("a file");
        let compiled = Command::new("erlc")
            .args(["-Werror", "-o"])
            .args([folder.path(), &source])
            .output()
            .expect("Erlang must be installed for these tests (make test does it)");
        let said = String::from_utf8_lossy(&compiled.stdout);
        assert!(compiled.status.success(), "terms.erl: {said}");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener
            .local_addr()
            .expect("an address")
            .port()
            .to_string();
        let program = Program::start(
            Command::new("erl")
                .args(["-noshell", "-noinput", "+S", "2:2", "+sbwt", "none", "-pa"])
                .arg(folder.path())
                .args(["-run", "terms", "start", &port]),
        );
        listener.set_nonblocking(true).expect("a listener");
        let end = Instant::now() + DEADLINE;
        let socket = loop {
            if let Ok((socket, _)) = listener.accept() {
                break socket;
            }
            assert!(Instant::now() < end, "erl never came: {}", program.stderr());
            std::thread::sleep(Duration::from_millis(10));
        };
        socket.set_nonblocking(false).expect("a socket");
        socket
            .set_read_timeout(Some(4 * DEADLINE))
            .expect("a socket");
        Self {
            socket,
            _program: program,
            _folder: folder,
        }
    }

    /// One request; the answer is a list.
    fn ask(&mut self, request: &[u8]) -> Vec<Vec<u8>> {
        let length = u32::try_from(request.len()).expect("a length");
        self.socket
            .write_all(&length.to_be_bytes())
            .expect("a running erl");
        self.socket.write_all(request).expect("a running erl");
        let mut length = [0; 4];
        self.socket
            .read_exact(&mut length)
            .expect("an answer of erl");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.socket
            .read_exact(&mut answer)
            .expect("an answer of erl");
        items(&answer)
    }

    /// Each term in every form that erl writes it; none when erl does not read it.
    pub(crate) fn read(&mut self, terms: &[impl AsRef<[u8]>]) -> Vec<Vec<Vec<u8>>> {
        let answers = self.ask(&[&b"read"[..], &joined(terms)].concat());
        assert_eq!(answers.len(), terms.len());
        answers.iter().map(|forms| items(forms)).collect()
    }
}

fn joined(items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut joined = Vec::new();
    for item in items {
        let item = item.as_ref();
        joined.extend((item.len() as u32).to_be_bytes());
        joined.extend(item);
    }
    joined
}

fn items(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut items = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (item, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        items.push(item.to_vec());
        bytes = rest;
    }
    items
}
