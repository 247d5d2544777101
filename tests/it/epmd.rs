//! The epmd inside a node: it answers as OTP's, real `erl` nodes register with it and find each other, and somebody serves
//! whoever comes and goes.

use crate::support::{
    beam::Beam,
    epmd::EpmdServer,
    eventually,
    host::Host,
    program::Program,
    toy::{self, Toy},
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use redgrid::dist::{Address, EpmdMode, EpmdStartError, Node, Options, StartError};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options(epmd: &EpmdServer, name: &str, mode: EpmdMode) -> Options {
    let mut options = toy::options(epmd, name);
    options.epmd_mode = mode;
    options
}

async fn start(epmd: &EpmdServer, name: &str, mode: EpmdMode) -> Node {
    toy::start(options(epmd, name, mode)).await.0
}

async fn fails(options: Options) -> EpmdStartError {
    match Node::start(options, Arc::new(Toy::default())).await.err() {
        Some(StartError::Epmd(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Waits until exactly these names are registered.
async fn registered(epmd: &EpmdServer, names: &[&str]) {
    eventually(&format!("{names:?} are registered"), async || {
        let mut found: Vec<String> = epmd
            .names()
            .await
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        found.sort();
        (found == names).then_some(())
    })
    .await;
}

/// A request with its length, on a connection of its own.
fn send(ip: IpAddr, port: u16, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect((ip, port)).expect("an epmd");
    let length = (request.len() as u16).to_be_bytes();
    stream
        .write_all(&[&length[..], request].concat())
        .expect("an epmd that reads");
    stream
}

/// What comes, and whether the connection was closed; one that stays open says nothing for so long.
fn answer(stream: &mut TcpStream, quiet: Duration) -> (Vec<u8>, bool) {
    stream.set_read_timeout(Some(quiet)).expect("a socket");
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return (bytes, true),
            Ok(read) => bytes.extend(&part[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (bytes, false),
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, true),
            Err(error) => panic!("{error}"),
        }
    }
}

fn registration(name: &[u8], port: u16, highest_version: u16, extra: &[u8]) -> Vec<u8> {
    let mut bytes = vec![120];
    bytes.extend(port.to_be_bytes());
    bytes.extend([77, 0]);
    bytes.extend(highest_version.to_be_bytes());
    bytes.extend(5_u16.to_be_bytes());
    for text in [name, extra] {
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text);
    }
    bytes
}

/// The creation out of a registration's answer.
fn creation(stream: &mut TcpStream) -> u32 {
    let mut bytes = [0; 6];
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a socket");
    stream.read_exact(&mut bytes).expect("an answer");
    assert_eq!(bytes[..2], [118, 0]);
    u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]])
}

