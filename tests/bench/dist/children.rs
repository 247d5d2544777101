//! This program run as another: a Rust node that calls, a Rust node whose functions wait, a decoder that may die.
//!
//! They are processes of their own so that their CPU time and memory can be read, and so that the bench survives them.

use super::channel;
use crate::support::COOKIE;
use redgrid::{
    Node, NodeName,
    dist::Epmd,
    term::{Raw, Term, atom, int, nil, tuple},
};
use std::{
    io::{Read, Write, stdin, stdout},
    time::{Duration, Instant},
};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the child that the arguments name, to its end.
pub(crate) fn run(arguments: &[String]) {
    match arguments {
        [what] if what == "eetf" => decode_with_eetf(),
        [what, name, epmd] => {
            let epmd = epmd.parse().expect("a port");
            match what.as_str() {
                "channel" => {
                    std::thread::spawn(end_with_stdin);
                    channel::serve(name, epmd).expect("an echo server on the crate's channel");
                }
                "waiting" => runtime().block_on(waiting(name, epmd)),
                "caller" => caller(name, epmd),
                _ => panic!("no child is called {what}"),
            }
        }
        _ => panic!("no child has the arguments {arguments:?}"),
    }
}

/// The parent holds the other end: when it is gone we go too.
fn end_with_stdin() {
    let _ = std::io::copy(&mut stdin(), &mut std::io::sink());
    std::process::exit(0);
}

/// As the binary has it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads")
}

async fn start(name: &str, port: u16) -> Node {
    let epmd = Epmd {
        port,
        ..Epmd::default()
    };
    let builder = Node::builder(name).cookie(COOKIE).epmd(epmd).echo(true);
    builder.start().await.expect("a node")
}

/// A node whose function `bench:wait/1` never returns.
async fn waiting(name: &str, epmd: u16) {
    let node = start(name, epmd).await;
    node.export("bench", |_| std::future::pending());
    std::thread::spawn(end_with_stdin);
    std::future::pending::<()>().await;
}

/// A node that calls another, told what to do in the words of `dist.erl`.
fn caller(name: &str, epmd: u16) {
    let runtime = runtime();
    let node = runtime.block_on(start(name, epmd));
    while let Some(line) = line() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match words.as_slice() {
            ["connect", _] => "up".into(),
            ["run", peer, ms, test, callers] => {
                let test = Test {
                    node: node.clone(),
                    peer: peer.parse().expect("a node name"),
                    rpc: *test == "rpc",
                    callers: callers.parse().expect("a number"),
                };
                let ms: u64 = ms.parse().expect("a number");
                runtime.block_on(test.told(Duration::from_millis(ms)))
            }
            _ => "failed no such command".into(),
        };
        say(&said);
    }
}

/// What we are told next; `None` when nobody is there any more.
fn line() -> Option<String> {
    let mut line = String::new();
    let read = stdin().read_line(&mut line).ok()?;
    (read > 0).then_some(line)
}

fn say(text: &str) {
    let mut out = stdout().lock();
    // When nobody reads this any more our standard input ends as well.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

#[derive(Clone)]
struct Test {
    node: Node,
    peer: NodeName,
    rpc: bool,
    callers: usize,
}

impl Test {
    async fn told(&self, time: Duration) -> String {
        match self.run(time / 5).await {
            Ok(_) => say("ready"),
            Err(why) => return format!("failed {why}"),
        }
        let _go = line();
        let begin = Instant::now();
        match self.run(time).await {
            Ok(mut times) => {
                let ns = begin.elapsed().as_nanos();
                times.sort_unstable();
                let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
                let (count, middle, slow) = (times.len(), at(50), at(99));
                format!("done {count} {ns} {middle} {slow} 0")
            }
            Err(why) => format!("failed {why}"),
        }
    }

    /// The nanoseconds of each call.
    async fn run(&self, time: Duration) -> Result<Vec<u128>, String> {
        let end = Instant::now() + time;
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..self.callers {
            let test = self.clone();
            callers.spawn(async move {
                let (mut times, mut number) = (Vec::new(), 0);
                loop {
                    let begin = Instant::now();
                    test.call(number).await?;
                    let now = Instant::now();
                    times.push(now.duration_since(begin).as_nanos());
                    number += 1;
                    if now >= end {
                        return Ok(times);
                    }
                }
            });
        }
        let mut all = Vec::new();
        while let Some(caller) = callers.join_next().await {
            let times: Result<Vec<u128>, String> = caller.map_err(|error| error.to_string())?;
            all.extend(times?);
        }
        Ok(all)
    }

    async fn call(&self, number: i64) -> Result<(), String> {
        let dist = self.node.dist();
        let (answer, expected) = if self.rpc {
            let args = Raw::encode(&nil());
            let answer = dist.call(&self.peer, "erlang", "node", args, PATIENCE);
            (answer.await, Raw::encode(&atom(self.peer.to_string())))
        } else {
            let request = Raw::encode(&tuple([atom("ping"), int(number)]));
            let answer = dist.gen_call(&self.peer, "echo", request.clone(), PATIENCE);
            (answer.await, request)
        };
        match answer {
            Ok(answer) if answer == expected => Ok(()),
            Ok(answer) => Err(format!("the answer is {:?}", answer.decode())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Bytes on the standard input, decoded; 3: they are refused. Whatever else ends this process is what is looked for.
fn decode_with_eetf() {
    let mut bytes = Vec::new();
    stdin().read_to_end(&mut bytes).expect("bytes");
    let code = match Term::decode(bytes.as_slice()) {
        Ok(term) => {
            // It must also be possible to let go of it.
            drop(term);
            0
        }
        Err(_) => 3,
    };
    std::process::exit(code);
}
