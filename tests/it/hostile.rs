//! Rubbish on the distribution port, in Redis and on its channels: one line each that says what it is, nobody else
//! suffers, and memory stays bounded.

use crate::support::beam::Beam;
use crate::support::eventually;
use crate::support::host::Host;
use crate::support::program::Program;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

const LOCALHOST: &str = "127.0.0.1";

/// More than an idle node needs, far less than the rubbish it is fed.
const MOST_MEMORY: usize = 150 << 20;

#[tokio::test]
async fn rubbish_on_the_distribution_port_is_one_line_each_and_hurts_nobody() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--echo"]).await;
    let mut erl = connected_erl(&host).await;
    let port = port_of(&host, "a").await;

    let long_name = [&b"\x01\x10n\x00\x06\x00\x00\x00\x00"[..], &[b'x'; 263]].concat();
    let rubbish: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"\x00\x00",
        b"\xff\xff",
        b"\x00\x01N",
        b"\x00\x07n\x00\x05\x00\x00\x00\x00",
        b"\x00\x0bn\x00\x06\x00\x00\x00\x00nobody",
        b"*1\r\n$4\r\nPING\r\n",
        &long_name,
    ];
    for (index, bytes) in rubbish.iter().enumerate() {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let from = stream.local_addr().unwrap();
        stream.write_all(bytes).unwrap();
        // The node may have closed the connection by now, which is what it should do.
        let _ = stream.shutdown(Shutdown::Write);
        let line = node.log_line(&format!("from={from}")).await;
        assert!(
            line.contains("WARN") && line.contains("refused"),
            "{index}: {line}"
        );
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // That it was closed is what counts, not what came before.
        let _ = stream.read_to_end(&mut Vec::new());
        assert_eq!(
            node.logged(&format!("from={from}")).len(),
            1,
            "{}",
            node.stderr()
        );
        answers(&mut erl).await;
    }
    assert!(memory(&node) < MOST_MEMORY);
    assert_eq!(erl.value("nodes()").await, "['a@127.0.0.1']");
}

#[tokio::test]
async fn half_open_connections_by_the_hundred_do_not_keep_a_real_one_out() {
    let host = Host::start();
    let _node = host.node("a@127.0.0.1", &["--echo"]).await;
    let port = port_of(&host, "a").await;
    let few = half_open(LOCALHOST, port, 200).await;
    let mut first = host.beam("first").await;
    assert_eq!(first.value("net_adm:ping('a@127.0.0.1')").await, "pong");

    // More than there are places, all of the address that the real one has, too.
    let many = half_open(LOCALHOST, port, 400).await;
    let mut second = host.beam("second").await;
    assert_eq!(second.value("net_adm:ping('a@127.0.0.1')").await, "pong");
    assert_eq!(
        first
            .value("rpc:call('a@127.0.0.1', echo, echo, [1])")
            .await,
        "1"
    );
    drop((few, many));
}

#[tokio::test]
async fn one_address_that_holds_all_it_can_get_keeps_no_other_out_for_a_moment() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--echo"]).await;
    let port = port_of(&host, "a").await;
    let mut early = connected_erl(&host).await;
    let mut late = host.beam("late").await;
    let mut last = host.beam("last").await;

    let hundreds = half_open("127.0.0.2", port, 500).await;
    at_once(&mut late).await;
    // With those of a third one every place is taken.
    let more = half_open("127.0.0.3", port, 500).await;
    at_once(&mut last).await;
    for erl in [&mut early, &mut late] {
        answers(erl).await;
    }

    for from in ["127.0.0.2", "127.0.0.3"] {
        let lines = node.logged(&format!("from={from}"));
        let crowded = lines.iter().filter(|line| line.contains("too many"));
        assert_eq!(crowded.count(), 1, "{}", node.stderr());
    }
    assert!(memory(&node) < MOST_MEMORY);
    drop((hundreds, more));
}

