//! `redgrid names` and `redgrid doctor`: each thing that can be wrong is made so, and must be found, explained and mended
//! by what is said; nothing else may be complained of.

use crate::support::beam::COOKIE;
use crate::support::certs::{self, Authority};
use crate::support::eventually;
use crate::support::host::Host;
use crate::support::program::{Ended, Program};
use crate::support::redis::{Redis, free_port};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// What the doctor said.
struct Report {
    rows: Vec<Value>,
    code: i32,
}

/// Runs it with `--json`, and sees to it that the lines say the same and that the cookie is in neither.
async fn doctor(host: &Host, arguments: &[&str]) -> Report {
    let ended = host.run(&[&["doctor", "--json"], arguments].concat()).await;
    report(&ended)
}

fn report(ended: &Ended) -> Report {
    let rows: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|why| panic!("{why}: {ended:?}"));
    let rows = rows.as_array().expect("rows").clone();
    assert!(!ended.stdout.contains(COOKIE) && !ended.stderr.contains(COOKIE));
    let wrong = rows.iter().filter(|row| row["state"] == "problem");
    assert_eq!(i32::from(wrong.count() > 0), ended.code, "{ended:?}");
    for row in &rows {
        let fine = row["state"] == "ok";
        assert_eq!(fine, row["fault"].is_null(), "{row}");
        assert_eq!(
            fine,
            row["mend"].is_null(),
            "what is wrong has a mend: {row}"
        );
    }
    Report {
        rows,
        code: ended.code,
    }
}

impl Report {
    /// The faults that are no mere warnings, with the nodes that they are about.
    fn problems(&self) -> Vec<(String, String)> {
        self.of_state("problem")
    }

    fn warnings(&self) -> Vec<(String, String)> {
        self.of_state("warning")
    }

    fn of_state(&self, state: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = self.rows.iter().filter(|row| row["state"] == state);
        rows.map(|row| (text(&row["fault"]), text(&row["node"])))
            .collect()
    }

    /// The only problem is this one, and its text has these words.
    fn is(&self, fault: &str, node: &str, words: &[&str]) {
        assert_eq!(
            self.problems(),
            [(fault.into(), node.into())],
            "{:#?}",
            self.rows
        );
        self.says(fault, words);
    }

    /// The text of a fault, and its mend, has these words.
    fn says(&self, fault: &str, words: &[&str]) {
        let row = self.rows.iter().find(|row| row["fault"] == fault);
        let row = row.unwrap_or_else(|| panic!("no {fault}: {:#?}", self.rows));
        let [what, mend] = ["what", "mend"].map(|key| row[key].as_str().unwrap_or_default());
        let text = format!("{what}; {mend}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }

    /// This node answers, or this check is passed.
    fn well(&self, key: &str, value: &str) {
        let row = self.rows.iter().find(|row| row[key] == value);
        assert_eq!(row.expect(value)["state"], "ok", "{:#?}", self.rows);
    }
}

/// Registers a name with a real epmd as a node of this highest version does, for as long as the stream is held.
fn registered(host: &Host, name: &str, port: u16, version: u16) -> TcpStream {
    let mut body = vec![120];
    body.extend(port.to_be_bytes());
    body.extend([77, 0]);
    body.extend(version.to_be_bytes());
    body.extend([0, 5, 0, name.len() as u8]);
    body.extend(name.as_bytes());
    body.extend([0, 0]);
    let mut epmd = TcpStream::connect((Ipv4Addr::LOCALHOST, host.epmd.port())).unwrap();
    epmd.write_all(&(body.len() as u16).to_be_bytes()).unwrap();
    epmd.write_all(&body).unwrap();
    let mut answer = [0; 2];
    epmd.read_exact(&mut answer).unwrap();
    assert!(
        [118, 121].contains(&answer[0]) && answer[1] == 0,
        "{answer:?}"
    );
    epmd
}

/// A node of another age: it reads our name, and says these messages. It serves until the test ends.
fn other_age(messages: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut name = vec![0; u16::from_be_bytes(length).into()];
            let _ = stream.read_exact(&mut name);
            for message in &messages {
                let _ = stream.write_all(&(message.len() as u16).to_be_bytes());
                let _ = stream.write_all(message);
            }
            // Until we have had enough of it.
            if !messages.is_empty() {
                let _ = stream.read(&mut length);
            }
        }
    });
    port
}

