//! How redgrid speaks the distribution protocol, in numbers (`make bench-dist`; docs/measurements.md says how to read
//! them): beside a plain `erl`, and beside what the crates `erl_dist` and `eetf` do by themselves.
//!
//! ```text
//!   erl, the driver (dist.erl) ──┬──► beam      a plain erl
//!   this program, the feeder ────┼──► redgrid   the release binary, `node --echo`
//!                                └──► erl_dist  an echo server on the crate's channel (channel.rs)
//!   erl, a caller ───────┬──► a plain erl
//!   Rust, a caller ──────┘
//! ```
//!
//! A round starts all of them anew. Inside a round they take turns at every test, and who begins changes from test to
//! test; a ratio is taken inside a round, then the median of the rounds. Nothing here is a test of time: it fails only
//! when something that was sent is not there or not the same.

mod channel;
mod children;
mod codec;
mod drive;
mod feed;
mod ground;
mod memory;
mod report;
#[path = "../support.rs"]
mod support;
mod wire;

use clap::{Parser, ValueEnum};
use drive::{BESIDE, Lack, Numbers, Outcome, TESTS, Test, drive};
use feed::Feeder;
use ground::{Cpu, Ground, Kind, Memory, Peer};
use report::Table;
use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

/// How long a node is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

const MIB: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Calls and echoes, one at a time and 64 at a time.
    Calls,
    /// Messages of 16 B, 1 KiB and 64 KiB that nobody answers.
    Oneway,
    /// Binaries of 1 and 16 MiB to echo and back; small calls beside them.
    Big,
    /// A nested term to echo and back.
    Nested,
    /// Ready-made frames, without an Erlang driver.
    Feed,
    /// Rust calls Erlang.
    Rust,
    /// Idle, with 100 connections, with 100,000 processes.
    Memory,
    /// Our codec beside eetf's.
    Codec,
}

/// Measures redgrid's distribution beside a plain erl and beside the crates erl_dist and eetf.
#[derive(Parser)]
#[command(
    name = "make bench-dist",
    after_help = "Example: make bench-dist ARGS=\"calls feed --rounds 1 --ms 500\""
)]
struct Arguments {
    /// What is measured; everything unless it is said.
    sections: Vec<Section>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long each test runs; more of it means less noise.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..))]
    ms: u64,
    /// Which peers take part.
    #[arg(long, value_delimiter = ',', default_values = ["beam", "redgrid", "erl_dist"])]
    peers: Vec<Kind>,
    /// What cargo says to a bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Everything that is found out.
struct Bench {
    arguments: Arguments,
    ground: Ground,
    driven: Numbers,
    fed: Numbers,
    rust: Numbers,
    memory: Table,
    broken: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--child", rest)) = words.split_first().map(|(a, b)| (a.as_str(), b)) {
        children::run(rest);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::parse();
    // `cargo bench` hands on `--bench`; `cargo test --benches` would run this as a test, which it is not.
    if !arguments.bench {
        println!("dist: nothing is measured in a test run; use `make bench-dist`");
        return ExitCode::SUCCESS;
    }
    assert!(
        Cpu::of_this_thread() > 0,
        "CPU times are read from Linux's /proc/PID/task/*/schedstat, and there are none here"
    );
    if arguments.sections.is_empty() {
        arguments.sections = Section::value_variants().to_vec();
    }
    // The one that the others are compared with goes first.
    arguments.peers.sort();
    arguments.peers.dedup();
    Bench::new(arguments).run()
}

impl Bench {
    fn new(arguments: Arguments) -> Self {
        let columns: Vec<&'static str> = arguments.peers.iter().map(|kind| kind.label()).collect();
        Self {
            ground: Ground::prepare(),
            driven: Numbers::new("erl drives", &columns, "beam", "the peer", "the driver"),
            fed: Numbers::new("fed", &columns, "beam", "the peer", "the feeder"),
            rust: Numbers::new(
                "calls of an erl",
                &["erl", "redgrid"],
                "erl",
                "the erl called",
                "the caller",
            ),
            memory: Table::new("memory, MiB", &columns, None),
            broken: Vec::new(),
            arguments,
        }
    }

