//! Rust nodes among themselves and at a real `epmd`: who connects, once, and what ends.

use crate::support::{
    epmd::EpmdServer,
    eventually,
    log::Log,
    toy::{self, Event, Toy},
};
use redgrid::dist::{
    Address, ConnectError, Cookie, DownReason, EpmdMode, EpmdStartError, Node, NodeName, StartError,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn at(node: &Node) -> Address {
    Address {
        ip: Ipv4Addr::LOCALHOST.into(),
        port: Some(node.port()),
    }
}

/// A node that is found by its port.
async fn unregistered(name: &str) -> (Node, Arc<Toy>) {
    let epmd = EpmdServer::absent();
    let mut options = toy::options(&epmd, name);
    options.epmd_mode = EpmdMode::Unregistered;
    toy::start(options).await
}

async fn gone(node: &Node, peer: &NodeName) {
    eventually("the peer is gone", async || {
        node.peer(peer).is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_connects_in_both_directions_exactly_one_survives_and_both_agree() {
    let ((a, at_a), (b, at_b)) = (unregistered("a").await, unregistered("b").await);
    for round in 1..=50 {
        let (to_b, to_a) = tokio::join!(a.connect(b.name(), at(&b)), b.connect(a.name(), at(&a)));
        let (to_b, to_a) = (to_b.expect("connected"), to_a.expect("connected"));
        assert_eq!(
            a.peer(b.name()).map(|peer| peer.connection),
            Some(to_b.connection)
        );
        assert_eq!(
            b.peer(a.name()).map(|peer| peer.connection),
            Some(to_a.connection)
        );
        // Neither saw a connection come and go beside the one.
        for toy in [&at_a, &at_b] {
            let ups = toy.events().into_iter();
            let ups = ups.filter(|event| matches!(event, Event::Up(..))).count();
            let at_last: Vec<_> = toy.events().into_iter().skip(2 * round - 2).collect();
            assert_eq!(
                (ups, toy.downs().len()),
                (round, round - 1),
                "{at_last:?}, a has {to_b:?}, b has {to_a:?}"
            );
        }
        a.disconnect(b.name());
        gone(&a, b.name()).await;
        gone(&b, a.name()).await;
    }
    assert_eq!(at_a.downs(), vec![DownReason::Requested; 50]);
    assert_eq!(at_b.downs(), vec![DownReason::Closed; 50]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn many_callers_make_one_attempt() {
    let ((a, at_a), (b, at_b)) = (unregistered("a").await, unregistered("b").await);
    let attempts: Vec<_> = (0..100)
        .map(|_| {
            let (a, b) = (a.clone(), b.clone());
            tokio::spawn(async move { a.connect(b.name(), at(&b)).await })
        })
        .collect();
    let mut connections = Vec::new();
    for attempt in attempts {
        connections.push(attempt.await.unwrap().expect("connected").connection);
    }
    connections.dedup();
    assert_eq!(connections.len(), 1);
    assert_eq!((at_a.events().len(), at_b.events().len()), (1, 1));
    // Connected already: the same answer, at once.
    let again = a.connect(b.name(), at(&b)).await.expect("connected");
    assert_eq!(again.connection, connections[0]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn many_callers_of_a_failed_attempt_all_hear_why() {
    let (a, _) = unregistered("a").await;
    let nobody: NodeName = "nobody@127.0.0.1".parse().unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address {
        ip: Ipv4Addr::LOCALHOST.into(),
        port: Some(closed.local_addr().unwrap().port()),
    };
    drop(closed);
    let both = tokio::join!(a.connect(&nobody, address), a.connect(&nobody, address));
    for result in [both.0, both.1] {
        assert!(matches!(result, Err(ConnectError::Io { .. })), "{result:?}");
    }
    assert!(matches!(
        a.connect(a.name(), at(&a)).await,
        Err(ConnectError::Itself(_))
    ));
    a.stop().await;
}

/// A peer that says `nok` is dialling us, and its connection is waited for; but it must not be waited for in vain.
#[tokio::test]
async fn a_caller_whose_dial_gave_way_to_nothing_is_told_soon() {
    let (a, _) = unregistered("a").await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address {
        ip: Ipv4Addr::LOCALHOST.into(),
        port: Some(listener.local_addr().unwrap().port()),
    };
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut name = vec![0; usize::from(length)];
        stream.read_exact(&mut name).await.unwrap();
        stream.write_all(b"\0\x04snok").await.unwrap();
    });
    let start = Instant::now();
    let result = a.connect(&"b@127.0.0.1".parse().unwrap(), address).await;
    assert!(
        matches!(result, Err(ConnectError::Handshake { .. })),
        "{result:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    peer.await.unwrap();
    a.stop().await;
}

#[tokio::test]
async fn stop_ends_everything() {
    let epmd = EpmdServer::start();
    let (a, at_a) = toy::start(toy::options(&epmd, "a")).await;
    let (b, at_b) = toy::start(toy::options(&epmd, "b")).await;
    a.connect(b.name(), at(&b)).await.expect("connected");
    let port = a.port();
    a.stop().await;

    assert_eq!(at_a.downs(), [DownReason::Stopping]);
    assert!(a.peers().is_empty());
    gone(&b, a.name()).await;
    assert_eq!(at_b.downs(), [DownReason::Closed]);
    assert!(matches!(
        a.connect(b.name(), at(&b)).await,
        Err(ConnectError::Stopped)
    ));
    eventually("the name is free", async || {
        (epmd.names().await == [("b".to_owned(), b.port())]).then_some(())
    })
    .await;
    eventually("the port is free", async || {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok()
    })
    .await;
    b.stop().await;
}

#[tokio::test]
async fn a_wrong_cookie_is_said_on_both_sides() {
    let (log, _guard) = Log::collect();
    let epmd = EpmdServer::absent();
    let (b, _) = unregistered("b").await;
    let mut options = toy::options(&epmd, "a");
    options.epmd_mode = EpmdMode::Unregistered;
    options.cookie = Cookie::new("not_the_cookie").unwrap();
    let (a, _) = toy::start(options).await;

    let error = a.connect(b.name(), at(&b)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }));
    let error = error.to_string();
    assert!(
        error.contains("b@127.0.0.1") && error.contains("cookie"),
        "{error}"
    );
    let line = eventually("the refusal is logged", async || {
        log.lines("a@127.0.0.1").pop()
    })
    .await;
    assert!(line.contains("--cookie"), "{line}");
    assert!(!line.contains("not_the_cookie") && !error.contains("not_the_cookie"));
    assert!(a.peers().is_empty() && b.peers().is_empty());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_with_the_port_of_the_other() {
    let epmd = EpmdServer::start();
    let (first, _) = toy::start(toy::options(&epmd, "one")).await;
    let second = Node::start(toy::options(&epmd, "one"), Arc::new(Toy::default())).await;
    match second.err() {
        Some(StartError::Epmd(EpmdStartError::Taken { short, port, .. })) => {
            assert_eq!((short.as_str(), port), ("one", Some(first.port())));
        }
        other => panic!("{other:?}"),
    }
    first.stop().await;
}

#[tokio::test]
async fn a_node_registers_again_with_an_epmd_that_was_restarted() {
    let mut epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "one")).await;
    let creation = node.creation();
    epmd.restart();
    eventually("registered again", async || {
        (epmd.names().await == [("one".to_owned(), node.port())]).then_some(())
    })
    .await;
    let (other, _) = toy::start(toy::options(&epmd, "two")).await;
    let by_epmd = Address {
        port: None,
        ..at(&node)
    };
    let peer = other
        .connect(node.name(), by_epmd)
        .await
        .expect("connected");
    assert_eq!((peer.creation, node.creation()), (creation, creation));
    other.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_epmd_does_not_know_is_said_to_be_so() {
    let epmd = EpmdServer::start();
    let (a, _) = toy::start(toy::options(&epmd, "a")).await;
    let by_epmd = Address {
        port: None,
        ..at(&a)
    };
    let error = a
        .connect(&"nobody@127.0.0.1".parse().unwrap(), by_epmd)
        .await;
    assert!(
        matches!(error, Err(ConnectError::NotRegistered { .. })),
        "{error:?}"
    );
    a.stop().await;
}