#[tokio::test]
async fn rubbish_in_redis_is_one_line_each_and_hurts_nobody() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--echo"]).await;
    let other = host.node("b@127.0.0.1", &[]).await;
    node.log_line("b@127.0.0.1 is up").await;
    let mut erl = connected_erl(&host).await;

    let wide: Vec<String> = (0..10_000).map(|n| format!("f{n}")).collect();
    let mut of_fields = vec!["HSET", "redgrid:::wide@127.0.0.1", "ip", "127.0.0.1"];
    of_fields.extend(wide.iter().flat_map(|field| [field.as_str(), "value"]));
    let long = "x".repeat(1 << 20);
    let mut of_bytes = vec!["HSET", "redgrid:::long@127.0.0.1", "ip", "127.0.0.1"];
    let keys: Vec<String> = (0..16).map(|n| format!("k{n}")).collect();
    of_bytes.extend(keys.iter().flat_map(|key| [key.as_str(), long.as_str()]));
    let commands: [&[&str]; 9] = [
        &["HSET", "redgrid:::noip@127.0.0.1", "weight", "1"],
        &["HSET", "redgrid:::badip@127.0.0.1", "ip", "999.1.2.3"],
        &["HSET", "redgrid:::manyip@127.0.0.1", "ip", "224.0.0.1"],
        &["HSET", "redgrid:::\x1b[31mred@127.0.0.1", "ip", "127.0.0.1"],
        &["HSET", "redgrid:::two@at@127.0.0.1", "ip", "127.0.0.1"],
        &["SET", "redgrid:::text@127.0.0.1", "I am no hash"],
        &["RPUSH", "redgrid:::list@127.0.0.1", "I am no hash"],
        &of_fields,
        &of_bytes,
    ];
    for command in commands {
        let _: redis::Value = host.redis.cmd(command).await;
    }
    // Told again and again, as by a heartbeat.
    for _ in 0..5 {
        for command in commands {
            let _: i64 = host.redis.cmd(&["PUBLISH", "redgrid::", command[1]]).await;
        }
    }
    for whom in [
        "noip", "badip", "manyip", "red@", "two@at", "text", "list", "wide", "long",
    ] {
        for node in [&node, &other] {
            let line = eventually(whom, async || warned(node, whom).pop()).await;
            assert!(!line.contains('\x1b'), "{line}");
        }
    }
    settled(&host, &node).await;
    for whom in ["noip", "badip", "manyip", "red@", "two@at", "text", "list"] {
        let lines = warned(&node, whom);
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
    // One that says too much is a member with less meta, which is one matter; that it does not answer is another.
    for whom in ["wide", "long"] {
        let lines = warned(&node, whom);
        assert!((1..=2).contains(&lines.len()), "{lines:#?}");
    }
    answers(&mut erl).await;
    let listed = host.run(&["nodes", "--json"]).await;
    for name in ["a@127.0.0.1", "b@127.0.0.1"] {
        assert!(listed.done().contains(name), "{listed:?}");
    }
    for name in ["noip", "text", "list", "two@at"] {
        assert!(!listed.stdout.contains(name), "{name}: {listed:?}");
    }
    assert!(memory(&node) < MOST_MEMORY, "{} bytes", memory(&node));
}

#[tokio::test]
async fn rubbish_on_the_channels_is_one_line_and_hurts_nobody() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--echo"]).await;
    let mut erl = connected_erl(&host).await;

    let deep = [&b"\x83"[..], &b"l\x00\x00\x00\x01".repeat(100_000)].concat();
    let nested_tuple = [&b"\x83"[..], &b"h\x01".repeat(500_000)].concat();
    let compressed = b"\x83P\xff\xff\xff\xffx\x9c\x03\x00\x00\x00\x00\x01";
    let claims = b"\x83l\xff\xff\xff\xff";
    let atom = b"\x83t\x00\x00\x00\x01w\x01vw\x01x";
    let huge = vec![0x83; 2 << 20];
    let messages: [&[u8]; 8] = [
        b"",
        b"\xff\xfe",
        &deep,
        &nested_tuple,
        compressed,
        claims,
        atom,
        &huge,
    ];
    let mut connection = host.redis.connection().await;
    // Redis itself cuts off whoever has 32 MiB waiting.
    for _ in 0..3 {
        for message in messages {
            for channel in ["redgrid::", "redgrid.events::"] {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(channel).arg(message);
                let _: i64 = publish.query_async(&mut connection).await.unwrap();
            }
        }
    }
    settled(&host, &node).await;
    let lines = node.logged("WARN");
    assert!(
        !lines.is_empty() && lines.len() <= 2 * messages.len(),
        "{lines:#?}"
    );
    assert!(lines.iter().all(|line| line.len() < 500), "{lines:#?}");
    answers(&mut erl).await;
    assert!(memory(&node) < MOST_MEMORY, "{} bytes", memory(&node));
}

