//! What a driver does to a peer, and the numbers of it.

use super::{
    MIB, Section,
    ground::{Cpu, Peer},
    report::Table,
};

/// One thing that a driver does to a peer; the words are those of `dist.erl`.
pub(crate) struct Test {
    pub(crate) section: Section,
    pub(crate) label: &'static str,
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    /// Bytes that one operation carries one way.
    pub(crate) bytes: usize,
}

const fn test(
    section: Section,
    label: &'static str,
    name: &'static str,
    size: usize,
    bytes: usize,
) -> Test {
    Test {
        section,
        label,
        name,
        size,
        bytes,
    }
}

pub(crate) const TESTS: [Test; 12] = [
    test(Section::Calls, "gen_server:call, 1 caller", "call", 1, 0),
    test(Section::Calls, "gen_server:call, 64 callers", "call", 64, 0),
    test(Section::Calls, "raw echo, 1 caller", "raw", 1, 0),
    test(Section::Calls, "rpc:call, 1 caller", "rpc", 1, 0),
    test(Section::Calls, "rpc:call, 64 callers", "rpc", 64, 0),
    test(Section::Oneway, "one way, 16 B", "sink", 16, 16),
    test(Section::Oneway, "one way, 1 KiB", "sink", 1024, 1024),
    test(Section::Oneway, "one way, 64 KiB", "sink", 65536, 65536),
    test(Section::Big, "echo of 1 MiB", "big", MIB, MIB),
    test(Section::Big, "echo of 16 MiB", "big", 16 * MIB, 16 * MIB),
    test(Section::Big, "small calls beside them", "mix", 16 * MIB, 0),
    test(
        Section::Nested,
        "nested term, 1,000 items",
        "nested",
        1000,
        0,
    ),
];

/// The row of the binaries that go back and forth beside the small calls.
pub(crate) const BESIDE: &str = "16 MiB beside small calls";

/// What one turn gave.
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// Microseconds, where single operations have a time.
    pub(crate) middle: Option<f64>,
    pub(crate) slow: Option<f64>,
    /// Microseconds of CPU time for one operation, of the one that was called and of the one that called.
    pub(crate) cpu: Option<[f64; 2]>,
    pub(crate) seconds: f64,
    pub(crate) extra: f64,
}

/// Why a turn gave nothing.
pub(crate) enum Lack {
    /// The peer has no such thing.
    Unable,
    /// Something is broken.
    Failed(String),
}

/// The numbers of all turns of one kind.
pub(crate) struct Numbers {
    pub(crate) rates: Table,
    pub(crate) megabytes: Table,
    pub(crate) middle: Table,
    pub(crate) slow: Table,
    pub(crate) called: Table,
    pub(crate) caller: Table,
}

impl Numbers {
    pub(crate) fn new(
        what: &str,
        columns: &[&'static str],
        base: &str,
        called: &str,
        caller: &str,
    ) -> Self {
        let table = |title: String| Table::new(&title, columns, Some(base));
        Self {
            rates: table(format!("{what}, a second")),
            megabytes: table(format!("{what}, MB/s one way")),
            middle: table(format!("{what}, p50, us")),
            slow: table(format!("{what}, p99, us")),
            called: table(format!("CPU of {called}, us for one")),
            caller: table(format!("CPU of {caller}, us for one")),
        }
    }

    pub(crate) fn put(
        &mut self,
        row: &str,
        column: &str,
        round: usize,
        bytes: f64,
        outcome: &Outcome,
    ) {
        self.rates.put(row, column, round, outcome.per_second);
        if bytes > 0.0 {
            let rate = outcome.per_second * bytes / 1e6;
            self.megabytes.put(row, column, round, rate);
        }
        if let (Some(middle), Some(slow)) = (outcome.middle, outcome.slow) {
            self.middle.put(row, column, round, middle);
            self.slow.put(row, column, round, slow);
        }
        if let Some([called, caller]) = outcome.cpu {
            self.called.put(row, column, round, called);
            self.caller.put(row, column, round, caller);
        }
    }

    pub(crate) fn say(&mut self, row: &str, column: &str, word: &'static str) {
        for table in [&mut self.rates, &mut self.called, &mut self.caller] {
            table.say(row, column, word);
        }
    }

    pub(crate) fn print(&self) {
        for table in [
            &self.rates,
            &self.megabytes,
            &self.middle,
            &self.slow,
            &self.called,
            &self.caller,
        ] {
            table.print();
        }
    }
}

/// Has a driver do one test to a peer, and reads what it cost both.
pub(crate) fn drive(driver: &mut Peer, peer: &Peer, test: &Test, ms: u64) -> Result<Outcome, Lack> {
    let lack = |said: String| match said.strip_prefix("unable") {
        Some(_) => Lack::Unable,
        None => Lack::Failed(said),
    };
    let (name, size) = (test.name, test.size);
    let said = driver
        .told
        .ask(&format!("run {} {ms} {name} {size}", peer.name));
    if said != "ready" {
        return Err(lack(said));
    }
    let before = [Cpu::of(peer.pid()), Cpu::of(driver.pid())];
    let said = driver.told.ask("go");
    let called = before[0].until(&Cpu::of(peer.pid()));
    let caller = before[1].until(&Cpu::of(driver.pid()));
    let Some(numbers) = said.strip_prefix("done ") else {
        return Err(lack(said));
    };
    let numbers: Result<Vec<f64>, _> = numbers.split(' ').map(str::parse).collect();
    let Ok(&[count, ns, middle, slow, extra]) = numbers.as_deref() else {
        return Err(Lack::Failed(said));
    };
    let time = |ns: f64| (ns > 0.0).then_some(ns / 1e3);
    Ok(Outcome {
        per_second: count * 1e9 / ns,
        middle: time(middle),
        slow: time(slow),
        cpu: Some([called / count, caller / count]),
        seconds: ns / 1e9,
        extra,
    })
}