// ---------------------------------------------------------------- names

#[tokio::test]
async fn names_lists_what_epmd_knows_for_people_scripts_and_programs() {
    let host = Host::start();
    assert_eq!(host.run(&["names", "--json"]).await.done().trim(), "[]");
    let none = host.run(&["names"]).await;
    assert_eq!(
        (none.done(), none.stderr.contains("knows no node")),
        ("", true)
    );

    let _b = host.node("bee@127.0.0.1", &[]).await;
    let _a = host.beam("ant").await;
    let names = host.epmd.names().await;
    let port = |name: &str| {
        let mut all = names.iter();
        all.find(|(known, _)| known == name).unwrap().1
    };
    let (ant, bee) = (port("ant"), port("bee"));
    let plain = host.run(&["names", "localhost"]).await;
    assert_eq!(plain.done(), format!("ant {ant}\nbee {bee}\n"));
    let json: Value = serde_json::from_str(host.run(&["names", "--json"]).await.done()).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{"name": "ant", "port": ant}, {"name": "bee", "port": bee}])
    );
    let program = env!("CARGO_BIN_EXE_redgrid");
    let mut terminal = host.command("script");
    terminal.args(["-qec", &format!("{program} names"), "/dev/null"]);
    let table = Program::start(terminal.env("TERM", "xterm")).ended().await;
    assert!(table.done().contains("┌"), "{table:?}");
    let row = table.stdout.lines().find(|line| line.contains("ant"));
    assert!(row.unwrap().contains(&ant.to_string()), "{table:?}");
}

#[tokio::test]
async fn names_says_what_failed_and_the_mend() {
    let host = Host::without_epmd();
    let port = host.epmd.port().to_string();
    let absent = host.run(&["names"]).await;
    absent.failed(
        1,
        &[&port, "does not answer", "epmd -daemon", "--epmd-port"],
    );
    let nowhere = host.run(&["names", "nowhere.invalid"]).await;
    nowhere.failed(1, &["\"nowhere.invalid\" does not resolve", "spelling"]);
}

// ---------------------------------------------------------------- all is well

#[tokio::test]
async fn where_all_is_well_the_doctor_says_so_and_leaves_no_trace() {
    let host = Host::start();
    let node = host.node("rust@127.0.0.1", &[]).await;
    let mut beam = host.beam("beam").await;
    beam.value("net_kernel:monitor_nodes(true)").await;
    let keys: Vec<String> = host.redis.cmd(&["KEYS", "*"]).await;

    let ended = host.run(&["doctor"]).await;
    let lines = ended.done();
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    for word in [
        "redis",
        "clock",
        "epmd",
        "name",
        "cookie",
        "port",
        "rust@127.0.0.1: answers",
        "beam@127.0.0.1: answers",
    ] {
        assert!(lines.contains(word), "{word:?} is not in {lines}");
    }
    assert!(
        !lines.contains(COOKIE) && ended.stderr.is_empty(),
        "{ended:?}"
    );
    let report = doctor(&host, &["beam@127.0.0.1"]).await;
    assert_eq!((report.code, report.problems()), (0, vec![]));
    report.well("node", "beam@127.0.0.1");

    assert_eq!(
        host.redis.cmd::<Vec<String>>(&["KEYS", "*"]).await.len(),
        keys.len()
    );
    assert_eq!(node.logged("WARN"), [""; 0]);
    assert_eq!(beam.value("nodes()").await, "[]");
    let strangers = beam
        .value("receive {nodeup, Node} -> Node after 0 -> none end")
        .await;
    assert_eq!(strangers, "none", "a hidden node is no news");
}

// ---------------------------------------------------------------- this machine

#[tokio::test]
async fn an_epmd_that_is_down_is_found() {
    let host = Host::without_epmd();
    let report = doctor(&host, &[]).await;
    report.is(
        "epmd_down",
        "",
        &[&host.epmd.port().to_string(), "epmd -daemon", "--epmd auto"],
    );
    report.well("check", "redis");

    // That of another host is missed by the nodes that need it.
    let report = doctor(&host, &["a@127.0.0.1"]).await;
    report.says(
        "epmd_unreachable",
        &[&host.epmd.port().to_string(), "firewall"],
    );
}

