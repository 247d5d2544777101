//! What a node holds: idle, with many connections, with many processes.

use super::{
    Bench, SETTLE,
    feed::Feeder,
    ground::{Kind, Memory},
    wire,
};

impl Bench {
    /// Idle, with 100 connections, with 100,000 processes.
    pub(crate) fn memory(&mut self, round: usize) {
        for kind in self.arguments.peers.clone() {
            self.progress(round, &format!("memory, {}", kind.label()));
            let peer = self.ground.peer(kind, &format!("memory_{round}"));
            std::thread::sleep(SETTLE);
            let Some(idle) = Memory::of(peer.pid()) else {
                continue;
            };
            let mut put = |row, value| self.memory.put(row, kind.label(), round, value);
            put("idle, resident", idle.resident);
            put("  of it its own", idle.own);

            let dialled: Result<Vec<_>, _> = (0..100)
                .map(|n| format!("connection_{n}@127.0.0.1"))
                .map(|name| wire::dial(self.ground.epmd_port, &name, &peer.name))
                .collect();
            std::thread::sleep(SETTLE);
            match (dialled, Memory::of(peer.pid())) {
                (Ok(_connections), Some(memory)) => put("with 100 connections", memory.resident),
                (Err(why), _) => self
                    .broken
                    .push(format!("100 connections, {}: {why}", kind.label())),
                _ => {}
            }
            drop(peer);
            self.processes(kind, round);
        }
    }

    /// 100,000 processes that wait: of an erl, `timer:sleep(infinity)`; of Rust, a function that was exported. They are
    /// started over ten connections, since redgrid bounds how many run for one peer.
    fn processes(&mut self, kind: Kind, round: usize) {
        const ROW: &str = "with 100,000 processes";
        const EACH: &str = "  one process, KiB";
        let name = format!("processes_{}_{round}@127.0.0.1", kind.label());
        let (peer, function) = match kind {
            Kind::Beam => (self.ground.erl(name), ("timer", "sleep", "infinity")),
            Kind::Redgrid => (self.ground.child("waiting", name), ("bench", "wait", "")),
            Kind::ErlDist => {
                self.memory.say(ROW, kind.label(), "-");
                return;
            }
        };
        std::thread::sleep(SETTLE);
        let idle = Memory::of(peer.pid());
        let started = (0..10).try_fold((0, Vec::new()), |(started, mut feeders), n| {
            let name = format!("spawner_{n}@127.0.0.1");
            let mut feeder = Feeder::connect(self.ground.epmd_port, &name, &peer.name)?;
            let started = started + feeder.spawn(function, 10_000)?;
            feeders.push(feeder);
            Ok::<_, String>((started, feeders))
        });
        std::thread::sleep(SETTLE);
        match (started, idle, Memory::of(peer.pid())) {
            (Ok((100_000, _feeders)), Some(idle), Some(memory)) => {
                let mut put = |row, value| self.memory.put(row, kind.label(), round, value);
                put(ROW, memory.resident);
                put(EACH, (memory.resident - idle.resident) * 1024.0 / 1e5);
            }
            (Ok((started, _)), ..) => {
                self.memory.say(ROW, kind.label(), "refused");
                println!(
                    "{}: {started} of 100,000 processes were started",
                    kind.label()
                );
            }
            (Err(why), ..) => {
                self.broken
                    .push(format!("100,000 processes, {}: {why}", kind.label()));
            }
        }
    }
}
