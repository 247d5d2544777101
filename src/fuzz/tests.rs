//! The fuzz targets as tests: random bytes, good inputs, and good inputs with some damage.

use super::*;
use crate::term::{Raw, Term, print};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::path::Path;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 5] = [
    ("epmd", epmd),
    ("term", term),
    ("text", text),
    ("handshake", handshake),
    ("frame", frame),
];

/// Terms of many kinds, small and large.
fn terms() -> Vec<Term> {
    let made = |n: u32| {
        // Bytes that look random and are the same in every run.
        let bytes: Vec<u8> = (0..200u32)
            .map(|at| ((at + n * 977).wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        made::Made::of(&bytes).term()
    };
    let of_each_kind = (0..20).map(|kind| made::Made::of(&[kind, 3, 1, 2, 3, 4, 5, 6, 7]).term());
    of_each_kind.chain((0..60).map(made)).collect()
}

/// Inputs that are accepted, from which a fuzzer gets far.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let terms = terms();
    let raws = || terms.iter().map(Raw::encode);
    match target {
        "term" => {
            let bare = raws().map(|raw| raw.to_bytes().to_vec());
            let versioned = raws().map(|raw| raw.to_versioned().to_vec());
            let compressed = raws().take(20).map(|raw| compressed(&raw));
            let old = OLD_TAGS.iter().map(|bytes| bytes.to_vec());
            bare.chain(versioned).chain(compressed).chain(old).collect()
        }
        "text" => {
            let by_hand = WRITTEN.iter().map(|text| text.as_bytes().to_vec());
            let printed = terms.iter().map(|term| print(term).into_bytes());
            by_hand.chain(printed).collect()
        }
        "frame" => frames(),
        "epmd" => requests(),
        _ => {
            let name = [
                0, 18, b'N', 0, 0, 0, 0xd, 0x07, 0x5f, 0x5f, 0xbd, 0, 0, 0, 7, 0, 3,
            ];
            let name = [&name[..], b"b@h"].concat();
            let reply = [&[0, 21, b'r'][..], &[7; 20]].concat();
            let said: [&[u8]; 6] = [
                &[],
                &name,
                &[&name[..], &reply].concat(),
                &[
                    &[0, 3][..],
                    b"sok",
                    &[0, 22],
                    &name[2..11],
                    &[0, 0, 0, 1],
                    &name[11..],
                ]
                .concat(),
                &[0, 4, b's', b'n', b'o', b'k'],
                &[&[0, 6][..], b"salive", &[0, 21, b'N']].concat(),
            ];
            let whos = [0u8, 2, 3, 4, 0x40, 0x80, 0x83];
            let with = |who: u8| said.map(|said| [&[who, 0, 0, 0, 0, 0, 0, 0, 0], said].concat());
            whos.into_iter().flat_map(with).collect()
        }
    }
}

fn compressed(raw: &Raw) -> Vec<u8> {
    let mut bytes = vec![131, 80];
    bytes.extend((raw.to_bytes().len() as u32).to_be_bytes());
    let mut zlib = flate2::write::ZlibEncoder::new(bytes, flate2::Compression::default());
    std::io::Write::write_all(&mut zlib, &raw.to_bytes()).unwrap();
    zlib.finish().unwrap()
}

/// Connections on which frames of every operation came, in every form that can be agreed on.
fn frames() -> Vec<Vec<u8>> {
    let pid = [
        88, 119, 3, b'a', b'@', b'h', 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 7,
    ];
    let control = |op: u8, arity: u8| {
        let mut control = vec![104, arity + 1, 97, op];
        (0..arity).for_each(|_| control.extend(pid));
        control
    };
    let payload = [107, 0, 2, 1, 2];
    let framed = |agreed: u8, frames: &[&[&[u8]]]| {
        let mut input = vec![agreed];
        for frame in frames {
            let frame = frame.concat();
            input.push(frame.len() as u8);
            input.extend(frame);
        }
        input
    };
    let of_one = |op: u8, arity: u8| {
        let control = control(op, arity);
        [
            framed(0, &[&[&[112, 131], &control, &[131], &payload]]),
            framed(6, &[&[&[131, 68, 0], &control, &payload]]),
            framed(15, &[&[&[131, 68, 0], &control, &payload]]),
        ]
    };
    let record = OLD_TAGS.iter().filter(|bytes| bytes[0] == 67);
    let records = record.flat_map(|record| {
        let send = control(2, 2);
        [7, 15].map(|agreed| framed(agreed, &[&[&[131, 68, 0], &send, record]]))
    });
    let numbered =
        |kind: u8, left: u8| [131, kind, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, left];
    let send = control(2, 2);
    let [first, second, third] = [numbered(69, 3), numbered(70, 2), numbered(70, 1)];
    let cut = [
        &[&first[..], &[0], &send, &payload[..1]][..],
        &[&second, &payload[1..3]],
        &[&third, &payload[3..]],
    ];
    // An atom that is new in the header, and then known; the pid's node is that entry.
    let by_entry: Vec<u8> = [
        &[104, 3, 97, 2, 119, 0, 88, 82, 0][..],
        &[7; 12],
        &[104, 2, 82, 0, 82, 0],
    ]
    .concat();
    let cached = [
        &[&[131, 68, 1, 8, 5, 3, b'a', b'@', b'h'][..], &by_entry][..],
        &[&[131, 68, 1, 0, 5], &by_entry],
        &[&[131, 68, 2, 0x90, 0, 5, 6, 1, b'b'], &by_entry],
    ];
    let ops = (1..=37).flat_map(|op| (2..=5).flat_map(move |arity| of_one(op, arity)));
    ops.chain(records)
        .chain([
            framed(3, &cut),
            framed(1, &cached),
            framed(3, &cached),
            framed(2, &cut),
        ])
        .collect()
}

/// Nodes that register, are looked for, and end.
fn requests() -> Vec<Vec<u8>> {
    let step = |what: u8, request: &[u8]| [&[what, request.len() as u8], request].concat();
    let register = |name: &str, version: u8| {
        let numbers = [120, 0, 99, 77, 0, 0, version, 0, 5, 0, name.len() as u8];
        [&numbers, name.as_bytes(), &[0, 1, 7]].concat()
    };
    let plain: [&[u8]; 8] = [b"zown", b"za", b"zbc\0", b"n", b"d", b"k", b"sa", b"x"];
    let one = plain
        .iter()
        .flat_map(|request| [step(3, request), step(2, request), step(1, request)]);
    let several = ["", "a", "own", "é", "a name", "x@h"]
        .into_iter()
        .flat_map(|name| {
            [5, 6].map(|version| {
                let again = [
                    step(3, &register(name, version)),
                    step(3, &register("a", 6)),
                ];
                let seen = [
                    step(3, b"n"),
                    step(3, b"d"),
                    step(3, &[&b"z"[..], name.as_bytes()].concat()),
                ];
                // The first two connections end.
                let ends = [
                    vec![0, 1, 9],
                    vec![0, 2, 9, 9],
                    step(3, &register(name, version)),
                ];
                [again.concat(), seen.concat(), ends.concat()].concat()
            })
        });
    one.chain(several).collect()
}

/// Forms that we read and never write.
const OLD_TAGS: [&[u8]; 10] = [
    &[100, 0, 2, b'o', b'k'],
    &[115, 1, 0xe9],
    &[
        99, b'1', b'.', b'5', b'e', b'0', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0,
    ],
    &[103, 119, 1, b'n', 0, 0, 0, 9, 0, 0, 0, 1, 3],
    &[102, 119, 1, b'n', 0, 0, 0, 5, 1],
    &[101, 119, 1, b'n', 0, 0, 0, 7, 2],
    &[114, 0, 2, 119, 1, b'n', 3, 0, 0, 0, 1, 0, 0, 0, 2],
    &[
        67, 0, 0, 0, 1, 0, 119, 1, b'm', 119, 1, b'r', 119, 1, b'f', 97, 1,
    ],
    &[108, 0, 0, 0, 1, 97, 1, 107, 0, 1, 2],
    &[111, 0, 0, 0, 3, 1, 1, 2, 3],
];

const WRITTEN: [&str; 12] = [
    "{ok, [1, -2.5e3, $a, 16#ff], #{a => \"b\" \"c\"}}.",
    "<<\"aλ\"/utf8, 955/utf8, 1:3, -1:16>>",
    "[a|[b|'C d\\x{3bb}']]",
    "fun lists:map/2 % why",
    "\"\\101\\e\\^A\\z\"",
    "1_000_000",
    "36#zz",
    "-$a",
    "#{#{} => 1}",
    "<0.1.2>",
    "#Ref<0.1.2.3>",
    "'maybe'",
];

/// With `REDGRID_FUZZ_SEEDS` it also writes them there, for the fuzzer to begin with: `tests/tools/fuzz` does.
#[test]
fn what_the_fuzzer_begins_with_holds() {
    let folder = std::env::var("REDGRID_FUZZ_SEEDS").ok();
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() > 30, "{name} has {}", seeds.len());
        for (n, seed) in seeds.iter().enumerate() {
            target(seed);
            if let Some(folder) = &folder {
                let folder = Path::new(folder).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("seed-{n}")), seed).unwrap();
            }
        }
    }
}