#[tokio::test]
async fn a_redis_that_is_down_or_wants_a_password_is_found() {
    let mut host = Host::start();
    host.redis.stop();
    let _beam = host.beam("beam").await;
    let report = doctor(&host, &[]).await;
    report.is("redis_down", "", &["cannot be reached", "--redis"]);
    report.well("node", "beam@127.0.0.1");

    let host = Host::with_redis(Redis::start_with(&["--requirepass", "OPENSESAME"]));
    let report = doctor(&host, &[]).await;
    report.is("redis_down", "", &["wants a password", "USER:PASSWORD"]);
    let url = host.redis.url_as("default", "WRONGSESAME");
    let ended = host.run(&["doctor", "--redis", &url]).await;
    assert!(
        ended.code == 1 && !ended.stdout.contains("SESAME"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_name_whose_host_does_not_resolve_is_found() {
    let host = Host::start();
    let own = doctor(&host, &["--name", "a@nowhere.invalid"]).await;
    own.is(
        "name_unresolvable",
        "",
        &["nowhere.invalid", "--ip ADDRESS"],
    );
    let other = doctor(&host, &["b@nowhere.invalid"]).await;
    other.is("name_unresolvable", "b@nowhere.invalid", &["/etc/hosts"]);
    let loopback = doctor(&host, &["--name", "a@web.example", "--ip", "127.0.0.1"]).await;
    loopback.is("name_on_loopback", "", &["--ip ADDRESS"]);
}

#[tokio::test]
async fn a_cookie_file_that_cannot_be_used_is_found_and_none_is_made() {
    let host = Host::start();
    let open = host.file("open", COOKIE, 0o644);
    let report = doctor(&host, &["--cookie-file", &open]).await;
    report.is("cookie_file", "", &[&format!("chmod 400 {open}")]);

    let toml = host.file("open.toml", &format!("cookie = \"{COOKIE}\""), 0o644);
    let report = doctor(&host, &["--config", &toml]).await;
    assert_eq!((report.code, report.warnings().len()), (0, 1));
    report.says("settings", &[&format!("chmod 600 {toml}")]);

    let cookie = host.home().join(".erlang.cookie");
    std::fs::remove_file(&cookie).unwrap();
    let report = doctor(&host, &[]).await;
    assert_eq!(report.warnings(), [("no_cookie".to_owned(), String::new())]);
    report.says("no_cookie", &["~/.erlang.cookie", "mode 0400"]);
    assert!(!cookie.exists());
}

#[tokio::test]
async fn a_port_that_is_taken_is_found() {
    let host = Host::start();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let report = doctor(&host, &["--listen", &at]).await;
    report.is("port_in_use", "", &[&at, "--listen"]);
    drop(taken);
    assert_eq!(doctor(&host, &["--listen", &at]).await.code, 0);

    let ended = host.run(&["doctor", "--listen", "here"]).await;
    ended.failed(2, &["--listen", "here"]);
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    // Redis asks the system for the time by this function; here it is told another.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("late.c");
    let code = "#define _GNU_SOURCE\n#include <sys/time.h>\n#include <time.h>\n#include <stdlib.h>\n\
        int gettimeofday(struct timeval *tv, void *zone) {\n\
            struct timespec now; clock_gettime(CLOCK_REALTIME, &now);\n\
            tv->tv_sec = now.tv_sec + atoi(getenv(\"LATE\")); tv->tv_usec = now.tv_nsec / 1000; return 0; }\n";
    std::fs::write(&source, code).unwrap();
    let library = folder.path().join("late.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.expect("a C compiler").success());
    for (late, state) in [("5", "warning"), ("90", "problem"), ("-90", "problem")] {
        let environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("LATE", late.to_owned()),
        ];
        let host = Host::with_redis(Redis::start_in(&environment));
        let report = doctor(&host, &[]).await;
        assert_eq!(
            report.of_state(state),
            [("clock_skew".to_owned(), String::new())]
        );
        let way = if late.starts_with('-') {
            "ahead"
        } else {
            "behind"
        };
        report.says("clock_skew", &[way, "timedatectl"]);
    }
}

// ---------------------------------------------------------------- names that clash

#[tokio::test]
async fn a_name_that_is_taken_is_found_and_the_running_node_is_fine() {
    let host = Host::start();
    let _web = host.node("web@127.0.0.1", &[]).await;
    let report = doctor(&host, &["--name", "web@127.0.0.1"]).await;
    report.is(
        "duplicate_name",
        "",
        &["web@127.0.0.1 runs already", "another --name"],
    );

    // Whom the environment names is the node that is to run here.
    let mut command = host.redgrid(&["doctor", "--json"]);
    let ended = Program::start(command.env("REDGRID_NAME", "web@127.0.0.1"))
        .ended()
        .await;
    assert_eq!(self::report(&ended).code, 0);

    // epmd knows what stands before the @, whatever the host.
    let _beam = host.beam("erl").await;
    let report = doctor(&host, &["--name", "erl@127.0.0.2"]).await;
    report.is("duplicate_name", "", &["erl@127.0.0.1", "before the @"]);
}

#[tokio::test]
async fn two_nodes_of_one_name_are_found() {
    let host = Host::start();
    let _erlang = host.beam("web").await;
    let _rust = host.node("web@127.0.0.1", &["--epmd", "none"]).await;
    let report = doctor(&host, &[]).await;
    report.is(
        "duplicate_name",
        "web@127.0.0.1",
        &["two nodes", "another --name"],
    );
}

// ---------------------------------------------------------------- the way to a node

#[tokio::test]
async fn short_and_long_names_are_told_apart() {
    let host = Host::start();
    let _rust = {
        let mut command = host.redgrid(&["node", "--sname", "rust@localhost"]);
        let node = Program::start(&mut command);
        node.log_line("the node is up").await;
        node
    };
    let report = doctor(&host, &[]).await;
    report.is(
        "name_style",
        "rust@localhost",
        &["a short name", "--sname NAME"],
    );
    assert_eq!(doctor(&host, &["--sname", "me@localhost"]).await.code, 0);

    let mut command = host.command("erl");
    command.args(["-sname", "erl@localhost", "-noinput", "-setcookie", COOKIE]);
    let _erl = Program::start(&mut command);
    eventually("erl is registered", async || {
        let names = host.epmd.names().await;
        names.iter().any(|(name, _)| name == "erl").then_some(())
    })
    .await;
    let report = doctor(&host, &[]).await;
    let stranger = ("name_style".to_owned(), "erl@localhost".to_owned());
    assert_eq!(report.warnings(), [stranger]);
    let all = doctor(&host, &["--sname", "me@localhost"]).await;
    all.well("node", "erl@localhost");
    all.well("node", "rust@localhost");
}

#[tokio::test]
async fn another_cookie_is_found_and_never_shown() {
    let host = Host::start();
    let _member = host
        .node("rust@127.0.0.1", &["--cookie", "OTHERTHATNOBODYSEES"])
        .await;
    let mut beam = host.beam("erl").await;
    beam.value("erlang:set_cookie(node(), 'OTHERTHATNOBODYSEES')")
        .await;
    let ended = host.run(&["doctor", "--json"]).await;
    let report = self::report(&ended);
    report.is(
        "cookie_mismatch",
        "rust@127.0.0.1",
        &["--cookie-file", "-setcookie"],
    );
    let stranger = ("cookie_mismatch".to_owned(), "erl@127.0.0.1".to_owned());
    assert_eq!(
        report.warnings(),
        std::slice::from_ref(&stranger),
        "it may be of another cluster"
    );
    let asked = doctor(&host, &["erl@127.0.0.1"]).await;
    assert!(asked.problems().contains(&stranger), "{:?}", asked.rows);
    assert!(!ended.stdout.contains("NOBODYSEES"));
}

#[tokio::test]
async fn a_port_that_lets_nobody_through_is_found() {
    let host = Host::start();
    // It tells the others an address at which it does not listen.
    let arguments = ["--listen", "127.0.0.1:0", "--ip", "127.0.0.3"];
    let _a = host.node("a@127.0.0.1", &arguments).await;
    // And one that epmd knows a port of which nothing accepts.
    let closed = free_port();
    let _b = registered(&host, "b", closed, 6);
    let report = doctor(&host, &["b@127.0.0.1"]).await;
    let blocked = |node: &str| ("port_blocked".to_owned(), node.to_owned());
    assert_eq!(
        report.problems(),
        [blocked("b@127.0.0.1"), blocked("a@127.0.0.1")]
    );
    report.says(
        "port_blocked",
        &[&closed.to_string(), "firewalls", "--listen"],
    );

    let report = doctor(&host, &["nobody@127.0.0.1"]).await;
    report.says("not_running", &["\"nobody\"", "redgrid names 127.0.0.1"]);
}

#[tokio::test]
async fn a_node_that_hangs_is_told_from_one_behind_a_firewall() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &[]).await;
    node.signal("-STOP");
    // With its queue full the system drops what is sent to a port, as a firewall does.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    full.bind(&anywhere.into()).unwrap();
    full.listen(0).unwrap();
    let at = full.local_addr().unwrap().as_socket().unwrap();
    let patience = Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, patience) {
        queued.push(stream);
    }
    let _b = registered(&host, "b", at.port(), 6);

    let report = doctor(&host, &["b@127.0.0.1"]).await;
    node.signal("-CONT");
    let found = |fault: &str, node: &str| (fault.to_owned(), node.to_owned());
    assert_eq!(
        report.problems(),
        [
            found("port_blocked", "b@127.0.0.1"),
            found("node_hangs", "a@127.0.0.1")
        ]
    );
    report.says("node_hangs", &["stopped, overloaded"]);
    report.says("port_blocked", &["a firewall drops", "--listen ADDR:PORT"]);
}

