//! The three numbers that a user feels first, printed as a table (`make bench-smoke`; docs/measurements.md keeps them).
//!
//! 1. From the start of the program `redgrid node` to the `pong` that a running `erl` gets from it, and to the moment
//!    at which it tells systemd that it is ready: registered with epmd and in the mesh.
//! 2. What an idle node holds in memory, with two Erlang nodes connected to it through the mesh.
//! 3. Calls of an echo process one after the other, of the Rust node and of a second `erl` in turn: the machine's mood
//!    is the same for both.
//!
//! Never a test: a number depends on what else the machine does. Redis and epmd are the bench's own, on free ports, with
//! their files in a temporary directory; all of it ends with the bench.

mod support;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{COOKIE, Ended, PATIENCE, Told, heading, output, program, server};
use tempfile::TempDir;

/// How often the node is started.
const STARTS: usize = 20;

/// How often each side's calls are measured, how many calls that is, and after how many of them it is the other's turn.
const ROUNDS: usize = 5;
const CALLS: usize = 10_000;
const SLICE: usize = 500;

/// How long an idle node is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

fn main() {
    // `cargo bench` hands on `--bench`; `cargo test --benches` would run this as a test, which it is not.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("smoke: nothing is measured in a test run; use `make bench-smoke`");
        return;
    }
    let ground = Ground::prepare();
    let mut caller = ground.erl("caller@127.0.0.1");
    let mut other = ground.erl("other@127.0.0.1");

    let redis = output("redis-server", &["--version"]);
    let redis = redis.split("v=").nth(1).unwrap_or("?");
    let redis = redis.split_whitespace().next().unwrap_or("?");
    println!(
        "\n{}\n",
        heading(&caller.ask("otp"), &format!("Redis {redis}"))
    );
    println!("{:44} {:>9}   {:>9} {:>9}", "", "median", "min", "max");
    starts(&ground, &mut caller);
    memory(&ground, &mut caller, &mut other);
    calls(&ground, &mut caller);
}

/// From the start of the program to `pong`, and to readiness.
fn starts(ground: &Ground, caller: &mut Told) {
    let (mut pongs, mut readies) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        // Each has a name of its own, so that none is taken for the earlier life of another.
        let name = format!("start{number}@127.0.0.1");
        let begin = Instant::now();
        let node = ground.node(&name, &[]);
        caller.tell(&format!("pong {name}"));
        assert_eq!(caller.answer(), "up");
        pongs.push(millis(begin.elapsed()));

        // Ready may have been before the pong: the datagram waits in the socket, and tells its own time only
        // when it is awaited alone.
        leave(node);
        let name = format!("ready{number}@127.0.0.1");
        let begin = Instant::now();
        let node = ground.node(&name, &[]);
        ground.ready();
        readies.push(millis(begin.elapsed()));
        leave(node);
    }
    row("start to pong, ms", 1, &mut pongs);
    row("start to ready (epmd and mesh), ms", 1, &mut readies);
}

/// What an idle node holds.
fn memory(ground: &Ground, caller: &mut Told, other: &mut Told) {
    let node = ground.node("idle@127.0.0.1", &[]);
    ground.ready();
    assert_eq!(caller.ask("mesh"), "up");
    assert_eq!(other.ask("mesh"), "up");
    assert_eq!(caller.ask("nodes idle@127.0.0.1 other@127.0.0.1"), "up");
    assert_eq!(other.ask("nodes idle@127.0.0.1 caller@127.0.0.1"), "up");
    std::thread::sleep(SETTLE);

    let read = |file: &str, key: &str| kibibytes(&node, file, key).map_or("?".into(), mebibytes);
    println!(
        "idle with 2 peers, MiB                       {:>9}   resident (peak {}), of it {} its own, {} proportional",
        read("status", "VmRSS:"),
        read("status", "VmHWM:"),
        read("smaps_rollup", "Anonymous:"),
        read("smaps_rollup", "Pss:"),
    );
    leave(node);
}

