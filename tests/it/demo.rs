//! `redgrid demo`: it shows the session of the talk, keeps a table on a terminal, and leaves nothing running, however it
//! ends. Its processes are told by an environment variable, which whatever it starts inherits.

use crate::support::program::{Ended, Program};
use crate::support::{DEADLINE, eventually};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// In the environment of everything that one demonstration starts.
const MARK: &str = "REDGRID_TEST_MARK";

/// The session, but for the last line: the order of `nodes()` is anybody's.
const SESSION: &str = "\
(foo@127.0.0.1)> redgrid:update_meta([{weight, 0}]).
ok
(bar@127.0.0.1)> redgrid:nodes([native]).
[{'bar@127.0.0.1',[{ip,\"127.0.0.1\"}]},
 {'foo@127.0.0.1',[{ip,\"127.0.0.1\"},{weight,0}]},
 {'rust@127.0.0.1',[{ip,\"127.0.0.1\"},{lang,rust}]}]
(bar@127.0.0.1)> nodes().
";

/// Where one demonstration runs.
struct Stage {
    home: TempDir,
    mark: String,
}

impl Stage {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mark = home.path().display().to_string();
        Self { home, mark }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path())
            .env(MARK, &self.mark);
        command
    }

    fn demo(&self) -> Program {
        let mut command = self.command(env!("CARGO_BIN_EXE_redgrid"));
        Program::start(command.arg("demo"))
    }

    /// What runs here: process numbers and command lines.
    fn running(&self) -> Vec<(String, String)> {
        let mark = format!("{MARK}={}", self.mark);
        let mut running = Vec::new();
        for process in std::fs::read_dir("/proc").expect("Linux").flatten() {
            // Processes of others, and those that end just now, cannot be read.
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
            {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let number = process.file_name().to_string_lossy().into_owned();
                running.push((number, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        running
    }

    /// Nothing runs any more, and no file is left.
    async fn is_empty(&self) {
        let end = Instant::now() + DEADLINE;
        while !self.running().is_empty() {
            assert!(Instant::now() < end, "still there: {:#?}", self.running());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left: Vec<_> = std::fs::read_dir(self.home.path())
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Stage {
    /// What should not have been left is not left for good.
    fn drop(&mut self) {
        for (number, _) in self.running() {
            let _ = Command::new("kill").args(["-KILL", &number]).status();
        }
    }
}

#[tokio::test]
async fn without_a_terminal_it_shows_the_session_and_ends() {
    let stage = Stage::new();
    let demo = stage.demo();
    let ended = demo.ended().await;
    let last = ended.done().strip_prefix(SESSION);
    let last = last.unwrap_or_else(|| panic!("another session:\n{}", ended.stdout));
    let inner = last
        .trim_end()
        .strip_prefix('[')
        .and_then(|last| last.strip_suffix(']'));
    let nodes: BTreeSet<&str> = inner.expect("a list").split(',').collect();
    assert_eq!(
        nodes,
        BTreeSet::from(["'foo@127.0.0.1'", "'rust@127.0.0.1'"])
    );
    stage.is_empty().await;
}

#[tokio::test]
async fn a_closed_output_ends_it_quietly_and_leaves_nothing() {
    let stage = Stage::new();
    let program = env!("CARGO_BIN_EXE_redgrid");
    // The reader of the pipe is gone long before the session is shown.
    let script = format!("{{ {program} demo --once 2>&3; echo $? >&4; }} 3>&2 4>&2 | exec true");
    let mut command = stage.command("bash");
    let ended = Program::start(command.args(["-c", &script])).ended().await;
    assert!(ended.stderr.ends_with("\n0\n"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    stage.is_empty().await;
}

#[tokio::test]
async fn interrupted_in_the_middle_it_leaves_nothing() {
    for (signal, after, pause) in [
        ("-INT", "starting: a Redis", 0),
        ("-TERM", "starting: a Redis", 50),
        ("-INT", "starting: the Rust node", 0),
        ("-TERM", "starting: the Rust node", 50),
        ("-INT", "starting: the Rust node", 500),
    ] {
        let stage = Stage::new();
        let demo = stage.demo();
        demo.log_line(after).await;
        // Not to wait for something: any moment will do, as long as there are several.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        demo.signal(signal);
        let Ended { code, stderr, .. } = demo.ended().await;
        assert_eq!(code, 0, "{signal}: {stderr}");
        stage.is_empty().await;
    }
}

#[tokio::test]
async fn on_a_terminal_it_keeps_a_table_and_others_can_join_as_it_says() {
    let stage = Stage::new();
    let program = env!("CARGO_BIN_EXE_redgrid");
    let mut command = stage.command("script");
    command.args([
        "-q",
        "-f",
        "-e",
        "-c",
        &format!("exec {program} demo"),
        "/dev/null",
    ]);
    let mut demo = Program::interactive(command.env("TERM", "xterm"));
    let line_with = async |demo: &Program, words: [&str; 2]| -> String {
        eventually(&format!("{words:?} is shown"), async || {
            let shown = demo.stdout();
            let mut lines = shown.lines().map(|line| line.trim().to_owned());
            lines.find(|line| words.iter().all(|word| line.contains(word)))
        })
        .await
    };
    let erl = line_with(&demo, ["ERL_EPMD_PORT=", " erl "]).await;
    let rust = line_with(&demo, ["redgrid node", "--name you@127.0.0.1"]).await;
    line_with(&demo, ["foo@127.0.0.1", "connected"]).await;

    let sh = |line: &str| {
        Program::interactive(
            stage
                .command("sh")
                .args(["-c", &format!("exec env {line}")]),
        )
    };
    let me = sh(&erl);
    let you = sh(&rust);
    line_with(&demo, ["me@127.0.0.1", "connected"]).await;
    line_with(&demo, ["you@127.0.0.1", "connected"]).await;
    you.signal("-TERM");
    assert_eq!(you.ended().await.code, 0);
    me.kill();

    demo.type_in("\x03");
    assert_eq!(demo.ended().await.code, 0);
    // The guest has made itself a cookie in HOME, perhaps.
    let _ = std::fs::remove_file(stage.home.path().join(".erlang.cookie"));
    stage.is_empty().await;
}