#[tokio::test]
async fn tls_on_one_side_only_is_found() {
    let host = Host::start();
    let authority = Authority::new();
    let identity = authority.issue();
    let flags = identity.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _sealed = host.node("sealed@127.0.0.1", &flags).await;
    let _plain = host.node("plain@127.0.0.1", &[]).await;
    let optfile = identity.optfile("");
    let _erl = certs::beam(&host.epmd, "erl", &optfile).await;
    let mismatch = |node: &str| ("tls_mismatch".to_owned(), node.to_owned());

    let report = doctor(&host, &["erl@127.0.0.1"]).await;
    assert_eq!(
        report.problems(),
        [mismatch("erl@127.0.0.1"), mismatch("sealed@127.0.0.1")]
    );
    report.says("tls_mismatch", &["--tls-cert"]);
    let report = doctor(&host, &flags).await;
    report.is(
        "tls_mismatch",
        "plain@127.0.0.1",
        &["speaks no TLS", "--tls-cert"],
    );
    report.well("node", "erl@127.0.0.1");
    report.well("check", "tls");

    let other = Authority::new();
    let stranger = other.issue().flags();
    let stranger: Vec<&str> = stranger.iter().map(String::as_str).collect();
    let report = doctor(&host, &stranger).await;
    assert!(
        report.problems().contains(&mismatch("sealed@127.0.0.1")),
        "{:?}",
        report.rows
    );
}

