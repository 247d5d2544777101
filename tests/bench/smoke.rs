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

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How often the node is started.
const STARTS: usize = 20;

/// How often each side's calls are measured, how many calls that is, and after how many of them it is the other's turn.
const ROUNDS: usize = 5;
const CALLS: usize = 10_000;
const SLICE: usize = 500;

/// How long an idle node is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

const COOKIE: &str = "only_for_this_bench";

fn main() {
    // `cargo bench` hands on `--bench`; `cargo test --benches` would run this as a test, which it is not.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("smoke: nothing is measured in a test run; use `make bench-smoke`");
        return;
    }
    let ground = Ground::prepare();
    let mut caller = ground.erl("caller@127.0.0.1");
    let mut other = ground.erl("other@127.0.0.1");

    heading(&mut caller);
    starts(&ground, &mut caller);
    memory(&ground, &mut caller, &mut other);
    calls(&ground, &mut caller);
}

fn heading(caller: &mut Erl) {
    let otp = caller.ask("otp");
    let (otp, erts) = otp.split_once(' ').unwrap_or((&otp, "?"));
    let redis = output("redis-server", &["--version"]);
    let redis = redis.split("v=").nth(1).unwrap_or("?");
    let redis = redis.split_whitespace().next().unwrap_or("?");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    println!(
        "\n{}: redgrid {}, OTP {otp} (erts {erts}), Redis {redis}, {} {}, {cpus} CPUs, load {load}",
        output("date", &["+%Y-%m-%d"]),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    );
    println!("\n{:44} {:>9}   {:>9} {:>9}", "", "median", "min", "max");
}

/// From the start of the program to `pong`, and to readiness.
fn starts(ground: &Ground, caller: &mut Erl) {
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
        node.leave();
        let name = format!("ready{number}@127.0.0.1");
        let begin = Instant::now();
        let node = ground.node(&name, &[]);
        ground.ready();
        readies.push(millis(begin.elapsed()));
        node.leave();
    }
    row("start to pong, ms", 1, &mut pongs);
    row("start to ready (epmd and mesh), ms", 1, &mut readies);
}

/// What an idle node holds.
fn memory(ground: &Ground, caller: &mut Erl, other: &mut Erl) {
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
    node.leave();
}

/// Calls one after the other, of both in turn.
fn calls(ground: &Ground, caller: &mut Erl) {
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
    node.leave();
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
        let (epmd, epmd_port) = server("epmd", |port| {
            ["-port", port, "-address", "127.0.0.1"]
                .map(Into::into)
                .to_vec()
        });
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
    fn erl(&self, name: &str) -> Erl {
        let mut command = Command::new("erl");
        command
            .args(["-noshell", "-name", name, "-setcookie", COOKIE, "-pa"])
            .arg(self.dir.path())
            .args(["-run", "smoke", "main"])
            .env("LOCAL_IP", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Ended(self.spawn(command));
        let input = child.0.stdin.take().expect("piped");
        let output = BufReader::new(child.0.stdout.take().expect("piped"));
        Erl {
            input,
            output,
            _child: child,
        }
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
        Ended(self.spawn(command))
    }

    fn spawn(&self, mut command: Command) -> Child {
        let program = command.get_program().display().to_string();
        command
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("REDIS_URL", &self.redis)
            .env("HOME", self.dir.path())
            .env_remove("ERL_FLAGS")
            .env_remove("ERL_AFLAGS")
            .env_remove("ERL_ZFLAGS")
            .current_dir(self.dir.path())
            .spawn()
            .unwrap_or_else(|error| panic!("`{program}` does not start: {error}"))
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

/// `$REDGRID_BIN`, to measure another build, or the one that cargo made along with the bench.
fn program() -> PathBuf {
    std::env::var_os("REDGRID_BIN").map_or(env!("CARGO_BIN_EXE_redgrid").into(), PathBuf::from)
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

/// A program that ends with this value.
struct Ended(Child);

impl Ended {
    /// Asks a node to leave, so that no later node looks for it.
    fn leave(mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An `erl` that does what it is told.
struct Erl {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Ended,
}

impl Erl {
    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("an erl that listens");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("an erl that answers");
        assert!(!line.is_empty(), "an erl ended");
        line.trim_end().to_owned()
    }
}

/// Starts a server on a free port and waits until it listens there.
fn server(program: &str, arguments: impl Fn(&str) -> Vec<String>) -> (Ended, u16) {
    // Between the look for a free port and the start somebody else may take it.
    for _ in 0..5 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        drop(listener);
        let child = Command::new(program)
            .args(arguments(&port.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("`{program}` does not start: {error} (make install installs it)")
            });
        let mut child = Ended(child);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(child.0.try_wait(), Ok(None)) {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return (child, port);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("`{program}` was started five times and never listened on its port")
}

/// What a program prints, in one line.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("?".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
