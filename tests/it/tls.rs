//! The distribution inside TLS: with a real `erl` in both directions, among ourselves, and everything that can be wrong
//! with a certificate. Whoever refuses says so in one line: what, whom, and the mend.

use crate::support::{
    beam::Beam,
    certs::{self, Authority, Flaw, Identity},
    epmd::EpmdServer,
    eventually,
    host::Host,
    log::Log,
    toy,
};
use redgrid::dist::{CallError, ConnectError, Node, StartError, TlsVerify};
use redgrid::term::{self, Raw};
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A Rust node, `rust`, and an Erlang one, `erl`, neither of which has called the other.
async fn pair(ours: &Identity, verify: TlsVerify, theirs: &str) -> (EpmdServer, Node, Beam) {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(ours.options(&epmd, "rust", verify)).await;
    let erl = certs::beam(&epmd, "erl", theirs).await;
    (epmd, node, erl)
}

/// Calls `erl`, which connects to it.
async fn call(node: &Node) -> Result<Raw, CallError> {
    let erl = "erl@127.0.0.1".parse().unwrap();
    let none = Raw::encode(&term::list([]));
    node.call(&erl, "erlang", "node", none, PATIENCE).await
}

/// Why `erl` could not be connected.
async fn refusal(node: &Node) -> String {
    match call(node).await {
        Err(CallError::Connect(error @ ConnectError::Tls { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn ping(erl: &mut Beam) -> String {
    erl.value("net_adm:ping('rust@127.0.0.1')").await
}

/// The one line that our log has of a refusal, once it is there.
async fn refused(log: &Log) -> String {
    let lines = eventually("a line of the refusal", async || {
        let lines = log.lines("a connection was refused");
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines[0].clone()
}

#[tokio::test]
async fn an_erlang_node_and_a_rust_node_meet_inside_tls_in_both_directions_and_versions() {
    let authority = Authority::new();
    for versions in ["", ", {versions, ['tlsv1.3']}", ", {versions, ['tlsv1.2']}"] {
        let optfile = authority.issue().optfile(versions);
        for we_dial in [true, false] {
            let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Full, &optfile).await;
            if we_dial {
                let answer = call(&node).await.expect(versions);
                assert!(answer.view().is_atom("erl@127.0.0.1"));
            } else {
                assert_eq!(ping(&mut erl).await, "pong", "{versions}");
            }
            assert_eq!(erl.value("nodes()").await, "['rust@127.0.0.1']");
            assert_eq!(
                erl.value("rpc:call('rust@127.0.0.1', toy, same, [{x, 1}])")
                    .await,
                "{x,1}"
            );
            node.stop().await;
        }
    }
}

#[tokio::test]
async fn large_messages_cross_tls_whole_and_small_ones_are_not_left_waiting() {
    let authority = Authority::new();
    let optfile = authority.issue().optfile("");
    let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Full, &optfile).await;
    // What does not fit into the socket at once waits inside TLS, and nobody comes to write after it.
    let echoed = "X = binary:copy(<<7, 8>>, 8 bsl 20), \
                  [X =:= rpc:call('rust@127.0.0.1', toy, same, [X]) || _ <- [1, 2, 3]]";
    let began = Instant::now();
    assert_eq!(erl.value(echoed).await, "[true,true,true]");
    let copy = Raw::encode(&term::list([term::binary(vec![9; 3]), term::int(8 << 20)]));
    let value = node
        .call(erl.name(), "binary", "copy", copy, PATIENCE)
        .await;
    assert_eq!(
        value.unwrap().view().as_binary().map(<[u8]>::len),
        Some(24 << 20)
    );
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    let small = "length([ok || _ <- lists:seq(1, 500), pong =:= net_adm:ping('rust@127.0.0.1')])";
    let began = Instant::now();
    assert_eq!(erl.value(small).await, "500");
    // With Nagle's algorithm, or a delayed flush, each would take 40 ms.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    node.stop().await;
}

#[tokio::test]
async fn both_sides_hear_of_the_end_inside_tls() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let options = authority.issue().options(&epmd, "rust", TlsVerify::Full);
    let (node, toy) = toy::start(options).await;
    let mut erl = certs::beam(&epmd, "erl", &authority.issue().optfile("")).await;
    erl.value("net_kernel:monitor_nodes(true)").await;
    let down = "receive {nodedown, N} -> N after 5000 -> hangs end";
    assert_eq!(ping(&mut erl).await, "pong");
    node.disconnect(erl.name());
    assert_eq!(erl.value(down).await, "'rust@127.0.0.1'");
    assert_eq!(ping(&mut erl).await, "pong");
    erl.kill();
    eventually("the killed node is gone", async || {
        (toy.downs().len() == 2 && node.peers().is_empty()).then_some(())
    })
    .await;
    assert_eq!(toy.downs()[1], redgrid::dist::DownReason::Closed);
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_in_both_directions() {
    let (authority, other) = (Authority::new(), Authority::new());
    // It trusts ours, so that the refusal is our own.
    let optfile = other.issue().trusting(&authority).optfile("");
    let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Full, &optfile).await;
    let (log, _guard) = Log::collect();
    let why = refusal(&node).await;
    assert!(
        why.contains("erl@127.0.0.1") && why.contains("--tls-ca"),
        "{why}"
    );
    assert_eq!(ping(&mut erl).await, "pang");
    let line = refused(&log).await;
    assert!(
        line.contains("from=127.0.0.1") && line.contains("--tls-ca"),
        "{line}"
    );
    node.stop().await;
}

#[tokio::test]
async fn an_erlang_node_that_does_not_know_our_authority_is_told_apart() {
    let (authority, other) = (Authority::new(), Authority::new());
    for versions in [", {versions, ['tlsv1.3']}", ", {versions, ['tlsv1.2']}"] {
        let optfile = authority.issue().optfile(versions);
        let ours = other.issue().trusting(&authority);
        let (_epmd, node, mut erl) = pair(&ours, TlsVerify::Full, &optfile).await;
        let (log, _guard) = Log::collect();
        let why = refusal(&node).await;
        assert!(why.contains("cacertfile"), "{versions}: {why}");
        assert_eq!(ping(&mut erl).await, "pang");
        let line = refused(&log).await;
        assert!(line.contains("cacertfile"), "{versions}: {line}");
        node.stop().await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_in_both_directions_and_our_own_is_told_at_the_start() {
    let authority = Authority::new();
    let optfile = authority.issue_with(Flaw::Expired).optfile("");
    let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Peer, &optfile).await;
    let (log, _guard) = Log::collect();
    let why = refusal(&node).await;
    assert!(
        why.contains("has expired") && why.contains("days ago"),
        "{why}"
    );
    assert_eq!(ping(&mut erl).await, "pang");
    assert!(refused(&log).await.contains("has expired"));
    node.stop().await;

    let optfile = authority.issue().optfile("");
    let ours = authority.issue_with(Flaw::Expired);
    let (_epmd, node, mut erl) = pair(&ours, TlsVerify::Full, &optfile).await;
    assert_eq!(log.lines("our own certificate has expired").len(), 1);
    let why = refusal(&node).await;
    assert!(why.contains("our certificate has expired"), "{why}");
    assert_eq!(ping(&mut erl).await, "pang");
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_unless_only_the_chain_is_checked() {
    let authority = Authority::new();
    let optfile = authority.issue_with(Flaw::Elsewhere).optfile("");
    let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Full, &optfile).await;
    let (log, _guard) = Log::collect();
    let why = refusal(&node).await;
    for word in ["127.0.0.1", "elsewhere.example", "--tls-verify peer"] {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(ping(&mut erl).await, "pang");
    let line = refused(&log).await;
    assert!(line.contains("elsewhere.example"), "{line}");
    node.stop().await;

    let (_epmd, node, _erl) = pair(&authority.issue(), TlsVerify::Peer, &optfile).await;
    call(&node).await.expect("the chain is sound");
    node.stop().await;
}

#[tokio::test]
async fn who_presents_no_certificate_is_refused_unless_nothing_is_checked() {
    let authority = Authority::new();
    let optfile = authority.issue().optfile_of_a_stranger();
    let (_epmd, node, mut erl) = pair(&authority.issue(), TlsVerify::Peer, &optfile).await;
    let (log, _guard) = Log::collect();
    assert_eq!(ping(&mut erl).await, "pang");
    let line = refused(&log).await;
    assert!(
        line.contains("it presented no certificate") && line.contains("certfile"),
        "{line}"
    );
    // In the other direction it has one.
    call(&node).await.expect("its certificate is sound");
    node.stop().await;

    let other = Authority::new().issue();
    let (_epmd, node, mut erl) = pair(&other, TlsVerify::None, &optfile).await;
    assert_eq!(ping(&mut erl).await, "pong");
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_that_only_servers_may_use_does_not_let_one_dial() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(authority.issue().options(&epmd, "a", TlsVerify::Full)).await;
    let half = authority.issue_with(Flaw::ServerOnly);
    let (log, _guard) = Log::collect();
    let (other, _) = toy::start(half.options(&epmd, "b", TlsVerify::Full)).await;
    let told = log.lines("our own certificate is not meant for this");
    assert_eq!(told.len(), 1);
    let none = Raw::encode(&term::list([]));
    let dialled = other
        .call(node.name(), "erlang", "node", none.clone(), PATIENCE)
        .await;
    assert!(
        matches!(dialled, Err(CallError::Connect(ConnectError::Tls { .. }))),
        "{dialled:?}"
    );
    assert!(refused(&log).await.contains("extended key usage"));
    let other_way = node
        .call(other.name(), "erlang", "node", none, PATIENCE)
        .await;
    other_way.expect("as a server it is fine");
    for node in [node, other] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_tls_node_and_a_plain_erlang_node_tell_what_keeps_them_apart() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(authority.issue().options(&epmd, "rust", TlsVerify::Full)).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    let (log, _guard) = Log::collect();
    assert_eq!(ping(&mut erl).await, "pang");
    let line = refused(&log).await;
    assert!(
        line.contains("it speaks no TLS") && line.contains("inet_tls"),
        "{line}"
    );
    let why = refusal(&node).await;
    assert!(why.contains("most likely it speaks no TLS"), "{why}");
    node.stop().await;
}

#[tokio::test]
async fn a_plain_node_and_an_erlang_node_with_tls_tell_what_keeps_them_apart() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "rust")).await;
    let mut erl = certs::beam(&epmd, "erl", &authority.issue().optfile("")).await;
    let (log, _guard) = Log::collect();
    assert_eq!(ping(&mut erl).await, "pang");
    let line = refused(&log).await;
    assert!(
        line.contains("it speaks TLS and this node does not"),
        "{line}"
    );
    let why = refusal(&node).await;
    assert!(
        why.contains("it speaks TLS and this node does not"),
        "{why}"
    );
    node.stop().await;
}

#[tokio::test]
async fn rust_nodes_meet_inside_tls_whoever_dials_and_even_when_both_do() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let (a, _) = toy::start(authority.issue().options(&epmd, "a", TlsVerify::Full)).await;
    let (b, _) = toy::start(authority.issue().options(&epmd, "b", TlsVerify::Full)).await;
    let none = || Raw::encode(&term::list([]));
    let (there, back) = tokio::join!(
        a.call(b.name(), "erlang", "node", none(), PATIENCE),
        b.call(a.name(), "erlang", "node", none(), PATIENCE)
    );
    assert!(there.unwrap().view().is_atom("b@127.0.0.1"));
    assert!(back.unwrap().view().is_atom("a@127.0.0.1"));
    assert_eq!((a.peers().len(), b.peers().len()), (1, 1));

    // A plain one is no peer for either.
    let (plain, _) = toy::start(toy::options(&epmd, "c")).await;
    for (from, to) in [(&plain, &a), (&a, &plain)] {
        let answer = from
            .call(to.name(), "erlang", "node", none(), PATIENCE)
            .await;
        match answer {
            Err(CallError::Connect(ConnectError::Tls { why, .. })) => {
                assert!(why.contains("speaks"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    for node in [a, b, plain] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_listens_needs_a_certificate() {
    let authority = Authority::new();
    let epmd = EpmdServer::start();
    let mut options = toy::options(&epmd, "a");
    let pem = redgrid::dist::TlsPem {
        authorities: Some(authority.pem().as_bytes()),
        ..Default::default()
    };
    options.tls = Some(redgrid::dist::Tls::new(pem).unwrap());
    let started = Node::start(options, std::sync::Arc::new(toy::Toy::default())).await;
    assert!(matches!(started, Err(StartError::NoCertificate)));
    assert!(epmd.names().await.is_empty());
}

#[tokio::test]
async fn rubbish_on_a_tls_port_is_one_line_each_and_hurts_nobody() {
    let host = Host::start();
    let authority = Authority::new();
    let node = host
        .node("web@127.0.0.1", &words(&authority.issue().flags()))
        .await;
    let names = host.epmd.names().await;
    let port = names.into_iter().find(|(name, _)| name == "web").unwrap().1;
    // A hello whose record is longer than any may be, one that never ends, an alert, and what speaks something else.
    let rubbish: [&[u8]; 6] = [
        b"\x16\x03\x01\xff\xff\x01\x00\xff\xfb\x03\x03",
        &[&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[7; 0x4000]].concat(),
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x05hello",
        b"GET / HTTP/1.1\r\nHost: web\r\n\r\n",
        b"\x00\x19N\x00\x00\x00\x0d\x07\x5f\x5f\xbd\x00\x00\x00\x01\x00\x0aplain@here",
    ];
    for (index, bytes) in rubbish.iter().enumerate() {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let from = stream.local_addr().unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let line = node.log_line(&format!("from={from}")).await;
        assert!(
            line.contains("WARN") && line.contains("refused") && line.len() < 400,
            "{index}: {line}"
        );
        assert_eq!(
            node.logged(&format!("from={from}")).len(),
            1,
            "{}",
            node.stderr()
        );
    }
    let mut ping = vec!["ping".to_owned(), "web@127.0.0.1".to_owned()];
    ping.extend(authority.issue().flags());
    assert!(host.run(&words(&ping)).await.done().contains("pong"));
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn the_commands_talk_to_a_tls_node_when_they_are_given_the_flags() {
    let host = Host::start();
    let authority = Authority::new();
    let flags = authority.issue().flags();
    let _node = host.node("web@127.0.0.1", &words(&flags)).await;
    let with = |command: &[&str], flags: &[String]| {
        let mut line: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        line.extend(flags.iter().cloned());
        line
    };
    let ping = with(&["ping", "web@127.0.0.1"], &authority.issue().flags());
    assert!(host.run(&words(&ping)).await.done().contains("pong"));

    // Without the flags Redis already knows that it cannot be.
    let plain = host.run(&["ping", "web@127.0.0.1"]).await;
    assert_eq!(plain.code, 1, "{plain:?}");
    assert!(
        plain.stderr.contains("speaks TLS: give --tls-cert"),
        "{plain:?}"
    );

    // Where no Redis is asked, the handshake says it.
    let mut alone = host.redgrid(&["ping", "web@127.0.0.1"]);
    let alone = crate::support::program::Program::start(alone.env_remove("REDIS_URL"));
    let alone = alone.ended().await;
    assert!(
        alone
            .stderr
            .contains("it speaks TLS and this node does not"),
        "{alone:?}"
    );

    // An authority alone is enough to know whom one talks to, but not to be let in.
    let ca = authority.issue();
    let line = with(
        &["ping", "web@127.0.0.1"],
        &["--tls-ca".into(), ca.file(&ca.ca)],
    );
    let nobody = host.run(&words(&line)).await;
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(nobody.stderr.contains("certificate"), "{nobody:?}");
}

#[tokio::test]
async fn a_member_of_the_other_kind_is_listed_with_the_reason_and_not_dialled() {
    let host = Host::start();
    let authority = Authority::new();
    let sealed = host
        .node("sealed@127.0.0.1", &words(&authority.issue().flags()))
        .await;
    let other = host
        .node("other@127.0.0.1", &words(&authority.issue().flags()))
        .await;
    let plain = host.node("plain@127.0.0.1", &[]).await;
    sealed.log_line("other@127.0.0.1 is up").await;
    for (name, proto) in [("sealed", "tls"), ("plain", "tcp")] {
        let key = format!("redgrid.info:::{name}@127.0.0.1");
        let stored: String = host.redis.cmd(&["HGET", &key, "proto"]).await;
        assert_eq!(stored, proto);
    }
    let line = plain.log_line("sealed@127.0.0.1 is not connected to").await;
    assert!(line.contains("speaks TLS"), "{line}");
    let line = sealed.log_line("plain@127.0.0.1 is not connected to").await;
    assert!(line.contains("speaks no TLS"), "{line}");
    let listed = host.run(&["nodes"]).await;
    for name in ["sealed@", "other@", "plain@"] {
        assert!(listed.done().contains(name), "{listed:?}");
    }
    assert!(
        plain.logged("connected peer=").is_empty(),
        "{}",
        plain.stderr()
    );
    assert!(
        other.logged("a connection was refused").is_empty(),
        "{}",
        other.stderr()
    );
}