#[tokio::test]
async fn real_erlang_nodes_register_with_it_and_find_each_other_and_us() {
    let epmd = EpmdServer::absent();
    let rust = start(&epmd, "rust", EpmdMode::Embedded).await;
    let mut one = Beam::start(&epmd, "one").await;
    let two = Beam::start(&epmd, "two").await;

    assert_eq!(one.value("net_adm:ping('two@127.0.0.1')").await, "pong");
    assert_eq!(one.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    assert_eq!(one.value("net_adm:ping('nobody@127.0.0.1')").await, "pang");
    let names =
        "{ok, Names} = net_adm:names(\"127.0.0.1\"), [Name || {Name, _} <- lists:sort(Names)]";
    assert_eq!(one.value(names).await, r#"["one","rust","two"]"#);
    let port = one
        .value("{port, Port, _} = erl_epmd:port_please(\"rust\", {127,0,0,1}), Port")
        .await;
    assert_eq!(port, rust.port().to_string());
    let printed = epmd.ask("-names").await;
    assert!(
        printed.starts_with(&format!(
            "epmd: up and running on port {} with data:\nname two at port ",
            epmd.port()
        )),
        "{printed}"
    );
    assert!(
        printed.ends_with(&format!("name rust at port {}\n", rust.port())),
        "{printed}"
    );

    // We look names up at ourselves, too.
    let by_epmd = Address {
        ip: LOOPBACK,
        port: None,
    };
    rust.connect(two.name(), by_epmd).await.expect("connected");
    drop(two);
    registered(&epmd, &["one", "rust"]).await;
    assert_eq!(one.log(), "", "what the node logged");
    rust.stop().await;
}

#[tokio::test]
async fn an_erlang_node_comes_back_when_the_node_that_serves_was_restarted() {
    let epmd = EpmdServer::absent();
    let first = start(&epmd, "rust", EpmdMode::Embedded).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    registered(&epmd, &["erl", "rust"]).await;
    first.stop().await;
    assert!(epmd.names().await.is_empty());

    let second = start(&epmd, "rust", EpmdMode::Auto).await;
    registered(&epmd, &["erl", "rust"]).await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    second.stop().await;
}

#[tokio::test]
async fn a_node_takes_over_when_the_epmd_of_otp_is_gone_and_the_others_come_to_it() {
    let mut epmd = EpmdServer::start();
    let rust = start(&epmd, "rust", EpmdMode::Auto).await;
    let waits = start(&epmd, "waits", EpmdMode::External).await;
    let erl = Beam::start(&epmd, "erl").await;
    registered(&epmd, &["erl", "rust", "waits"]).await;
    let life = rust.creation();
    epmd.stop();
    registered(&epmd, &["erl", "rust", "waits"]).await;
    assert_eq!(rust.creation(), life);

    // The epmd of OTP finds the port taken and says nothing, so nothing is lost when `erl` starts one.
    assert!(epmd.gives_way().await);
    registered(&epmd, &["erl", "rust", "waits"]).await;
    drop(erl);

    // With the node the port is free again, and whoever serves then has the others.
    rust.stop().await;
    epmd.restart();
    registered(&epmd, &["waits"]).await;
    waits.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epmd_that_is_only_restarted_keeps_its_port() {
    let mut epmd = EpmdServer::start();
    let (one, two) = tokio::join!(
        start(&epmd, "one", EpmdMode::Auto),
        start(&epmd, "two", EpmdMode::Auto)
    );
    for _ in 0..3 {
        registered(&epmd, &["one", "two"]).await;
        // It ends at once, and this fails, when somebody was quicker.
        epmd.restart();
    }
    registered(&epmd, &["one", "two"]).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn another_node_takes_over_from_one_that_served_and_left() {
    let epmd = EpmdServer::absent();
    let first = start(&epmd, "first", EpmdMode::Auto).await;
    let (second, third) = (
        start(&epmd, "second", EpmdMode::Auto).await,
        start(&epmd, "third", EpmdMode::Auto).await,
    );
    let mut erl = Beam::start(&epmd, "erl").await;
    registered(&epmd, &["erl", "first", "second", "third"]).await;
    first.stop().await;
    registered(&epmd, &["erl", "second", "third"]).await;
    assert_eq!(erl.value("net_adm:ping('third@127.0.0.1')").await, "pong");
    second.stop().await;
    registered(&epmd, &["erl", "third"]).await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_nodes_that_start_at_once_one_serves_and_all_are_registered() {
    let epmd = EpmdServer::absent();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let nodes =
        futures_util::future::join_all(names.map(|name| start(&epmd, name, EpmdMode::Auto))).await;
    registered(&epmd, &names).await;
    // The one that serves has no connection.
    let mut stream = send(LOOPBACK, epmd.port(), b"d");
    let (dump, _) = answer(&mut stream, Duration::from_secs(15));
    let dump = String::from_utf8_lossy(&dump[4..]).into_owned();
    assert_eq!(dump.matches("fd = 0\n").count(), 1, "{dump}");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_name_is_refused_while_a_node_has_it_whoever_serves() {
    let epmd = EpmdServer::absent();
    let rust = start(&epmd, "rust", EpmdMode::Embedded).await;
    let error = fails(options(&epmd, "rust", EpmdMode::Auto)).await;
    match &error {
        EpmdStartError::Taken { short, port, .. } => {
            assert_eq!((short.as_str(), *port), ("rust", Some(rust.port())));
        }
        other => panic!("{other:?}"),
    }
    // A real node says that it is taken, and does not hang.
    let erl = Program::start(
        std::process::Command::new("erl")
            .args([
                "-name",
                "rust@127.0.0.1",
                "-noshell",
                "-start_epmd",
                "false",
            ])
            .env("ERL_EPMD_PORT", epmd.port().to_string())
            .env("ERL_CRASH_DUMP_BYTES", "0"),
    );
    eventually("erl gives up", async || {
        let said = erl.stdout() + &erl.stderr();
        said.contains("seems to be in use by another Erlang node")
            .then_some(())
    })
    .await;
    drop(erl);
    rust.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_life_of_a_node_has_another_creation() {
    let epmd = EpmdServer::absent();
    let rust = start(&epmd, "rust", EpmdMode::Embedded).await;
    let mut earlier = Vec::new();
    for _ in 0..5 {
        let request = registration(b"c", 1, 6, b"");
        let mut node = send(LOOPBACK, epmd.port(), &request);
        let creation = creation(&mut node);
        assert!(
            creation >= 4 && !earlier.contains(&creation),
            "{creation} after {earlier:?}"
        );
        earlier.push(creation);
        drop(node);
        registered(&epmd, &["rust"]).await;
    }
    rust.stop().await;
}

#[tokio::test]
async fn who_must_serve_says_who_has_the_port() {
    let epmd = EpmdServer::start();
    let one = start(&epmd, "one", EpmdMode::External).await;
    let error = fails(options(&epmd, "two", EpmdMode::Embedded))
        .await
        .to_string();
    for word in [&epmd.port().to_string(), "knows one", "--epmd auto"] {
        assert!(error.contains(word), "{error}");
    }
    one.stop().await;

    // Nobody answers for the one who has the port, here of one address that is not the loopback's first.
    let elsewhere = EpmdServer::absent();
    let at = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), elsewhere.port());
    let _taken = TcpListener::bind(at).expect("a free port");
    for mode in [EpmdMode::Embedded, EpmdMode::Auto] {
        let error = fails(options(&elsewhere, "two", mode)).await.to_string();
        for word in [
            &elsewhere.port().to_string(),
            "no epmd answers",
            "--epmd-port",
        ] {
            assert!(error.contains(word), "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_no_epmd_is_said_to_be_none() {
    let epmd = EpmdServer::absent();
    let listener = TcpListener::bind((LOOPBACK, epmd.port())).expect("a free port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(b"SSH-2.0\r\n");
        }
    });
    let error = fails(options(&epmd, "one", EpmdMode::Auto)).await;
    assert!(matches!(error, EpmdStartError::Strange { .. }), "{error}");
}

#[tokio::test]
async fn it_is_not_killed_while_its_node_lives() {
    let epmd = EpmdServer::absent();
    let rust = start(&epmd, "rust", EpmdMode::Embedded).await;
    let said = epmd.ask("-kill").await;
    assert!(
        said.contains("Killing not allowed - living nodes in database"),
        "{said}"
    );
    registered(&epmd, &["rust"]).await;
    rust.stop().await;
    let said = epmd.ask("-names").await;
    assert!(said.contains("Cannot connect"), "{said}");
}

#[tokio::test]
async fn it_listens_where_it_is_told_and_everywhere_else_when_not() {
    let second = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let reaches = |ip: IpAddr, epmd: &EpmdServer| TcpStream::connect((ip, epmd.port())).is_ok();
    for (addresses, expected) in [
        (vec![], true),
        (vec![LOOPBACK], false),
        (vec![second], true),
    ] {
        let epmd = EpmdServer::absent();
        let mut options = options(&epmd, "rust", EpmdMode::Embedded);
        options.epmd.addresses = addresses;
        let (rust, _) = toy::start(options).await;
        assert!(reaches(LOOPBACK, &epmd));
        assert_eq!(reaches(second, &epmd), expected);
        // Where there is IPv6 it is served, too.
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert_eq!(reaches(v6, &epmd), TcpListener::bind((v6, 0)).is_ok());
        rust.stop().await;
    }
}

#[tokio::test]
async fn a_host_without_the_program_needs_none() {
    let host = Host::without_epmd();
    let mut command = host.redgrid(&["node", "--name", "serves@127.0.0.1"]);
    let serves = Program::start(command.env("PATH", ""));
    serves.log_line("epmd is served inside this node").await;
    serves.log_line("the node is up").await;
    let joins = host.node("joins@127.0.0.1", &["--epmd", "external"]).await;
    let names = host.run(&["names"]).await;
    let names: Vec<&str> = names
        .done()
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, ["joins", "serves"]);

    // It says so when others are left without, and the one who could not serve comes back when somebody does again.
    serves.signal("-TERM");
    let ended = serves.ended().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stderr.contains("other nodes were registered") && ended.stderr.contains("joins"),
        "{ended:?}"
    );
    joins.log_line("epmd closed our registration").await;
    let embedded = host.node("again@127.0.0.1", &["--epmd", "embedded"]).await;
    joins.log_line("registered with epmd again").await;
    registered(&host.epmd, &["again", "joins"]).await;
    let refused = host
        .run(&["node", "--name", "two@127.0.0.1", "--epmd", "embedded"])
        .await;
    refused.failed(1, &["the port is taken", "again", "--epmd auto"]);
    drop((embedded, joins));
}

/// The same requests at an epmd of OTP and at ours, which must not be told apart.
struct Both {
    ports: [u16; 2],
    /// Registrations that stand, in both.
    held: Vec<[TcpStream; 2]>,
}

/// What is compared: less what each epmd chooses for itself.
#[derive(Debug, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    closed: bool,
}

impl Seen {
    fn of((mut bytes, mut closed): (Vec<u8>, bool), request: &[u8]) -> Self {
        match (request.get(2), bytes.first()) {
            // The number of its socket.
            (Some(b'd'), Some(_)) => {
                let text = String::from_utf8(bytes.split_off(4)).expect("a dump");
                let mut parts = text.split("fd = ");
                let first = parts.next().unwrap_or_default().to_owned();
                let less = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
                bytes = less.fold(first, |text, part| text + "fd = " + part).into();
            }
            // Its port.
            (Some(b'n'), Some(_)) => bytes = bytes.split_off(4),
            (_, Some(tag @ (118 | 121))) => {
                let wide = *tag == 118;
                if bytes[1] == 0 {
                    let creation = bytes.split_off(2);
                    let creation = creation
                        .iter()
                        .fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
                    assert!(if wide {
                        creation >= 4
                    } else {
                        (1..=3).contains(&creation)
                    });
                } else {
                    // OTP's stays open and holds nothing.
                    closed = true;
                }
            }
            _ => {}
        }
        Self { bytes, closed }
    }
}

impl Both {
    /// Sends these bytes, length and all, to both, and compares.
    fn ask(&mut self, request: &[u8]) {
        let mut streams = self.ports.map(|port| {
            let mut stream = TcpStream::connect((LOOPBACK, port)).expect("an epmd");
            stream.write_all(request).expect("an epmd that reads");
            stream
        });
        let end = Instant::now() + Duration::from_secs(10);
        let mut answers = [(Vec::new(), false), (Vec::new(), false)];
        loop {
            for (stream, (bytes, closed)) in streams.iter_mut().zip(&mut answers) {
                if !*closed {
                    let (more, end) = answer(stream, Duration::from_millis(40));
                    bytes.extend(more);
                    *closed = end;
                }
            }
            let [otp, ours] = answers.clone().map(|answer| Seen::of(answer, request));
            if otp == ours {
                break;
            }
            assert!(
                Instant::now() < end,
                "to {request:02x?} OTP's epmd said {otp:?}, ours {ours:?}"
            );
        }
        if answers[0].0.get(..2) == Some(&[118, 0]) || answers[0].0.get(..2) == Some(&[121, 0]) {
            self.held.push(streams);
        }
    }

    /// Sends a request with the length that it has.
    fn ask_whole(&mut self, request: &[u8]) {
        let length = (request.len() as u16).to_be_bytes();
        self.ask(&[&length[..], request].concat());
    }

    /// Ends a registration, and waits until both have seen it.
    fn end(&mut self, number: usize) {
        if self.held.is_empty() {
            return;
        }
        drop(self.held.swap_remove(number % self.held.len()));
        let list = |port| {
            let mut stream = send(LOOPBACK, port, b"d");
            Seen::of(answer(&mut stream, Duration::from_secs(15)), b"\0\x01d")
        };
        let end = Instant::now() + Duration::from_secs(10);
        while self.ports.map(list)[0] != self.ports.map(list)[1] {
            assert!(Instant::now() < end, "{:?}", self.ports.map(list));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Whole(Vec<u8>),
    Bytes(Vec<u8>),
    End(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let name = || "[abc\0é]{0,3}";
    let node = (name(), any::<u16>(), 4..8_u16, bytes(), bytes());
    let register = node.prop_map(|(name, port, version, extra, rest)| {
        let mut request = registration(name.as_bytes(), port, version, &extra);
        request.extend(rest);
        Step::Whole(request)
    });
    let tag = prop::sample::select(&b"dknsxz\0y"[..]);
    let lists = prop::sample::select(&b"dkn"[..]);
    prop_oneof![
        4 => register,
        3 => (name(), any::<bool>()).prop_map(|(name, nul)| {
            let nul = if nul { "\0" } else { "" };
            Step::Whole(format!("z{name}{nul}").into_bytes())
        }),
        2 => (tag, bytes()).prop_map(|(tag, rest)| Step::Whole([&[tag], &rest[..]].concat())),
        2 => lists.prop_map(|tag| Step::Whole(vec![tag])),
        1 => bytes().prop_map(Step::Bytes),
        2 => any::<usize>().prop_map(Step::End),
    ]
}

/// A node that serves, and an epmd of OTP that has a node of the same name and port.
async fn both() -> (EpmdServer, Node, Both) {
    let (otp, epmd) = (EpmdServer::start(), EpmdServer::absent());
    let rust = start(&epmd, "own", EpmdMode::Embedded).await;
    let mut own = registration(b"own", rust.port(), 6, b"");
    own[8] = 6;
    let mut own = send(LOOPBACK, otp.port(), &own);
    creation(&mut own);
    let both = Both {
        ports: [otp.port(), epmd.port()],
        held: Vec::new(),
    };
    // It stays registered as long as this process lives.
    std::mem::forget(own);
    (otp, rust, both)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_byte_for_byte_as_the_epmd_of_otp_what_nobody_should_ask() {
    let (_otp, rust, mut both) = both().await;
    let wide = "\u{10000}";
    for name in [
        wide.repeat(255),
        wide.repeat(256),
        "a".repeat(255),
        "a".repeat(256),
        "a".repeat(1021),
        String::new(),
        "with space".into(),
        "one\0two".into(),
    ] {
        both.ask_whole(&registration(name.as_bytes(), 1, 6, b""));
        both.ask_whole(&registration(name.as_bytes(), 2, 5, b"x"));
        both.ask_whole(format!("z{name}").as_bytes());
        both.ask_whole(format!("z{name}\0").as_bytes());
        both.ask_whole(format!("z{name}\0\0").as_bytes());
    }
    for name in [
        &b"\xff"[..],
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        both.ask_whole(&registration(name, 1, 6, b""));
        both.ask_whole(&[b"z", name].concat());
    }
    for extra in [0, 1, 1020, 1021, 2000] {
        both.ask_whole(&registration(
            format!("e{extra}").as_bytes(),
            1,
            6,
            &vec![7; extra],
        ));
        both.ask_whole(format!("ze{extra}").as_bytes());
    }
    for version in [0, 4, 5, 6, 7, u16::MAX] {
        both.ask_whole(&registration(
            format!("v{version}").as_bytes(),
            0,
            version,
            b"",
        ));
        both.ask_whole(&registration(b"own", 0, version, b""));
        both.ask_whole(format!("zv{version}").as_bytes());
    }
    let whole = registration(b"name", 1, 6, b"xy");
    for end in 0..whole.len() {
        both.ask_whole(&whole[..end]);
    }
    // A length of nothing, of too much, of less and of more than comes.
    for length in [0_u16, 1, 2, 3056, 3057, 3058, u16::MAX] {
        both.ask(&length.to_be_bytes());
        both.ask(&[&length.to_be_bytes()[..], b"n"].concat());
        both.ask(&[&length.to_be_bytes()[..], &[b'n'; 3057]].concat());
    }
    both.ask(b"");
    both.ask(b"\0");
    for request in [
        &b"n"[..],
        b"d",
        b"k",
        b"s",
        b"sown",
        b"sown\0",
        b"nnn",
        b"ddd",
        b"kkk",
    ] {
        both.ask_whole(request);
    }
    // Who is registered and says one thing more is so no longer.
    both.ask_whole(&registration(b"talks", 1, 6, b""));
    for stream in both.held.last_mut().expect("a registration") {
        stream.write_all(b"\0\x01n").expect("an epmd that reads");
        assert_eq!(answer(stream, Duration::from_secs(15)), (Vec::new(), true));
    }
    both.ask_whole(b"ztalks");
    while !both.held.is_empty() {
        both.end(0);
    }
    rust.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_byte_for_byte_as_the_epmd_of_otp_whatever_comes() {
    let (_otp, rust, mut both) = both().await;
    let mut runner = TestRunner::default();
    for _ in 0..200 {
        let step = steps().new_tree(&mut runner).expect("a step").current();
        match step {
            Step::Whole(request) => both.ask_whole(&request),
            Step::Bytes(bytes) => both.ask(&bytes),
            Step::End(number) => both.end(number),
        }
    }
    rust.stop().await;
}
