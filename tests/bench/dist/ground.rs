//! What is measured, and how it is read: epmd, the peers, the callers, the CPU time and the memory of a process.

use crate::support::{self, COOKIE, Ended, PATIENCE, Told, program};
use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

use super::wire;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A plain `erl` with the processes `echo` and `sink`.
    Beam,
    /// `redgrid node --echo`, without Redis.
    Redgrid,
    /// An echo server on the channel of the crate `erl_dist` (`channel.rs`).
    #[value(name = "erl_dist")]
    ErlDist,
}

impl Kind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Beam => "beam",
            Self::Redgrid => "redgrid",
            Self::ErlDist => "erl_dist",
        }
    }
}

/// What everything runs on.
pub(crate) struct Ground {
    dir: TempDir,
    pub(crate) epmd_port: u16,
    _epmd: Ended,
}

/// A running node.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) told: Told,
}

impl Peer {
    pub(crate) fn pid(&self) -> u32 {
        self.told.child.0.id()
    }
}

impl Ground {
    pub(crate) fn prepare() -> Self {
        let dir = TempDir::with_prefix("redgrid-bench-").expect("a temporary directory");
        let source = dir.path().join("dist.erl");
        fs::write(&source, include_str!("dist.erl")).expect("room for a file");
        let done = Command::new("erlc")
            .arg("-o")
            .arg(dir.path())
            .arg(source)
            .status()
            .expect("`erlc` starts (make install)");
        assert!(done.success(), "dist.erl does not compile");
        let (epmd, epmd_port) = support::epmd();
        Self {
            dir,
            epmd_port,
            _epmd: epmd,
        }
    }

    /// A node that has `echo` and `sink`, registered with epmd. `life` makes its name one of its own.
    pub(crate) fn peer(&self, kind: Kind, life: &str) -> Peer {
        let name = format!("{}_{life}@127.0.0.1", kind.label());
        match kind {
            Kind::Beam => self.erl(name),
            Kind::Redgrid => {
                let mut command = Command::new(program());
                command
                    .args(["node", "--name", &name, "--cookie", COOKIE, "--echo"])
                    .args(["--redis", "redis://127.0.0.1:1/", "--log-level", "error"]);
                self.node(name, command)
            }
            Kind::ErlDist => self.child("channel", name),
        }
    }

    /// An `erl` that is told what to do.
    pub(crate) fn erl(&self, name: String) -> Peer {
        let mut command = Command::new("erl");
        command
            .args(["-noshell", "-name", &name, "-setcookie", COOKIE])
            // Otherwise `global` has the nodes connect to each other in the middle of a measurement.
            .args(["-connect_all", "false", "-pa"])
            .arg(self.dir.path())
            .args(["-run", "dist", "main"]);
        let mut erl = self.node(name, command);
        // It is at epmd before it has its processes; when it answers they are there.
        erl.told.ask("otp");
        erl
    }

    /// This program once more, as one of `children.rs` or `channel.rs`.
    pub(crate) fn child(&self, what: &str, name: String) -> Peer {
        let mut command = Command::new(std::env::current_exe().expect("a name of this program"));
        command.args(["--child", what, &name, &self.epmd_port.to_string()]);
        self.node(name, command)
    }

    fn node(&self, name: String, mut command: Command) -> Peer {
        command
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("HOME", self.dir.path())
            .env_remove("ERL_FLAGS")
            .env_remove("ERL_AFLAGS")
            .env_remove("ERL_ZFLAGS")
            .current_dir(self.dir.path());
        let mut told = Told::start(command);
        let end = Instant::now() + PATIENCE;
        while wire::port_of(self.epmd_port, &name).is_none() {
            let ended = told.child.0.try_wait().expect("a child of ours");
            assert_eq!(ended, None, "{name} ended at its start");
            assert!(Instant::now() < end, "{name} did not register with epmd");
            std::thread::sleep(Duration::from_millis(5));
        }
        Peer { name, told }
    }
}

/// The CPU time of a process: nanoseconds that each of its threads has run, which the scheduler counts. The ticks of
/// `/proc/PID/stat` are 10 ms each, too coarse for short runs.
pub(crate) struct Cpu(HashMap<String, u64>);

impl Cpu {
    pub(crate) fn of(pid: u32) -> Self {
        let mut threads = HashMap::new();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            // A thread may end between the two reads.
            if let Ok(text) = fs::read_to_string(task.path().join("schedstat"))
                && let Some(ns) = text.split_whitespace().next().and_then(|n| n.parse().ok())
            {
                threads.insert(task.file_name().to_string_lossy().into_owned(), ns);
            }
        }
        Self(threads)
    }

    /// The same of the thread that asks, in nanoseconds.
    pub(crate) fn of_this_thread() -> u64 {
        // The kernel counts when it looks at who runs next, which it now does.
        std::thread::yield_now();
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
        ns.unwrap_or(0)
    }

    /// Microseconds from `self` to `later`. What a thread used that ended in between is not in it.
    pub(crate) fn until(&self, later: &Self) -> f64 {
        let ns = later.0.iter().map(|(thread, after)| {
            let before = self.0.get(thread).copied().unwrap_or(0);
            after.saturating_sub(before)
        });
        ns.sum::<u64>() as f64 / 1e3
    }
}

/// What a process holds, in MiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// Of it what is no page of a file.
    pub(crate) own: f64,
    pub(crate) peak: f64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
        let text = text.ok()?;
        let read = |key: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(key))?;
            let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib / 1024.0)
        };
        Some(Self {
            resident: read("VmRSS:")?,
            own: read("RssAnon:")?,
            peak: read("VmHWM:")?,
        })
    }
}
