//! The sockets, within their bounds.

use super::*;
use std::str::FromStr;
use tokio::time::Instant;

/// A server on a port of the loopback that the system chose, and its address.
fn server() -> (Server, SocketAddr) {
    let epmd = Epmd {
        port: 0,
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ..Epmd::default()
    };
    let server = Server::bind(&epmd, NodeEntry::new("own", 9000)).expect("a free port");
    let v4 = server.listeners.iter().map(|l| l.local_addr().unwrap());
    let at = v4.clone().find(SocketAddr::is_ipv4).expect("the loopback");
    (server, at)
}

async fn connect(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).await.expect("it listens")
}

async fn send(at: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = connect(at).await;
    let length = (request.len() as u16).to_be_bytes();
    let bytes = [&length[..], request].concat();
    stream.write_all(&bytes).await.expect("it reads");
    stream
}

/// All that comes until the other end closes.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = timeout(Duration::from_secs(15), stream.read_to_end(&mut bytes)).await;
    // Cut off with our own bytes unread, it is an error; an end all the same.
    let _ = end.expect("it is closed");
    bytes
}

fn registration(name: &str) -> Vec<u8> {
    let mut bytes = b"x\x23\x28M\0\0\x06\0\x05".to_vec();
    bytes.extend((name.len() as u16).to_be_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend([0, 0]);
    bytes
}

async fn register(at: SocketAddr, name: &str) -> TcpStream {
    let mut stream = send(at, &registration(name)).await;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer[..2], [118, 0]);
    stream
}

#[tokio::test]
async fn who_says_nothing_or_half_of_it_is_closed_after_a_while_and_who_is_registered_is_not() {
    let (mut server, at) = server();
    server.silence = Duration::from_millis(200);
    tokio::spawn(async move { server.run().await });
    let mut node = register(at, "a").await;
    let began = Instant::now();
    let silent = connect(at).await;
    let mut slow = connect(at).await;
    for byte in [0, 5, 110] {
        slow.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rest(silent).await, b"");
    assert_eq!(rest(slow).await, b"");
    assert!(began.elapsed() >= Duration::from_millis(190));
    let more = timeout(Duration::from_millis(300), node.read(&mut [0])).await;
    assert!(more.is_err(), "the registration was ended: {more:?}");
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let (mut server, at) = server();
    tokio::spawn(async move { server.run().await });
    let mut stream = connect(at).await;
    stream.set_nodelay(true).unwrap();
    for byte in b"\0\x04zown" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(rest(stream).await[..4], [119, 0, 0x23, 0x28]);
}

#[tokio::test]
async fn a_crowd_that_asks_for_nothing_keeps_nobody_out_and_costs_no_registration() {
    let (mut server, at) = server();
    tokio::spawn(async move { server.run().await });
    let node = register(at, "a").await;
    let mut crowd = Vec::new();
    for number in 0..3 * MAX_UNREGISTERED {
        crowd.push(connect(at).await);
        if number % 50 == 0 {
            let names = rest(send(at, b"n").await).await;
            assert!(names.ends_with(b"name a at port 9000\nname own at port 9000\n"));
        }
    }
    let late = register(at, "late").await;
    // The first of them made room.
    assert_eq!(rest(crowd.swap_remove(0)).await, b"");
    let names = rest(send(at, b"n").await).await;
    assert!(String::from_utf8_lossy(&names).contains("name late at port 9000\nname a "));
    drop((node, late));
}

#[tokio::test]
async fn who_does_not_read_the_answer_holds_nothing() {
    let (mut server, at) = server();
    server.unread = Duration::from_millis(200);
    let end = Instant::now() + Duration::from_secs(20);
    {
        // The longest names, so that the answers are as long as they can be.
        let mut table = lock(&server.table);
        for number in 1..512 {
            let request = registration(&format!("{number:0>3}{}", "\u{10000}".repeat(252)));
            assert!(matches!(
                table.answer(number, &request, true),
                Answer::Keep(_)
            ));
        }
        server.last = 512;
    }
    // The system would take the whole answer off our hands, were its buffers not this small.
    for listener in &server.listeners {
        let socket = socket2::SockRef::from(listener);
        socket.set_send_buffer_size(4096).unwrap();
    }
    let mut deaf = Vec::new();
    for _ in 0..5 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(at).await.unwrap();
        stream.write_all(b"\0\x01n").await.unwrap();
        deaf.push(stream);
    }
    while server.last < 517 || !server.connections.is_empty() {
        assert!(
            Instant::now() < end,
            "{} are held",
            server.connections.len()
        );
        let _ = timeout(Duration::from_millis(50), server.run()).await;
    }
    drop(deaf);
}

#[tokio::test]
async fn the_end_frees_the_port_and_tells_who_is_left_alone() {
    let (mut server, at) = server();
    let node = {
        let running = server.run();
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => unreachable!("it runs until it is dropped"),
            node = register(at, "a") => node,
        }
    };
    assert_eq!(server.end().await, ["a"]);
    assert_eq!(rest(node).await, b"");
    assert!(TcpStream::connect(at).await.is_err());
    listen(at).expect("the port is free");
}

#[test]
fn it_listens_where_the_epmd_of_otp_would() {
    for (wanted, expected) in [
        ("", "0.0.0.0! ::"),
        ("127.0.0.1", "127.0.0.1! ::1"),
        ("::1", "127.0.0.1 ::1!"),
        ("10.0.0.5", "127.0.0.1 10.0.0.5! ::1"),
        (
            "10.0.0.5 10.0.0.5 fd00::2",
            "127.0.0.1 10.0.0.5! ::1 fd00::2!",
        ),
        ("0.0.0.0 127.0.0.1 10.0.0.5", "0.0.0.0! ::1"),
        ("::", "127.0.0.1 ::!"),
    ] {
        let wanted: Vec<IpAddr> = wanted
            .split_whitespace()
            .map(|ip| IpAddr::from_str(ip).unwrap())
            .collect();
        let found: Vec<String> = addresses(&wanted)
            .into_iter()
            .map(|(ip, needed)| format!("{ip}{}", if needed { "!" } else { "" }))
            .collect();
        assert_eq!(found.join(" "), expected);
    }
}