/// One thing done to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Cut(Index),
    /// A stretch again, somewhere else.
    Copy(Index, Index, u8),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let (at, byte) = (any::<Index>, any::<u8>);
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        at().prop_map(Damage::Remove),
        (at(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Cut),
        (at(), at(), 1..16u8).prop_map(|(from, to, count)| Damage::Copy(from, to, count)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for damage in damage {
        let length = bytes.len();
        if length == 0 {
            return bytes;
        }
        match damage {
            Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Damage::Remove(at) => drop(bytes.remove(at.index(length))),
            Damage::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Copy(from, to, count) => {
                let from = from.index(length);
                let end = length.min(from + usize::from(*count));
                let stretch = bytes[from..end].to_vec();
                let to = to.index(length);
                bytes.splice(to..to, stretch);
            }
        }
    }
    bytes
}

/// Good inputs of one target, damaged a little.
fn nearly_good(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds(target);
    (any::<Index>(), vec(any_damage(), 0..5))
        .prop_map(move |(which, damage)| damaged(seeds[which.index(seeds.len())].clone(), &damage))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_bytes_are_terms_or_not(bytes in vec(any::<u8>(), 0..200)) {
        term(&bytes);
    }

    #[test]
    fn damaged_terms_are_terms_or_not(bytes in nearly_good("term")) {
        term(&bytes);
    }

    #[test]
    fn any_bytes_are_text_or_not(bytes in vec(any::<u8>(), 0..200)) {
        text(&bytes);
    }

    #[test]
    fn damaged_text_is_text_or_not(bytes in nearly_good("text")) {
        text(&bytes);
    }

    #[test]
    fn whatever_a_stranger_says_is_no_handshake(bytes in vec(any::<u8>(), 0..200)) {
        handshake(&bytes);
    }

    #[test]
    fn a_damaged_handshake_connects_nobody_without_the_cookie(bytes in nearly_good("handshake")) {
        handshake(&bytes);
    }

    #[test]
    fn whatever_an_epmd_is_asked_its_table_is_sound(bytes in vec(any::<u8>(), 0..200)) {
        epmd(&bytes);
    }

    #[test]
    fn damaged_requests_leave_an_epmd_sound(bytes in nearly_good("epmd")) {
        epmd(&bytes);
    }

    #[test]
    fn any_bytes_are_a_frame_or_not(bytes in vec(any::<u8>(), 0..200)) {
        frame(&bytes);
    }

    #[test]
    fn damaged_frames_are_frames_or_not(bytes in nearly_good("frame")) {
        frame(&bytes);
    }
}