    fn run(mut self) -> ExitCode {
        self.heading();
        let driven = TESTS.iter().any(|test| self.has(test.section));
        for round in 0..usize::from(self.arguments.rounds) {
            if driven || self.has(Section::Feed) {
                self.peers(round, driven);
            }
            if self.has(Section::Rust) {
                self.rust(round);
            }
            if self.has(Section::Memory) {
                self.memory(round);
            }
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        for numbers in [&self.driven, &self.fed, &self.rust] {
            numbers.print();
        }
        self.memory.print();
        if self.has(Section::Codec) {
            let slice = Duration::from_millis(self.arguments.ms / 10);
            let rounds = self.arguments.rounds.into();
            codec::measure(rounds, slice, &mut self.broken);
        }
        println!(
            "\nMedians of {} rounds of {} ms; a ratio is the median of the rounds' ratios. Raise --ms and --rounds for \
             less noise.\nCPU: what the kernel's scheduler counted for every thread of the process \
             (/proc/PID/task/*/schedstat), not ticks.\n\"-\": the peer has no such thing.",
            self.arguments.rounds, self.arguments.ms
        );
        for what in &self.broken {
            println!("BROKEN: {what}");
        }
        if self.broken.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn has(&self, section: Section) -> bool {
        self.arguments.sections.contains(&section)
    }

    fn heading(&self) {
        let mut erl = self.ground.erl("otp@127.0.0.1".into());
        let crates = ["erl_dist", "eetf"].map(|name| format!("{name} {}", locked(name)));
        let heading = support::heading(&erl.told.ask("otp"), &crates.join(", "));
        println!("\n{heading}");
    }

    /// Which test runs, for who waits before a terminal.
    fn progress(&self, round: usize, what: &str) {
        let mut out = std::io::stderr();
        if out.is_terminal() {
            let rounds = self.arguments.rounds;
            let _ = write!(out, "\r\x1b[Kround {} of {rounds}: {what}", round + 1);
            let _ = out.flush();
        }
    }

    /// One round with all peers: driven, fed, and what memory they hold after it.
    fn peers(&mut self, round: usize, driven: bool) {
        let life = format!("{round}");
        let kinds = self.arguments.peers.clone();
        let peers: Vec<(Kind, Peer)> = kinds
            .iter()
            .map(|kind| (*kind, self.ground.peer(*kind, &life)))
            .collect();
        if driven {
            let mut driver = self.ground.erl(format!("driver_{life}@127.0.0.1"));
            for (kind, peer) in &peers {
                let up = driver.told.ask(&format!("connect {}", peer.name));
                if up != "up" {
                    self.broken.push(format!("{}: {up}", kind.label()));
                }
            }
            for (number, test) in TESTS.iter().enumerate() {
                if self.has(test.section) {
                    for (kind, peer) in turns(&peers, number + round) {
                        self.progress(round, &format!("{}, {}", test.label, kind.label()));
                        let outcome = drive(&mut driver, peer, test, self.arguments.ms);
                        self.driven_outcome(test, *kind, round, outcome);
                    }
                }
            }
        }
        if self.has(Section::Feed) {
            for (number, size) in [None, Some(16), Some(1024)].into_iter().enumerate() {
                for (kind, peer) in turns(&peers, number + round) {
                    self.feed(*kind, peer, round, size);
                }
            }
        }
        std::thread::sleep(SETTLE);
        for (kind, peer) in &peers {
            if let Some(memory) = Memory::of(peer.pid()) {
                let mut put = |row, value| self.memory.put(row, kind.label(), round, value);
                put("after everything above, resident", memory.resident);
                put("  of it its own, no pages of files", memory.own);
                put("  at the most", memory.peak);
            }
        }
    }

    fn driven_outcome(
        &mut self,
        test: &Test,
        kind: Kind,
        round: usize,
        outcome: Result<Outcome, Lack>,
    ) {
        let column = kind.label();
        match outcome {
            Ok(mut outcome) => {
                let bytes = if test.name == "nested" {
                    outcome.extra
                } else {
                    test.bytes as f64
                };
                if test.name == "mix" {
                    let rate = outcome.extra / outcome.seconds;
                    let rates = &mut self.driven;
                    rates.rates.put(BESIDE, column, round, rate);
                    let megabytes = rate * (16 * MIB) as f64 / 1e6;
                    rates.megabytes.put(BESIDE, column, round, megabytes);
                    // The CPU time is that of both kinds together: it is nobody's.
                    outcome.cpu = None;
                }
                self.driven.put(test.label, column, round, bytes, &outcome);
            }
            Err(Lack::Unable) => self.driven.say(test.label, column, "-"),
            Err(Lack::Failed(why)) => {
                self.driven.say(test.label, column, "fails");
                self.broken.push(format!("{}, {column}: {why}", test.label));
            }
        }
    }

    /// Calls, or messages of a size.
    fn feed(&mut self, kind: Kind, peer: &Peer, round: usize, size: Option<usize>) {
        let row = match size {
            None => "gen_server:call, three frames each".into(),
            Some(size) => format!("one way, {size} B"),
        };
        self.progress(round, &format!("fed with {row}, {}", kind.label()));
        let name = format!("feeder_{round}_{}@127.0.0.1", size.unwrap_or(0));
        let time = Duration::from_millis(self.arguments.ms);
        let outcome =
            Feeder::connect(self.ground.epmd_port, &name, &peer.name).and_then(|mut f| {
                let mut feed = |time| match size {
                    None => f.calls(time),
                    Some(size) => f.one_way(size, time),
                };
                feed(time / 5)?;
                let before = Cpu::of(peer.pid());
                let fed = feed(time)?;
                let called = before.until(&Cpu::of(peer.pid()));
                Ok(Outcome {
                    per_second: fed.count / fed.took.as_secs_f64(),
                    middle: None,
                    slow: None,
                    cpu: Some([called / fed.count, fed.feeder / fed.count]),
                    seconds: fed.took.as_secs_f64(),
                    extra: 0.0,
                })
            });
        match outcome {
            Ok(outcome) => {
                let bytes = size.unwrap_or(0) as f64;
                self.fed.put(&row, kind.label(), round, bytes, &outcome);
            }
            Err(why) => {
                self.fed.say(&row, kind.label(), "fails");
                self.broken
                    .push(format!("fed with {row}, {}: {why}", kind.label()));
            }
        }
    }

    /// An erl that is called by an erl, and by a Rust node.
    fn rust(&mut self, round: usize) {
        let target = self.ground.erl(format!("target_{round}@127.0.0.1"));
        let erl = self.ground.erl(format!("caller_erl_{round}@127.0.0.1"));
        let rust = format!("caller_rust_{round}@127.0.0.1");
        let mut callers = [("erl", erl), ("redgrid", self.ground.child("caller", rust))];
        for (_, caller) in &mut callers {
            caller.told.ask(&format!("connect {}", target.name));
        }
        let tests = TESTS.iter().filter(|t| ["call", "rpc"].contains(&t.name));
        for (number, test) in tests.enumerate() {
            for turn in 0..callers.len() {
                let at = (turn + number + round) % callers.len();
                let (column, caller) = &mut callers[at];
                self.progress(round, &format!("{} from {column}", test.label));
                match drive(caller, &target, test, self.arguments.ms) {
                    Ok(outcome) => self.rust.put(test.label, column, round, 0.0, &outcome),
                    Err(Lack::Unable) => self.rust.say(test.label, column, "-"),
                    Err(Lack::Failed(why)) => {
                        self.rust.say(test.label, column, "fails");
                        let broken = format!("{} from {column}: {why}", test.label);
                        self.broken.push(broken);
                    }
                }
            }
        }
    }
}

/// Everybody's turn, another one beginning each time.
fn turns<T>(all: &[T], first: usize) -> impl Iterator<Item = &T> {
    (0..all.len()).map(move |turn| &all[(turn + first) % all.len()])
}

/// The version of a crate, as Cargo.lock has it.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let head = format!("name = \"{name}\"\nversion = \"");
    let version = lock
        .split(&head)
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    version.unwrap_or("?")
}
