//! A real Erlang shell, typed into as a person would: one expression in, what the shell prints until its next prompt
//! out.

use anyhow::{Context, bail};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

/// How long one expression may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that the shell may print for one expression.
const LONGEST: usize = 64 * 1024;

/// What an Erlang node of the demonstration is started with.
pub(super) struct Settings<'a> {
    pub(super) name: &'a str,
    pub(super) cookie: &'a str,
    pub(super) redis: &'a str,
    pub(super) epmd_port: u16,
    /// Where the compiled Erlang library is.
    pub(super) ebin: &'a Path,
    /// Where the node may write its log.
    pub(super) log: &'a Path,
}

/// An `erl` and its shell. It ends when its input is closed, so also when we are killed.
pub(super) struct Shell {
    name: String,
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Shell {
    /// Starts a node and waits for its first prompt.
    pub(super) async fn start(settings: &Settings<'_>) -> anyhow::Result<Self> {
        let logger = format!(
            "[{{handler,default,logger_std_h,#{{config=>#{{file=>{:?}}}}}}}]",
            settings.log.display().to_string()
        );
        let mut child = Command::new("erl")
            .args(["-name", settings.name, "-setcookie", settings.cookie, "-pa"])
            .arg(settings.ebin)
            .args(["-kernel", "logger", &logger])
            // An epmd runs. Where this demonstration ends while `erl` comes up, `erl` would start one to stay.
            .args(["-start_epmd", "false"])
            .env("ERL_EPMD_PORT", settings.epmd_port.to_string())
            .env("REDIS_URL", settings.redis)
            .env("LOCAL_IP", "127.0.0.1")
            // What the user's own environment says about a mesh is not meant for this one.
            .env_remove("DOMAIN")
            .env_remove("VERSION")
            .env_remove("ERL_FLAGS")
            .env_remove("ERL_AFLAGS")
            .env_remove("ERL_ZFLAGS")
            .env_remove("ERL_EPMD_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for us: we end it in its turn.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `erl`: install Erlang (Debian: erlang-base)")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("erl was started without its input and output");
        };
        let mut shell = Self {
            name: settings.name.into(),
            child,
            input,
            output,
        };
        shell
            .answer()
            .await
            .with_context(|| format!("the shell of {} does not come up", settings.name))?;
        Ok(shell)
    }

    /// The prompt, as the shell shows it but for the number.
    pub(super) fn prompt(&self) -> String {
        format!("({})> ", self.name)
    }

    /// Types an expression and returns what the shell prints for it.
    pub(super) async fn eval(&mut self, expression: &str) -> anyhow::Result<String> {
        self.input
            .write_all(format!("{expression}\n").as_bytes())
            .await?;
        self.input.flush().await?;
        self.answer()
            .await
            .with_context(|| format!("{} does not answer {expression}", self.name))
    }

    /// Types an expression again and again until its answer is as wanted.
    pub(super) async fn until(
        &mut self,
        expression: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.eval(expression).await?;
            if wanted(&answer) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                bail!("{} still answers {expression} with\n{answer}", self.name);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything up to the next prompt: `(name)N> ` at the beginning of a line.
    async fn answer(&mut self) -> anyhow::Result<String> {
        let start = format!("({})", self.name);
        let mut text = String::new();
        let mut chunk = [0; 4096];
        timeout(PATIENCE, async {
            loop {
                let count = self.output.read(&mut chunk).await?;
                if count == 0 {
                    bail!("erl ended; it said:\n{text}");
                }
                text.push_str(&String::from_utf8_lossy(&chunk[..count]));
                if text.len() > LONGEST {
                    bail!("erl prints without end");
                }
                let last = text.rfind('\n').map_or(0, |at| at + 1);
                if text[last..].starts_with(&start) && text.ends_with("> ") {
                    text.truncate(last);
                    return Ok(text.trim_end().to_owned());
                }
            }
        })
        .await
        .context("no prompt within 20 s")?
    }

    /// Ends the node.
    pub(super) async fn stop(mut self) {
        // The end of its input ends the shell, and with it the node; the application says goodbye to Redis first.
        let _ = self.input.write_all(b"init:stop().\n").await;
        if timeout(Duration::from_secs(5), self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}