/// Calls one after the other, of both in turn.
fn calls(ground: &Ground, caller: &mut Told) {
    let node = ground.node("rust@127.0.0.1", &["--echo"]);
    ground.ready();
    // An erl that, like the Rust node's, has nothing else to do.
    let mut erlang = ground.erl("erlang@127.0.0.1");
    erlang.ask("otp");

    let (mut rust, mut beam, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut measure = |node: &str, count: usize| -> f64 {
        let time = caller.ask(&format!("calls {node} {count}"));
        let time: f64 = time.parse().expect("the microseconds that the calls took");
        time / count as f64
    };
    measure("rust@127.0.0.1", CALLS / 5);
    measure("erlang@127.0.0.1", CALLS / 5);
    for _ in 0..ROUNDS {
        let (mut a, mut b) = (0.0, 0.0);
        for slice in 0..CALLS / SLICE {
            // Who goes first changes, so that neither is always behind the other.
            if slice.is_multiple_of(2) {
                a += measure("rust@127.0.0.1", SLICE);
                b += measure("erlang@127.0.0.1", SLICE);
            } else {
                b += measure("erlang@127.0.0.1", SLICE);
                a += measure("rust@127.0.0.1", SLICE);
            }
        }
        rust.push(a / (CALLS / SLICE) as f64);
        beam.push(b / (CALLS / SLICE) as f64);
        ratios.push(a / b);
    }
    row("a call, erl to redgrid, us", 1, &mut rust);
    row("a call, erl to erl, us", 1, &mut beam);
    row("  the first by the second, in one round", 2, &mut ratios);
    println!("{ROUNDS} rounds of {CALLS} calls, {STARTS} starts.");
    leave(node);
}

/// Asks a node to leave, so that no later node looks for it.
fn leave(mut node: Ended) {
    let pid = node.0.id().to_string();
    let _ = Command::new("kill").args(["-TERM", &pid]).status();
    let _ = node.0.wait();
}

fn row(what: &str, digits: usize, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        (values[middle - 1] + values[middle]) / 2.0
    } else {
        values[middle]
    };
    let (min, max) = (values[0], values[values.len() - 1]);
    println!("{what:44} {median:9.digits$}   {min:9.digits$} {max:9.digits$}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of KiB out of a file of `/proc`; `None` where there is none.
fn kibibytes(of: &Ended, file: &str, key: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", of.0.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn mebibytes(kib: f64) -> String {
    format!("{:.1}", kib / 1024.0)
}

/// What everything runs on.
struct Ground {
    dir: TempDir,
    epmd_port: u16,
    redis: String,
    readiness: UnixDatagram,
    _servers: [Ended; 2],
}

impl Ground {
    fn prepare() -> Self {
        let dir = TempDir::with_prefix("redgrid-bench-").expect("a temporary directory");
        compile(dir.path());
        let (epmd, epmd_port) = support::epmd();
        let at = dir.path().display().to_string();
        let (redis, redis_port) = server("redis-server", |port| {
            [
                "--port",
                port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                &at,
            ]
            .map(Into::into)
            .to_vec()
        });
        let readiness =
            UnixDatagram::bind(dir.path().join("notify")).expect("a socket for READY=1");
        readiness
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout that is not 0");
        Self {
            dir,
            epmd_port,
            redis: format!("redis://127.0.0.1:{redis_port}/"),
            readiness,
            _servers: [epmd, redis],
        }
    }

    /// An `erl` that waits for commands.
    fn erl(&self, name: &str) -> Told {
        let mut command = Command::new("erl");
        command
            .args(["-noshell", "-name", name, "-setcookie", COOKIE, "-pa"])
            .arg(self.dir.path())
            .args(["-run", "smoke", "main"])
            .env("LOCAL_IP", "127.0.0.1");
        self.surround(&mut command);
        Told::start(command)
    }

    /// The program that is measured.
    fn node(&self, name: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new(program());
        command
            .args(["node", "--name", name, "--cookie", COOKIE])
            .args(["--log-level", "warning"])
            .args(arguments)
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .stdin(Stdio::null());
        // Whatever an earlier node said is not about this one.
        while self.said(Duration::from_micros(1)).is_some() {}
        Ended::new(self.spawn(command))
    }

    fn spawn(&self, mut command: Command) -> Child {
        let program = command.get_program().display().to_string();
        self.surround(&mut command);
        command
            .spawn()
            .unwrap_or_else(|error| panic!("`{program}` does not start: {error}"))
    }

    fn surround(&self, command: &mut Command) {
        command
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("REDIS_URL", &self.redis)
            .env("HOME", self.dir.path())
            .env_remove("ERL_FLAGS")
            .env_remove("ERL_AFLAGS")
            .env_remove("ERL_ZFLAGS")
            .current_dir(self.dir.path());
    }

    /// Waits until the node that was started last says that it is ready.
    fn ready(&self) {
        while !self
            .said(PATIENCE)
            .expect("a node that is ready")
            .contains("READY=1")
        {}
    }

    fn said(&self, patience: Duration) -> Option<String> {
        self.readiness
            .set_read_timeout(Some(patience))
            .expect("a timeout that is not 0");
        let mut buffer = [0; 256];
        let length = self.readiness.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// The Erlang side of the bench, and the Erlang library of the mesh.
fn compile(dir: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("rebar_fixture/src");
    let mut modules = vec![dir.join("smoke.erl")];
    fs::write(&modules[0], include_str!("smoke.erl")).expect("room for a file");
    for file in fs::read_dir(sources).expect("the Erlang library") {
        let path = file.expect("the Erlang library").path();
        if path.extension().is_some_and(|end| end == "erl") {
            modules.push(path);
        } else {
            fs::copy(&path, dir.join("redgrid.app")).expect("room for a file");
        }
    }
    let done = Command::new("erlc")
        .arg("-o")
        .arg(dir)
        .args(modules)
        .status()
        .expect("`erlc` starts (make install)");
    assert!(done.success(), "the Erlang sources do not compile");
}
