//! Our codec beside that of `eetf`: the same terms, in turn, in one run; and what each makes of bytes that are unusual.

use super::{
    ground::Cpu,
    report::{Table, draw},
};
use bytes::Bytes;
use redgrid::term::{
    Limits, Pid, Raw, Reference, Term, atom, binary, float, improper, int, list, map, nil, string,
    tuple,
};
use std::{
    hint::black_box,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

const COLUMNS: [&str; 2] = ["eetf", "redgrid"];

/// Encodes and decodes each shape for `slice`, `rounds` times in turn. What is wrong with our own codec goes to `broken`.
pub(crate) fn measure(rounds: usize, slice: Duration, broken: &mut Vec<String>) {
    let mut times = Table::new("codec, CPU ns for one term", &COLUMNS, Some("eetf"));
    let mut rates = Table::new("codec, MB/s", &COLUMNS, Some("eetf"));
    let mut verdicts = Vec::new();
    for (name, term) in shapes() {
        let raw = Raw::encode(&term);
        let plain = raw.to_bytes();
        let size = plain.len();
        let versioned = raw.to_versioned();
        let limits = Limits::default();
        let ours = || {
            let raw = Raw::check(plain.clone(), &limits).ok()?;
            raw.decode().ok()
        };
        if ours().as_ref() != Some(&term) {
            broken.push(format!("codec: {name} does not come back as it was"));
        }
        let verdict = verdict(&term, &versioned);
        let [decodes, encodes] = verdict.map(|word| word == "right");
        verdicts.push(
            [[name].as_slice(), &verdict]
                .concat()
                .into_iter()
                .map(String::from)
                .collect(),
        );

        for round in 0..rounds {
            let row = |what: &str| format!("{what} {name}, {}", bytes(size));
            let mut put = |what: &str, codec: &str, ns: f64| {
                times.put(&row(what), codec, round, ns);
                if what != "check" {
                    rates.put(&row(what), codec, round, size as f64 * 1e3 / ns);
                }
            };
            let check = time(slice, || Raw::check(plain.clone(), &limits));
            put("check", "redgrid", check);
            put("decode", "redgrid", time(slice, ours));
            let theirs = time(slice, || Term::decode(&versioned[..]));
            if decodes {
                put("decode", "eetf", theirs);
            }
            put("encode", "redgrid", time(slice, || Raw::encode(&term)));
            let theirs = time(slice, || {
                let mut out = Vec::new();
                term.encode(&mut out).map(|()| out)
            });
            if encodes {
                put("encode", "eetf", theirs);
            }
            for (what, right) in [("decode", decodes), ("encode", encodes)] {
                if !right {
                    times.say(&row(what), "eetf", "wrong");
                    rates.say(&row(what), "eetf", "wrong");
                }
            }
        }
    }
    times.print();
    rates.print();
    println!(
        "check: every byte, without making anything; what is only passed on or read in place costs no more. \
         decode: check, then the owned term."
    );
    let heads = ["eetf, of the same terms", "decodes", "encodes"].map(String::from);
    draw(&heads, &verdicts);
    unusual();
}

/// What eetf makes of a term that our codec wrote and reads back.
fn verdict(term: &Term, versioned: &[u8]) -> [&'static str; 2] {
    let decodes = match Term::decode(versioned) {
        // It keeps one value in more than one form; ours tells whether it is the same value.
        Ok(decoded) if Raw::encode(&decoded).decode().as_ref() == Ok(term) => "right",
        Ok(_) => "WRONG: another term",
        Err(_) => "refused",
    };
    let mut out = Vec::new();
    let encodes = match term.encode(&mut out) {
        Err(_) => "refused",
        Ok(()) => match Raw::from_versioned(&out.into(), &Limits::default()) {
            Ok(raw) if raw.decode().as_ref() == Ok(term) => "right",
            Ok(_) => "WRONG: another term",
            Err(_) => "WRONG: no term",
        },
    };
    [decodes, encodes]
}

/// Nanoseconds of CPU time that one call takes: what else runs on the machine shows less in it than on a clock.
fn time<T>(slice: Duration, mut work: impl FnMut() -> T) -> f64 {
    // It is read so seldom that the reading does not show.
    let mut batch = 1;
    loop {
        let begin = Cpu::of_this_thread();
        for _ in 0..batch {
            black_box(work());
        }
        let took = Duration::from_nanos(Cpu::of_this_thread() - begin);
        if took * 2 > slice {
            return took.as_nanos() as f64 / f64::from(batch);
        }
        batch = if took * 20 > slice {
            let more = slice.as_secs_f64() / took.as_secs_f64();
            ((f64::from(batch) * more) as u32).max(batch + 1)
        } else {
            batch * 8
        };
    }
}

fn shapes() -> Vec<(&'static str, Term)> {
    let words = ["ok", "error", "undefined", "customer", "true", "node_down"];
    let mut deep = nil();
    for depth in 0..100 {
        let pair = |key: &str, value: Term| tuple([atom(key), value]);
        deep = list([pair("id", int(depth)), atom("active"), pair("inside", deep)]);
    }
    vec![
        ("a small call", call()),
        (
            "1,000 records, maps, proplists",
            list((0..1000).map(item).collect::<Vec<_>>()),
        ),
        (
            "100,000 integers, -100..100",
            list((0..100_000).map(|n| int(n % 201 - 100)).collect::<Vec<_>>()),
        ),
        (
            "100,000 integers, -1000..1000",
            list(
                (0..100_000)
                    .map(|n| int(n % 2001 - 1000))
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "200 integers, -100..100",
            list((0..200).map(|n| int(n - 100)).collect::<Vec<_>>()),
        ),
        (
            "100,000 bytes as a list",
            list((0..100_000).map(|n| int(n % 256)).collect::<Vec<_>>()),
        ),
        ("a binary of 1 MiB", binary(vec![7; 1 << 20])),
        (
            "10,000 atoms",
            list(
                (0..10_000)
                    .map(|n| atom(words[n % words.len()]))
                    .collect::<Vec<_>>(),
            ),
        ),
        ("a proplist 100 deep", deep),
    ]
}

fn call() -> Term {
    let node = "caller@127.0.0.1";
    let reference = Term::from(Reference {
        node: node.into(),
        id: vec![1, 2, 3],
        creation: 77,
    });
    let from = [
        Term::from(Pid::new(node, 90, 0, 77)),
        improper([atom("alias")], reference),
    ];
    let request = tuple([atom("ping"), int(1)]);
    tuple([atom("$gen_call"), tuple(from), request])
}

/// The same that `dist.erl` sends.
fn item(n: i64) -> Term {
    let pair = |key: &str, value: Term| tuple([atom(key), value]);
    let text = |prefix: &str| binary(format!("{prefix} {n}"));
    match n % 3 {
        0 => tuple([
            atom("customer"),
            int(n),
            text("customer"),
            tuple([
                atom("address"),
                text("Main street"),
                int(10_000 + n),
                string("Springville"),
            ]),
            list([atom("gold"), atom("newsletter")]),
            float(n as f64 * 1.25),
            atom("undefined"),
            tuple([
                tuple([int(2024), int(2), int(29)]),
                tuple([int(12), int(n % 60), int(0)]),
            ]),
        ]),
        1 => map([
            (atom("id"), int(n)),
            (atom("name"), text("customer")),
            (atom("tags"), list([atom("silver"), atom("newsletter")])),
            (atom("balance"), int(n * 7_000_001)),
            (atom("rate"), float(n as f64 / 8.0)),
            (binary("note"), binary("")),
            (
                atom("place"),
                map([
                    (atom("city"), string("Springville")),
                    (atom("at"), tuple([int(n), int(-n)])),
                ]),
            ),
        ]),
        _ => list([
            pair("id", int(n)),
            pair("name", text("customer")),
            atom("active"),
            pair("balance", int(-n)),
            pair("rate", float(-0.5 * n as f64)),
            pair(
                "place",
                list([
                    pair("city", binary("Springville")),
                    pair("at", tuple([int(n), int(-n)])),
                ]),
            ),
            pair("parent", atom("undefined")),
        ]),
    }
}

/// Bytes that a peer may send. eetf gets them in a process of its own, which some of them end.
fn unusual() {
    let nested = [[131].as_slice(), &[104, 1].repeat(200_000), &[97, 1]].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("an atom in Latin-1, 'é'", vec![131, 115, 1, 0xE9]),
        (
            "a bit string whose last byte has 0 bits",
            vec![131, 77, 0, 0, 0, 1, 0, 5],
        ),
        (
            "tag 82, an atom of a cache that is not there",
            vec![131, 82, 0],
        ),
        (
            "a list that announces 4,294,967,295 elements in 6 bytes",
            vec![131, 108, 255, 255, 255, 255],
        ),
        (
            "a large tuple that announces as many",
            vec![131, 105, 255, 255, 255, 255],
        ),
        ("200,000 tuples inside each other", nested),
    ];
    let mut rows = Vec::new();
    for (name, bytes) in cases {
        let theirs = eetf(&bytes);
        let ours = match Raw::from_versioned(&Bytes::from(bytes), &Limits::default()) {
            Ok(_) => "reads it".into(),
            Err(error) => format!("refuses it: {error}"),
        };
        rows.push(vec![name.into(), theirs, ours]);
    }
    let heads = ["bytes from a peer", "eetf", "redgrid"].map(String::from);
    draw(&heads, &rows);
}

fn eetf(bytes: &[u8]) -> String {
    let this = std::env::current_exe().expect("a name of this program");
    let mut child = Command::new(this)
        .args(["--child", "eetf"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program once more");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(bytes).expect("a child that reads all");
    drop(input);
    let status = child.wait().expect("a child of ours");
    match status.code() {
        Some(0) => "reads it".into(),
        Some(3) => "refuses it".into(),
        Some(101) => "PANICS".into(),
        Some(code) => format!("ends with {code}"),
        None => "ABORTS the process".into(),
    }
}

fn bytes(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size / 1024),
        _ => format!("{} MiB", size >> 20),
    }
}
