//! What the benches share: programs that end with the value that holds them, an `erl` that is told what to do line by
//! line, servers on free ports.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take to come up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const COOKIE: &str = "only_for_this_bench";

/// `$REDGRID_BIN`, to measure another build, or the one that cargo made along with the bench.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("REDGRID_BIN").map_or(env!("CARGO_BIN_EXE_redgrid").into(), PathBuf::from)
}

/// A program that ends with this value, and with this process however that ends.
pub(crate) struct Ended(pub(crate) Child, Child);

impl Ended {
    pub(crate) fn new(child: Child) -> Self {
        // We hold the other end of its standard input: it reads the end of that when we are gone.
        let guard = Command::new("sh")
            .args(["-c", "trap '' INT; read _; kill -9 $0"])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`sh` starts");
        Self(child, guard)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // The guard goes first: later the number may be that of another process.
        for child in [&mut self.1, &mut self.0] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that does what it is told on its standard input, and answers each line with one.
pub(crate) struct Told {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) child: Ended,
}

impl Told {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Self {
        let program = command.get_program().display().to_string();
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("`{program}` does not start: {error} (make install installs it)")
            });
        let mut child = Ended::new(child);
        let input = child.0.stdin.take().expect("piped");
        let output = BufReader::new(child.0.stdout.take().expect("piped"));
        Self {
            input,
            output,
            child,
        }
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("a program that listens");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("a program that answers");
        let ended = self.child.0.try_wait();
        assert!(
            !line.is_empty(),
            "it was asked something and ended: {ended:?}"
        );
        line.trim_end().to_owned()
    }
}

/// An epmd of the bench's own, and its port.
pub(crate) fn epmd() -> (Ended, u16) {
    server("epmd", |port| {
        ["-port", port, "-address", "127.0.0.1"]
            .map(Into::into)
            .to_vec()
    })
}

/// Starts a server on a free port and waits until it listens there.
pub(crate) fn server(program: &str, arguments: impl Fn(&str) -> Vec<String>) -> (Ended, u16) {
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
        let mut child = Ended::new(child);
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

/// The start of every report: when, which builds, which machine. `otp`: what an `erl` answered to `otp`; `others`:
/// what else had a part in it.
pub(crate) fn heading(otp: &str, others: &str) -> String {
    let (otp, erts) = otp.split_once(' ').unwrap_or((otp, "?"));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!(
        "{}: redgrid {}, OTP {otp} (erts {erts}), {others}, {} {}, {cpus} CPUs, load {load}",
        output("date", &["+%Y-%m-%d"]),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

/// What a program prints, in one line.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("?".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
