//! A real `erl` as a value: a node that evaluates what it is told, killed and reaped when dropped.

use super::epmd::EpmdServer;
use redgrid::dist::NodeName;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// What every node of these tests knows.
pub(crate) const COOKIE: &str = "the_cookie_of_the_tests";

/// Reads an expression a line and prints what became of it behind a mark, so that it is told from what is logged.
const LOOP: &str = r##"
    io:setopts([{encoding, unicode}]),
    Loop = fun(Loop) ->
        case io:get_line("") of
            eof -> erlang:halt(0, [{flush, false}]);
            Line ->
                Result = try
                    {ok, Tokens, _} = erl_scan:string(Line),
                    {ok, Exprs} = erl_parse:parse_exprs(Tokens),
                    {value, Value, _} = erl_eval:exprs(Exprs, []),
                    {"#ok ", Value}
                catch Class:Reason -> {"#no ", {Class, Reason}}
                end,
                io:format("~s~0tp~n", [element(1, Result), element(2, Result)]),
                Loop(Loop)
        end
    end,
    spawn(fun() -> Loop(Loop) end).
"##;

/// A running Erlang node.
pub(crate) struct Beam {
    child: Child,
    input: Option<ChildStdin>,
    results: mpsc::UnboundedReceiver<String>,
    log: Arc<Mutex<String>>,
    name: NodeName,
    _home: TempDir,
}

impl Beam {
    /// A visible node of this name, with [`COOKIE`].
    pub(crate) async fn start(epmd: &EpmdServer, name: &str) -> Self {
        Self::start_with(epmd, name, &[]).await
    }

    /// The same with further arguments for `erl`.
    pub(crate) async fn start_with(epmd: &EpmdServer, name: &str, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let name: NodeName = format!("{name}@127.0.0.1").parse().expect("a node name");
        // Another release: tests/tools/erl-in-root.
        let program = std::env::var("REDGRID_TEST_ERL").unwrap_or_else(|_| "erl".into());
        let mut child = Command::new(program)
            .args(["-name", name.as_str(), "-setcookie", COOKIE, "-noshell"])
            .args(["-start_epmd", "false", "+S", "2:2", "+sbwt", "none"])
            .args(arguments)
            .args(["-eval", LOOP])
            .env("ERL_EPMD_PORT", epmd.port().to_string())
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Erlang must be installed for these tests (make test does it)");
        let output = child.stdout.take().expect("a pipe");
        let (sender, results) = mpsc::unbounded_channel();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = log.clone();
        // It ends with the process, whose output it reads.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match line.strip_prefix('#') {
                    Some(result) => {
                        let _ = sender.send(result.to_owned());
                    }
                    None => {
                        let mut log = lines.lock().expect("the log");
                        log.push_str(&line);
                        log.push('\n');
                    }
                }
            }
        });
        let mut beam = Self {
            input: child.stdin.take(),
            child,
            results,
            log,
            name,
            _home: home,
        };
        let ready = beam.eval("node()").await;
        assert_eq!(ready, Ok(format!("'{}'", beam.name)));
        beam
    }

    /// Its name.
    pub(crate) fn name(&self) -> &NodeName {
        &self.name
    }

    /// Evaluates expressions, separated by commas, and gives the last value as `~0tp` prints it; `Err` what was
    /// raised. One at a time; without an answer in 20 s the test fails.
    pub(crate) async fn eval(&mut self, expressions: &str) -> Result<String, String> {
        let line = format!("{}.\n", expressions.trim().replace('\n', " "));
        let input = self.input.as_mut().expect("a running node");
        input.write_all(line.as_bytes()).expect("a running node");
        input.flush().expect("a running node");
        let result = tokio::time::timeout(Duration::from_secs(20), self.results.recv()).await;
        match result {
            Ok(Some(result)) => match result.split_once(' ') {
                Some(("ok", value)) => Ok(value.to_owned()),
                _ => Err(result[3..].to_owned()),
            },
            Ok(None) => panic!("{} has ended; its log: {}", self.name, self.log()),
            Err(_) => panic!(
                "{} did not evaluate within 20 s: {expressions}; its log: {}",
                self.name,
                self.log()
            ),
        }
    }

    /// The value of what must not raise.
    pub(crate) async fn value(&mut self, expressions: &str) -> String {
        let result = self.eval(expressions).await;
        result.unwrap_or_else(|raised| panic!("{expressions} raised {raised}"))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Beam {
    fn drop(&mut self) {
        self.kill();
    }
}
