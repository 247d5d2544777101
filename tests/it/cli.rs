//! The binary: whatever is wrong is said in one line with its mend and hurts nobody else; signals, output and exit codes
//! are as promised; secrets stay secret; the commands do what they say.

use crate::support::beam::COOKIE;
use crate::support::host::Host;
use crate::support::program::Program;
use crate::support::redis::{Redis, free_port};
use crate::support::{DEADLINE, eventually};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

// ---------------------------------------------------------------- what is wrong

#[tokio::test]
async fn a_name_of_the_wrong_form_is_bad_usage() {
    let host = Host::start();
    for (arguments, word) in [
        (&["node", "--name", "a@b@c"][..], "a@b@c"),
        (&["node", "--name", "@127.0.0.1"], "@127.0.0.1"),
        (&["node", "--name", "two words@127.0.0.1"], "two words"),
        (
            &["node", "--sname", "a@host.example.com"],
            "host.example.com",
        ),
        (&["ping", "nobody"], "nobody"),
    ] {
        let ended = host.run(arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{ended:?}");
        let first = ended.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(word), "{first}");
    }
}

#[tokio::test]
async fn settings_that_can_never_hold_are_bad_usage() {
    let host = Host::start();
    let not_toml = host.file("not.toml", "name = [", 0o600);
    let unknown = host.file("unknown.toml", "nmae = \"a@127.0.0.1\"", 0o600);
    let absent = host.home().join("absent.toml").display().to_string();
    for (arguments, words) in [
        (["--config", &absent], [&absent, "check the path"]),
        (["--config", &not_toml], [&not_toml, "line 1 is not TOML"]),
        (
            ["--config", &unknown],
            [&unknown, "there is no setting \"nmae\""],
        ),
        (["--meta", "ip=10.0.0.1"], ["--meta", "ip"]),
        (["--meta", "x:={"], ["--meta", "x"]),
        (["--redis", "http://127.0.0.1/"], ["--redis", "redis://"]),
        (["--listen", "here"], ["--listen", "here"]),
        (["--epmd", "sometimes"], ["--epmd", "auto"]),
    ] {
        let ended = host.run(&[&["node"], &arguments[..]].concat()).await;
        ended.failed(2, &words);
    }
}

#[tokio::test]
async fn an_address_that_others_cannot_reach_is_refused_with_the_mend() {
    let host = Host::start();
    let ended = host
        .run(&["node", "--name", "a@web.example", "--ip", "127.0.0.1"])
        .await;
    ended.failed(1, &["127.0.0.1 is a loopback address", "--ip ADDRESS"]);
}