#[tokio::test]
async fn keys_of_ours_that_are_of_another_type_do_not_keep_a_node_out() {
    let host = Host::start();
    for key in [
        "redgrid.index::",
        "redgrid.scan::",
        "redgrid.info:::a@127.0.0.1",
        "redgrid:::a@127.0.0.1",
    ] {
        let _: String = host.redis.cmd(&["SET", key, "rubbish"]).await;
    }
    let node = host.node("a@127.0.0.1", &[]).await;
    let other = host.node("b@127.0.0.1", &[]).await;
    node.log_line("b@127.0.0.1 is up").await;
    other.log_line("a@127.0.0.1 is up").await;
    let lines = warned(&node, "redgrid.index:");
    assert_eq!(lines.len(), 1, "{}", node.stderr());
    let names = host.run(&["call", "a@127.0.0.1", "erlang", "nodes"]).await;
    assert_eq!(names.done().trim(), "['b@127.0.0.1']");
    let listed = host.run(&["nodes"]).await;
    assert!(listed.done().contains("b@127.0.0.1") && listed.stderr.contains("redgrid.index:"));

    // The mend helps.
    let _: i64 = host.redis.cmd(&["DEL", "redgrid.index::"]).await;
    eventually("the index is there", async || {
        let count: i64 = host.redis.cmd(&["ZCARD", "redgrid.index::"]).await;
        (count == 2).then_some(())
    })
    .await;
}

/// Connections that say nothing, from an address of the loopback.
async fn half_open(from: &str, port: u16, count: usize) -> Vec<tokio::net::TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(from.parse().unwrap(), 0))
            .unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        open.push(socket.connect(to).await.unwrap());
    }
    open
}

/// Connects an `erl` to `a@127.0.0.1`, without the time that any of the strangers could have run out in.
async fn at_once(erl: &mut Beam) {
    let began = Instant::now();
    assert_eq!(erl.value("net_adm:ping('a@127.0.0.1')").await, "pong");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

/// An `erl` that is connected to `a@127.0.0.1`.
async fn connected_erl(host: &Host) -> Beam {
    let mut erl = host.beam("erl").await;
    assert_eq!(erl.value("net_adm:ping('a@127.0.0.1')").await, "pong");
    erl
}

/// The warnings of a node that have this text.
fn warned(node: &Program, text: &str) -> Vec<String> {
    let mut lines = node.logged(text);
    lines.retain(|line| line.contains(" WARN "));
    lines
}

async fn answers(erl: &mut Beam) {
    let answer = erl
        .value("gen_server:call({echo, 'a@127.0.0.1'}, still_there)")
        .await;
    assert_eq!(answer, "still_there");
}

/// The distribution port of a node.
async fn port_of(host: &Host, short: &str) -> u16 {
    let names = host.epmd.names().await;
    let of = names.into_iter().find(|(name, _)| name == short);
    of.expect("a registered node").1
}

/// Waits until the node has heard everything that was published so far.
async fn settled(host: &Host, node: &Program) {
    let name = format!("last{}@127.0.0.1", node.stderr().len());
    let key = format!("redgrid:::{name}");
    let _: i64 = host.redis.cmd(&["HSET", &key, "nothing", "else"]).await;
    let _: i64 = host.redis.cmd(&["PUBLISH", "redgrid::", &key]).await;
    node.log_line(&name).await;
}

/// Resident bytes of a program.
fn memory(program: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}
