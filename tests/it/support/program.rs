//! A program as a value: its lines can be read and waited for; it is killed and reaped when dropped.

use super::{DEADLINE, eventually};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running program.
pub(crate) struct Program {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a program was that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; 128 + the number of the signal that ended it.
    pub(crate) code: i32,
    /// What it wrote.
    pub(crate) stdout: String,
    /// What it complained and logged.
    pub(crate) stderr: String,
}

/// What came out of one pipe until now.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts it, with nothing to read.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts it, with an input that stays open and can be written to.
    pub(crate) fn interactive(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("{command:?} cannot be started: {why}"));
        let stdout = Output::of(child.stdout.take().expect("a pipe"));
        let stderr = Output::of(child.stderr.take().expect("a pipe"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote until now.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it complained and logged until now.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The whole lines of its log that have this text.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        let log = self.stderr();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let with = whole.lines().filter(|line| line.contains(text));
        with.map(str::to_owned).collect()
    }

    /// Waits for such a line in its log and gives the first.
    pub(crate) async fn log_line(&self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.logged(text).into_iter().next() {
                return line;
            }
            let log = self.stderr();
            assert!(Instant::now() < end, "no {text:?} was logged:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Types into it.
    pub(crate) fn type_in(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("an interactive program");
        input
            .write_all(text.as_bytes())
            .expect("a program that reads");
    }

    /// Sends it a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "kill {signal} {pid}"
        );
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = eventually("the program ends", async || {
            self.child.try_wait().expect("our own child")
        })
        .await;
        Ended {
            code: code(status),
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
        }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

impl Ended {
    /// It did what it was to do; gives what it wrote.
    pub(crate) fn done(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// It failed with this code, no result, and one line with all of these words.
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "results only");
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "more than one line:\n{}",
            self.stderr
        );
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
    }
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                into.lock().unwrap().append(&mut line);
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a pipe");
        }
        self.text()
    }
}

fn code(status: ExitStatus) -> i32 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    status.code().or(by_signal).expect("an end")
}