#[tokio::test]
async fn a_cookie_file_that_others_can_read_is_refused_with_the_mend() {
    let host = Host::start();
    let open = host.file("cookie", COOKIE, 0o644);
    for arguments in [
        &["node", "--cookie-file", &open][..],
        &["ping", "a@127.0.0.1", "--cookie-file", &open],
    ] {
        let ended = host.run(arguments).await;
        ended.failed(1, &[&format!("chmod 400 {open}")]);
    }
    host.file(".erlang.cookie.new", COOKIE, 0o644);
    std::fs::rename(
        host.home().join(".erlang.cookie.new"),
        host.home().join(".erlang.cookie"),
    )
    .unwrap();
    host.run(&["node"])
        .await
        .failed(1, &["chmod 400", ".erlang.cookie"]);
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_the_mend() {
    let host = Host::start();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let ended = host.run(&["node", "--listen", &at.to_string()]).await;
    ended.failed(1, &["127.0.0.1", &at.port().to_string(), "--listen"]);
    assert_eq!(host.redis.cmd::<Vec<String>>(&["KEYS", "*"]).await, [""; 0]);
}

#[tokio::test]
async fn without_the_epmd_that_is_wanted_the_node_does_not_start() {
    let host = Host::start();
    let nowhere = free_port().to_string();
    let arguments = ["node", "--epmd", "external", "--epmd-port", &nowhere];
    let ended = host.run(&arguments).await;
    ended.failed(1, &["no epmd answers", &nowhere, "epmd -daemon"]);
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_and_the_one_who_has_it_unhurt() {
    let host = Host::start();
    let first = host.node("web@127.0.0.1", &[]).await;
    let ended = host.run(&["node", "--name", "web@127.0.0.1"]).await;
    ended.failed(1, &["\"web\" already", "--name"]);

    // Its epmd does not know of the other, but Redis does.
    let elsewhere = ["node", "--name", "web@127.0.0.1", "--epmd", "none"];
    let ended = host.run(&elsewhere).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("redgrid: ") && last.contains("web@127.0.0.1"),
        "{last}"
    );
    assert_eq!(members(&host).await, ["web@127.0.0.1"]);
    host.run(&["ping", "web@127.0.0.1"]).await.done();
    drop(first);
}

#[tokio::test]
async fn an_unreachable_redis_is_said_once_and_joined_when_it_comes() {
    let mut host = Host::with_redis(Redis::stopped());
    let mut command = host.redgrid(&["node", "--name", "a@127.0.0.1"]);
    let node = Program::start(&mut command);
    let line = node.log_line("cannot be reached").await;
    assert!(
        line.contains("--redis") && line.contains(&host.redis.url()[8..22]),
        "{line}"
    );

    // It is a node all the same, for whoever does not look for it in Redis.
    let mut ping = host.redgrid(&["ping", "a@127.0.0.1"]);
    Program::start(ping.env_remove("REDIS_URL"))
        .ended()
        .await
        .done();
    for command in [&["nodes"][..], &["meta", "get"]] {
        host.run(command)
            .await
            .failed(1, &["cannot be reached", "--redis"]);
    }
    host.run(&["await", "--nodes", "1", "--timeout", "0.5"])
        .await
        .failed(1, &["after 0.5 s"]);

    host.redis.restart();
    node.log_line("answers again").await;
    assert_eq!(
        node.logged("cannot be reached").len(),
        1,
        "{}",
        node.stderr()
    );
    eventually("the node is a member", async || {
        (members(&host).await == ["a@127.0.0.1"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_wants_a_password_is_said_once_with_the_mend() {
    let host = Host::with_redis(Redis::start_with(&["--requirepass", "OPENSESAME"]));
    let mut command = host.redgrid(&["node", "--name", "a@127.0.0.1"]);
    let node = Program::start(&mut command);
    let line = node.log_line("wants a password").await;
    assert!(
        line.contains("--redis redis://USER:PASSWORD@HOST:PORT/"),
        "{line}"
    );
    host.run(&["nodes"]).await.failed(1, &["wants a password"]);

    let wrong = host.redis.url_as("default", "NOTTHEPASSWORD");
    let ended = host.run(&["nodes", "--redis", &wrong]).await;
    ended.failed(1, &["refuses the user name or password", "correct them"]);
    assert!(!ended.stderr.contains("NOTTHEPASSWORD"));

    let right = host.redis.url_as("default", "OPENSESAME");
    host.run(&["nodes", "--redis", &right, "--json"])
        .await
        .done();
    assert_eq!(
        node.logged("wants a password").len(),
        1,
        "{}",
        node.stderr()
    );
}

#[tokio::test]
async fn a_redis_user_who_may_not_do_enough_is_told_what_is_missing() {
    let host = Host::start();
    let rule = [
        "ACL",
        "SETUSER",
        "grid",
        "on",
        ">pw",
        "~redgrid*",
        "resetchannels",
        "&redgrid*",
        "+@all",
        "-publish",
    ];
    let _: String = host.redis.cmd(&rule).await;
    let url = host.redis.url_as("grid", "pw");
    let mut command = host.redgrid(&["node", "--name", "a@127.0.0.1", "--redis", &url]);
    let node = Program::start(&mut command);
    let line = node.log_line("does not permit").await;
    assert!(line.contains("publish") && line.contains("ACL"), "{line}");

    // When it is permitted the node joins by itself.
    let _: String = host
        .redis
        .cmd(&["ACL", "SETUSER", "grid", "+publish"])
        .await;
    eventually("the node is a member", async || {
        (members(&host).await == ["a@127.0.0.1"]).then_some(())
    })
    .await;
    assert!(
        node.logged("does not permit").len() <= 3,
        "{}",
        node.stderr()
    );
}

#[tokio::test]
async fn the_redis_rights_in_the_documentation_are_enough() {
    let host = Host::start();
    let page = include_str!("../../docs/security.md");
    for user in ["member", "reader"] {
        let start = page.find(&format!("ACL SETUSER {user} ")).expect("its ACL");
        let rule = page[start..].split("```").next().unwrap_or_default();
        let words: Vec<&str> = rule.split_whitespace().collect();
        let _: String = host.redis.cmd(&words).await;
    }
    let url = host.redis.url_as("member", "SECRET");
    let arguments = ["--redis", &url, "--domain", "shop", "--mesh-version", "1"];
    let a = host.node("a@127.0.0.1", &arguments).await;
    let b = host.node("b@127.0.0.1", &arguments).await;
    a.log_line("b@127.0.0.1 is up").await;
    for what in ["suspend", "resume"] {
        host.run(&[&[what, "b@127.0.0.1"], &arguments[..]].concat())
            .await
            .done();
        a.log_line(&format!(
            "b@127.0.0.1 {}",
            if what == "resume" {
                "resumed"
            } else {
                "is suspended"
            }
        ))
        .await;
    }
    let reader = host.redis.url_as("reader", "SECRET");
    for command in [
        &["nodes"][..],
        &["nodes", "--all"],
        &["await", "--nodes", "2"],
        &["doctor"],
    ] {
        let ended = host
            .run(&[command, &["--redis", &reader], &arguments[2..]].concat())
            .await;
        assert!(ended.done().contains("b@127.0.0.1"), "{ended:?}");
        assert_eq!(ended.stderr, "");
    }
    b.signal("-TERM");
    assert_eq!(b.ended().await.code, 0);
    a.log_line("b@127.0.0.1 left").await;
    assert_eq!(a.logged("WARN"), [""; 0]);
}

#[tokio::test]
async fn a_node_with_another_cookie_is_said_once_and_the_others_stay_connected() {
    let host = Host::start();
    let first = host.node("a@127.0.0.1", &[]).await;
    let second = host.node("b@127.0.0.1", &[]).await;
    first.log_line("b@127.0.0.1 is up").await;
    let stranger = host
        .node("x@127.0.0.1", &["--cookie", "ANOTHERCOOKIE"])
        .await;

    for node in [&first, &second] {
        let line = node.log_line("cookie").await;
        assert!(
            line.contains("WARN") && line.contains("x@127.0.0.1"),
            "{line}"
        );
    }
    stranger.log_line("cookie").await;
    host.run(&["ping", "a@127.0.0.1"]).await.done();
    host.run(&["ping", "x@127.0.0.1"])
        .await
        .failed(1, &["x@127.0.0.1", "cookie"]);
    assert!(
        first.logged("b@127.0.0.1 is down").is_empty(),
        "{}",
        first.stderr()
    );
    assert!(first.logged("WARN").len() <= 2, "{}", first.stderr());
    let peers = host.run(&["call", "a@127.0.0.1", "erlang", "nodes"]).await;
    assert_eq!(peers.done().trim(), "['b@127.0.0.1']");
    for secret in [COOKIE, "ANOTHERCOOKIE"] {
        assert!(!first.stderr().contains(secret) && !stranger.stderr().contains(secret));
    }
}

// ---------------------------------------------------------------- signals and output

#[tokio::test]
async fn sigterm_leaves_the_mesh_and_exits_with_0() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--meta", "weight=1"]).await;
    assert_eq!(members(&host).await, ["a@127.0.0.1"]);
    let asked = Instant::now();
    node.signal("-TERM");
    let ended = node.ended().await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, ""),
        "logs go to stderr"
    );
    assert!(asked.elapsed() < 5 * Duration::from_secs(3));
    let mut keys: Vec<String> = host.redis.cmd(&["KEYS", "*"]).await;
    keys.retain(|key| key.contains("a@127.0.0.1"));
    assert_eq!(keys, [""; 0]);
    let index: Vec<String> = host
        .redis
        .cmd(&["ZRANGE", "redgrid.index::", "0", "-1"])
        .await;
    assert_eq!(index, [""; 0]);
    let names = host.run(&["names"]).await;
    assert_eq!(names.done(), "");
}

#[tokio::test]
async fn told_to_stop_while_it_starts_it_leaves_nothing_in_redis() {
    let host = Host::start();
    for pause in 0..16 {
        let node = Program::start(&mut host.redgrid(&["node", "--name", "a@127.0.0.1"]));
        // Another moment of the start each time: nothing is waited for.
        tokio::time::sleep(Duration::from_millis(4 * pause)).await;
        node.signal("-TERM");
        let ended = node.ended().await;
        // A signal in the first moments finds a process that has not begun.
        assert!(
            [0, 128 + 15].contains(&ended.code),
            "{}: {}",
            ended.code,
            ended.stderr
        );
        let mut keys: Vec<String> = host.redis.cmd(&["KEYS", "*"]).await;
        keys.retain(|key| key.contains("a@127.0.0.1"));
        assert_eq!(keys, [""; 0], "after {} ms", 4 * pause);
    }
}

#[tokio::test]
async fn it_leaves_in_time_though_redis_hangs_and_a_second_interrupt_ends_it_at_once() {
    let host = Host::start();
    let patient = host.node("a@127.0.0.1", &[]).await;
    let hasty = host.node("b@127.0.0.1", &[]).await;
    host.redis.signal("-STOP");

    hasty.signal("-INT");
    hasty.log_line("stopping").await;
    // The next one counts from the moment at which it leaves, which the line above is just before.
    for _ in 0..10 {
        hasty.signal("-INT");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hasty.ended().await.code, 130);

    let asked = Instant::now();
    patient.signal("-INT");
    assert_eq!(patient.ended().await.code, 0);
    assert!(asked.elapsed() < 5 * Duration::from_secs(3));
    host.redis.signal("-CONT");
}

#[tokio::test]
async fn a_hangup_is_ignored_with_a_line() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &[]).await;
    node.signal("-HUP");
    node.log_line("SIGHUP is ignored").await;
    host.run(&["ping", "a@127.0.0.1"]).await.done();
}

#[tokio::test]
async fn a_closed_output_ends_quietly_with_0() {
    let host = Host::start();
    let _node = host.node("a@127.0.0.1", &[]).await;
    for arguments in [
        "nodes",
        "nodes --json",
        "names",
        "ping a@127.0.0.1",
        "call a@127.0.0.1 erlang node",
        "meta get",
        "man",
        "--help",
    ] {
        let program = env!("CARGO_BIN_EXE_redgrid");
        // The shell opens a pipe whose reader is gone before redgrid starts.
        let script = format!(
            "set -o pipefail; {{ sleep 0.1; {program} {arguments} 2>err; echo $? >code; }} | exec true; cat code err"
        );
        let mut command = host.command("bash");
        let ended = Program::start(command.args(["-c", &script])).ended().await;
        assert_eq!(ended.stdout, "0\n", "{arguments}: {ended:?}");
    }
}

#[tokio::test]
async fn systemd_hears_when_the_node_is_ready_and_when_it_stops() {
    let host = Host::start();
    let path = host.home().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = host.redgrid(&["node", "--name", "a@127.0.0.1"]);
    let node = Program::start(command.env("NOTIFY_SOCKET", &path));
    let heard = || {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).expect("a notification");
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    assert_eq!(
        members(&host).await,
        ["a@127.0.0.1"],
        "ready is in the mesh"
    );
    node.signal("-TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(node.ended().await.code, 0);
}

#[tokio::test]
async fn secrets_are_in_no_output_and_in_no_registration() {
    let (cookie, password) = ("COOKIETHATNOBODYSEES", "PASSWORDTHATNOBODYSEES");
    let host = Host::with_redis(Redis::start_with(&["--requirepass", password]));
    let url = host.redis.url_as("default", password);
    let wrong = host.redis.url_as("default", "WRONGTHATNOBODYSEES");
    let nowhere = format!("redis://default:{password}@127.0.0.1:1/");
    let misspelt = format!("redi://default:{password}@127.0.0.1:1/");
    let toml = host.file(
        "c.toml",
        &format!("cookie = \"{cookie}\"\nredis = \"{url}\" x"),
        0o600,
    );
    let debug = ["--log-level", "debug", "--cookie", cookie];

    let mut said = Vec::new();
    let node = |arguments: &[&str]| {
        let mut command = host.redgrid(&[&["node"], arguments, &debug].concat());
        Program::start(&mut command)
    };
    let good = node(&["--name", "a@127.0.0.1", "--redis", &url]);
    good.log_line("the node is up").await;
    let stranger = host.redgrid(&["ping", "a@127.0.0.1", "--cookie", "ANOTHERTHATNOBODYSEES"]);
    said.push(Program::start(&mut { stranger }).ended().await);
    for url in [&wrong, &nowhere] {
        let node = node(&["--name", "b@127.0.0.1", "--redis", url]);
        node.log_line("stays up").await;
        node.signal("-TERM");
        said.push(node.ended().await);
        said.push(host.run(&["nodes", "--redis", url]).await);
        said.push(
            host.run(&["await", "--nodes", "1", "--redis", url, "--timeout", "0.2"])
                .await,
        );
    }
    said.push(host.run(&["node", "--redis", &misspelt]).await);
    said.push(host.run(&["nodes", "--redis", &misspelt]).await);
    said.push(
        host.run(&["node", "--cookie", &format!("{cookie}\u{e9}")])
            .await,
    );
    said.push(host.run(&["node", "--config", &toml]).await);
    said.push(host.run(&["nodes", "--json", "--redis", &url]).await);

    let client = redis::Client::open(url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let dump: String = redis::cmd("EVAL")
        .arg("local all = '' for _, k in ipairs(redis.call('KEYS', '*')) do all = all .. k .. (redis.call('DUMP', k) or '') end return all")
        .arg(0)
        .query_async::<Vec<u8>>(&mut connection)
        .await
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap();
    assert!(
        dump.contains("a@127.0.0.1"),
        "nothing was registered: {dump:?}"
    );

    good.signal("-TERM");
    said.push(good.ended().await);
    let said = said.iter().flat_map(|ended| [&ended.stdout, &ended.stderr]);
    for text in said.chain([&dump]) {
        assert!(!text.contains("THATNOBODYSEES"), "{text}");
    }
}

// ---------------------------------------------------------------- the commands

#[tokio::test]
async fn the_commands_that_read_redis_show_the_mesh() {
    let host = Host::start();
    let ended = host.run(&["nodes"]).await;
    assert_eq!(ended.code, 0);
    assert!(ended.stderr.contains("no node is in"), "{ended:?}");
    assert_eq!(host.run(&["nodes", "--json"]).await.done().trim(), "[]");

    let _a = host
        .node("a@127.0.0.1", &["--meta", "weight=0", "--meta", "zone:=eu"])
        .await;
    let _b = host.node("b@127.0.0.1", &["--hidden"]).await;
    let other = host.node("c@127.0.0.1", &["--domain", "other"]).await;
    let json: Value = serde_json::from_str(host.run(&["nodes", "--json"]).await.done()).unwrap();
    let a = json
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["node"] == "a@127.0.0.1")
        .unwrap();
    assert_eq!(a["ip"], "127.0.0.1");
    assert_eq!(a["meta"], serde_json::json!({"weight": 0, "zone": "eu"}));
    assert_eq!(a["status"], "up");
    let table = host.run(&["nodes"]).await;
    let row = table
        .done()
        .lines()
        .find(|line| line.contains("a@127.0.0.1"))
        .unwrap()
        .to_owned();
    assert!(row.contains("weight=0") && row.contains("zone=eu"), "{row}");
    assert!(
        !table.stdout.contains("c@127.0.0.1"),
        "another scope is another mesh"
    );
    let there = host.run(&["nodes", "--domain", "other"]).await;
    assert!(there.done().contains("c@127.0.0.1"), "{there:?}");

    let found = host
        .run(&["await", "--nodes", "1", "--where", "zone=eu"])
        .await;
    assert_eq!(found.done().trim(), "a@127.0.0.1");
    let late = [
        "await",
        "--nodes",
        "1",
        "--where",
        "zone=us",
        "--timeout",
        "0.3",
    ];
    host.run(&late).await.failed(1, &["after 0.3 s", "0 of 1"]);
    let waiting =
        Program::start(&mut host.redgrid(&["await", "--nodes", "2", "--domain", "other"]));
    let _d = host.node("d@127.0.0.1", &["--domain", "other"]).await;
    assert_eq!(waiting.ended().await.done(), "c@127.0.0.1\nd@127.0.0.1\n");
    drop(other);
}

#[tokio::test]
async fn meta_is_read_and_changed_from_the_command_line() {
    let host = Host::start();
    let _a = host
        .node("a@127.0.0.1", &["--meta", "weight=0", "--meta", "zone:=eu"])
        .await;
    let get = async |node: &str| {
        let text = host
            .run(&["meta", "get", "--node", node])
            .await
            .done()
            .to_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(get("a@127.0.0.1").await, ["weight=0", "zone=eu"]);
    let settled = async |expected: &[&str]| {
        eventually(&format!("the meta is {expected:?}"), async || {
            (get("a@127.0.0.1").await == expected).then_some(())
        })
        .await;
    };
    // One member is on this host: it need not be named.
    host.run(&["meta", "set", "weight=50", "name=x y"])
        .await
        .done();
    settled(&["name=x y", "weight=50", "zone=eu"]).await;
    let native = host
        .run(&["call", "a@127.0.0.1", "redgrid", "nodes", "[native]"])
        .await;
    assert!(
        native.done().contains("{weight,50}") && native.stdout.contains("{zone,eu}"),
        "{native:?}"
    );
    host.run(&["meta", "unset", "zone", "--node", "a@127.0.0.1"])
        .await
        .done();
    settled(&["name=x y", "weight=50"]).await;
    host.run(&["meta", "replace", "only=1"]).await.done();
    settled(&["only=1"]).await;

    let _b = host.node("b@127.0.0.1", &[]).await;
    host.run(&["meta", "get"])
        .await
        .failed(1, &["2 members", "--node"]);
    host.run(&["meta", "get", "--node", "nobody@127.0.0.1"])
        .await
        .failed(1, &["nobody@127.0.0.1 is no member"]);
    host.run(&["meta", "set", "ip=1", "--node", "a@127.0.0.1"])
        .await
        .failed(1, &["ip"]);
}

#[tokio::test]
async fn a_suspended_node_is_out_of_the_list_until_it_is_resumed() {
    let host = Host::start();
    let _a = host.node("a@127.0.0.1", &[]).await;
    assert_eq!(
        host.run(&["suspend", "a@127.0.0.1"]).await.done().trim(),
        "ok"
    );
    eventually("it is out", async || {
        members(&host).await.is_empty().then_some(())
    })
    .await;
    let all = host.run(&["nodes", "--all"]).await;
    assert!(all.done().contains("suspended"), "{all:?}");
    assert_eq!(
        host.run(&["resume", "a@127.0.0.1"]).await.done().trim(),
        "ok"
    );
    eventually("it is back", async || {
        (members(&host).await == ["a@127.0.0.1"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_is_called_cast_to_and_sent_to_from_the_command_line() {
    let host = Host::start();
    let _a = host.node("a@127.0.0.1", &["--echo"]).await;
    let pong = host.run(&["ping", "a@127.0.0.1"]).await;
    assert!(pong.done().starts_with("pong"), "{pong:?}");
    let term = "#{a => [1,-2.5,<<\"x\">>],{b} => \"text\"}";
    let echoed = host
        .run(&["call", "a@127.0.0.1", "echo", "echo", term])
        .await;
    let again = host
        .run(&["call", "a@127.0.0.1", "echo", "echo", echoed.done().trim()])
        .await;
    assert_eq!(again.done(), echoed.done());
    let json = host
        .run(&["call", "a@127.0.0.1", "echo", "echo", "[1,2]", "--json"])
        .await;
    let json: Value = serde_json::from_str(json.done()).unwrap();
    assert_eq!(json, serde_json::json!([1, 2]));
    let undefined = ["call", "a@127.0.0.1", "no", "such", "1"];
    host.run(&undefined)
        .await
        .failed(1, &["no such function", "such"]);
    host.run(&["call", "a@127.0.0.1", "echo", "echo", "{"])
        .await
        .failed(1, &["argument 1"]);

    host.run(&["send", "a@127.0.0.1", "echo", "{data,<<\"12345\">>}"])
        .await
        .done();
    host.run(&[
        "cast",
        "a@127.0.0.1",
        "redgrid",
        "update_meta",
        "[{cast,done}]",
    ])
    .await
    .done();
    eventually("the cast was run", async || {
        let meta = host.run(&["meta", "get"]).await;
        (meta.done().trim() == "cast=done").then_some(())
    })
    .await;

    let names = host.run(&["names"]).await;
    assert!(
        names.done().starts_with("a "),
        "no trace of the short-lived ones: {names:?}"
    );
    assert_eq!(names.stdout.lines().count(), 1, "{names:?}");
    host.run(&["ping", "b@127.0.0.1"])
        .await
        .failed(1, &["b@127.0.0.1 is not running", "redgrid names"]);
}

/// The names that `redgrid nodes` gives.
async fn members(host: &Host) -> Vec<String> {
    let ended = host.run(&["nodes", "--json"]).await;
    let json: Value = serde_json::from_str(ended.done()).unwrap();
    let rows = json.as_array().unwrap().iter();
    rows.map(|row| row["node"].as_str().unwrap().to_owned())
        .collect()
}
