//! `redgrid demo`: a whole mesh on this machine, and the session of the talk from which the project comes, typed into
//! real Erlang shells.
//!
//! Everything runs on free ports of the loopback, with files in one temporary directory, and ends with the command:
//! a Redis, an epmd, the node of this process, and two `erl`.

mod servers;
mod shell;

use super::{DemoArgs, print, table};
use crate::{dist::Epmd, node::Node};
use anyhow::Context;
use rand::{Rng, distr::Uniform};
use servers::Server;
use shell::{Settings, Shell};
use std::{
    io::{ErrorKind, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The names, as in the talk but for the hosts.
const FOO: &str = "foo@127.0.0.1";
const BAR: &str = "bar@127.0.0.1";
const RUST: &str = "rust@127.0.0.1";

/// The whole mesh.
struct Demo {
    node: Node,
    first: Shell,
    second: Shell,
    redis: Server,
    redis_url: String,
    epmd: Server,
    cookie: String,
    ebin: PathBuf,
}

/// Runs the demonstration.
///
/// # Errors
/// A program is missing or does not come up: the text says which, and how to install it.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let dir = TempDir::with_prefix("redgrid-demo-").context("no temporary directory")?;
    let shown = show(args, dir.path()).await;
    remove(dir).await;
    shown
}

async fn show(args: &DemoArgs, dir: &Path) -> anyhow::Result<()> {
    let stay = !args.once && std::io::stdout().is_terminal();
    let mut demo = tokio::select! {
        // First the signals, so that none finds servers started and nobody listening.
        biased;
        () = ended() => return Ok(()),
        demo = Demo::start(dir) => demo?,
    };
    let shown = tokio::select! {
        shown = demo.perform(stay) => shown,
        // Behind the ^C of the terminal.
        () = ended() => if stay { print("") } else { Ok(()) },
    };
    demo.stop().await;
    shown
}

/// Removes the files. What was interrupted while it started may write a last one just then, so once may not be enough.
async fn remove(dir: TempDir) {
    let dir = dir.keep();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) if Instant::now() > deadline => {
                return eprintln!("{} stays: {error}", dir.display());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl Demo {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        say("a Redis and an epmd of its own, and the Erlang library compiled");
        let (redis, epmd, ebin) = tokio::join!(
            Server::redis(dir),
            Server::epmd(),
            servers::compile_library(dir)
        );
        let (redis, epmd, ebin) = (redis?, epmd?, ebin?);
        let redis_url = format!("redis://127.0.0.1:{}/", redis.port);
        let letters = Uniform::new_inclusive('A', 'Z')?;
        let cookie: String = rand::rng().sample_iter(letters).take(20).collect();

        say(&format!(
            "the Rust node {RUST} and two Erlang nodes, {FOO} and {BAR}"
        ));
        let node = Node::builder(RUST)
            .cookie(cookie.as_str())
            .redis(&redis_url)
            .meta([("lang", crate::grid::MetaValue::Atom("rust".into()))])
            .epmd(Epmd {
                port: epmd.port,
                ..Epmd::default()
            })
            .start()
            .await?;
        let logs = [dir.join("foo.log"), dir.join("bar.log")];
        let settings = |name, log| Settings {
            name,
            cookie: &cookie,
            redis: &redis_url,
            epmd_port: epmd.port,
            ebin: &ebin,
            log,
        };
        let (first, second) = (settings(FOO, &logs[0]), settings(BAR, &logs[1]));
        let (first, second) = tokio::join!(Shell::start(&first), Shell::start(&second));
        let (mut first, mut second) = (first?, second?);
        for shell in [&mut first, &mut second] {
            shell
                .until("application:ensure_all_started(redgrid).", |answer| {
                    answer.starts_with("{ok,")
                })
                .await?;
        }
        second
            .until("lists:sort(nodes()).", |nodes| {
                nodes.contains(FOO) && nodes.contains(RUST)
            })
            .await?;
        // Parts what was told from the session, where both are read.
        eprintln!();
        Ok(Self {
            node,
            first,
            second,
            redis,
            redis_url,
            epmd,
            cookie,
            ebin,
        })
    }

    /// The session, and with `stay` the table for as long as one looks at it.
    async fn perform(&mut self, stay: bool) -> anyhow::Result<()> {
        self.session().await?;
        if stay {
            self.explain()?;
            table::live(&self.node).await;
        }
        Ok(())
    }

    /// The session of the talk.
    async fn session(&mut self) -> anyhow::Result<()> {
        let update = "redgrid:update_meta([{weight, 0}]).";
        print(&format!("{}{update}", self.first.prompt()))?;
        print(&self.first.eval(update).await?)?;

        // The other node hears of it through Redis, in a moment.
        let nodes = "redgrid:nodes([native]).";
        let seen = |answer: &str| answer.contains("{weight,0}") && answer.contains("{lang,rust}");
        let answer = self.second.until(nodes, seen).await?;
        print(&format!("{}{nodes}\n{answer}", self.second.prompt()))?;

        let connected = "nodes().";
        let answer = self.second.eval(connected).await?;
        print(&format!("{}{connected}\n{answer}", self.second.prompt()))
    }

    fn explain(&self) -> anyhow::Result<()> {
        let program = std::env::current_exe()?;
        let (redis, cookie, port) = (&self.redis_url, &self.cookie, self.epmd.port);
        print(&format!(
            "\nJoin from another Erlang shell:\n  \
             ERL_EPMD_PORT={port} REDIS_URL={redis} LOCAL_IP=127.0.0.1 erl -name me@127.0.0.1 \
             -setcookie {cookie} -pa {} -eval 'application:ensure_all_started(redgrid).'\n\n\
             Join with another Rust node:\n  \
             {} node --name you@127.0.0.1 --cookie {cookie} --redis {redis} --epmd-port {port}\n\n\
             Ctrl-C ends it all.\n",
            self.ebin.display(),
            program.display(),
        ))
    }

    async fn stop(self) {
        tokio::join!(self.first.stop(), self.second.stop());
        self.node.leave().await;
        self.redis.stop().await;
        self.epmd.stop().await;
    }
}

/// Waits for Ctrl-C, SIGTERM, or the end of the terminal.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let hangup = async {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => hangup.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = super::interrupted() => {}
        _ = hangup => {}
    }
}

fn say(what: &str) {
    // Progress is for whoever watches; the session alone goes to a pipe.
    eprintln!("starting: {what}");
}