#[tokio::test]
async fn a_node_of_an_old_release_is_found() {
    let host = Host::start();
    // OTP 22: 'n', version 5, 32 flags, challenge, name. It closes at the name of a node that is newer.
    let challenge = [&b"n\0\x05\0\x03\x0f\xff\0\0\0\x01"[..], b"r22@127.0.0.1"].concat();
    // OTP 23: as today, with the flags of then (no V4_NC, no UNLINK_ID).
    let mut of_23 = b"N".to_vec();
    of_23.extend(0x1_0DDF_7FBD_u64.to_be_bytes());
    of_23.extend([0, 0, 0, 1, 0, 0, 0, 9, 0, 13]);
    of_23.extend(b"r23@127.0.0.1");
    let nodes = [
        ("r21", vec![]),
        ("r22", vec![b"sok".to_vec(), challenge]),
        ("r23", vec![b"sok".to_vec(), of_23]),
    ];
    let mut held = Vec::new();
    for (name, messages) in nodes {
        held.push(registered(&host, name, other_age(messages), 5));
    }
    let report = doctor(&host, &["r21@127.0.0.1", "r22@127.0.0.1", "r23@127.0.0.1"]).await;
    let old = |node: &str| ("too_old".to_owned(), format!("{node}@127.0.0.1"));
    assert_eq!(report.problems(), [old("r21"), old("r22"), old("r23")]);
    report.says("too_old", &["OTP 25 or newer"]);
}

#[tokio::test]
async fn a_node_that_lets_only_some_others_in_is_found() {
    let host = Host::start();
    let mut beam = host.beam("erl").await;
    assert_eq!(
        beam.value("net_kernel:allow(['friend@127.0.0.1'])").await,
        "ok"
    );
    let report = doctor(&host, &["erl@127.0.0.1"]).await;
    report.is("not_allowed", "erl@127.0.0.1", &["net_kernel:allow/1"]);
}
