//! A Rust node and a real `erl`, in both directions.

use crate::support::{
    beam::Beam,
    epmd::EpmdServer,
    eventually,
    toy::{self, Event, Toy},
};
use redgrid::dist::{CallError, DownReason, Node};
use redgrid::term::{self, Raw, Term};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A Rust node, `rust`, and an Erlang node, `erl`, that knows it.
async fn pair() -> (EpmdServer, Node, Arc<Toy>, Beam) {
    let epmd = EpmdServer::start();
    let (node, toy) = toy::start(toy::options(&epmd, "rust")).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    (epmd, node, toy, erl)
}

fn list(items: impl Into<Vec<Term>>) -> Raw {
    Raw::encode(&term::list(items))
}

#[tokio::test]
async fn an_erlang_node_sees_a_visible_peer() {
    let (_epmd, node, toy, mut erl) = pair().await;
    assert_eq!(erl.value("nodes()").await, "['rust@127.0.0.1']");
    let peer = node.peer(erl.name()).expect("connected");
    assert!(!peer.hidden);
    assert_eq!(
        erl.value("erlang:system_info(creation)").await,
        peer.creation.to_string()
    );
    assert_eq!(
        toy.events(),
        [Event::Up(erl.name().clone(), peer.connection)]
    );
    assert_eq!(
        erl.value("rpc:call('rust@127.0.0.1', erlang, nodes, [])")
            .await,
        "['erl@127.0.0.1']"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_hidden_node_is_in_nodes_hidden_only() {
    let epmd = EpmdServer::start();
    let mut options = toy::options(&epmd, "rust");
    options.hidden = true;
    let (node, _) = toy::start(options).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    assert_eq!(
        erl.value("{nodes(), nodes(hidden)}").await,
        "{[],['rust@127.0.0.1']}"
    );
    assert!(node.peer(erl.name()).expect("connected").hidden);
    node.stop().await;
}

#[tokio::test]
async fn functions_are_called_from_erlang() {
    let (_epmd, node, _toy, mut erl) = pair().await;
    for (call, expected) in [
        (
            "rpc:call('rust@127.0.0.1', toy, same, [{a, \"b\", <<\"c\">>, 1.5}])",
            "{a,\"b\",<<\"c\">>,1.5}",
        ),
        ("rpc:call('rust@127.0.0.1', toy, slow, [[5]])", "[5]"),
        ("erpc:call('rust@127.0.0.1', toy, slow, [x], 5000)", "x"),
        (
            "rpc:call('rust@127.0.0.1', toy, nosuch, [1, 2])",
            "{badrpc,{'EXIT',{undef,[{toy,nosuch,[1,2],[]}]}}}",
        ),
        (
            "try erpc:call('rust@127.0.0.1', toy, nosuch, []) catch C:R -> {C, R} end",
            "{error,{exception,undef,[{toy,nosuch,[],[]}]}}",
        ),
        (
            "rpc:call('rust@127.0.0.1', toy, error, [why])",
            "{badrpc,{'EXIT',{why,[]}}}",
        ),
        (
            "rpc:call('rust@127.0.0.1', toy, never, [], 100)",
            "{badrpc,timeout}",
        ),
        (
            "rpc:block_call('rust@127.0.0.1', toy, slow, [x], 5000)",
            "x",
        ),
        (
            "rpc:multicall(['rust@127.0.0.1'], toy, same, [x], 5000)",
            "{[x],[]}",
        ),
        (
            "rpc:sbcast(['rust@127.0.0.1'], toy, hi)",
            "{['rust@127.0.0.1'],[]}",
        ),
        (
            "rpc:sbcast(['rust@127.0.0.1'], nosuch, hi)",
            "{[],['rust@127.0.0.1']}",
        ),
        ("rpc:cast('rust@127.0.0.1', toy, same, [x])", "true"),
        (
            "P = spawn('rust@127.0.0.1', toy, never, []), M = monitor(process, P), exit(P, kill), \
             receive {'DOWN', M, process, P, R} -> R after 5000 -> hangs end",
            "killed",
        ),
        (
            "process_flag(trap_exit, true), P = spawn_link('rust@127.0.0.1', toy, never, []), \
             exit(P, shutdown), \
             receive {'EXIT', P, R} -> R after 5000 -> hangs end",
            "shutdown",
        ),
        (
            "{P, M} = spawn_monitor('rust@127.0.0.1', toy, slow, [x]), \
             receive {'DOWN', M, process, P, R} -> R after 5000 -> hangs end",
            "normal",
        ),
    ] {
        assert_eq!(erl.value(call).await, expected, "{call}");
    }
    node.stop().await;
}

#[tokio::test]
async fn processes_are_called_from_erlang() {
    let (_epmd, node, toy, mut erl) = pair().await;
    for (call, expected) in [
        ("gen_server:call({toy, 'rust@127.0.0.1'}, {q, 1})", "{q,1}"),
        ("gen_server:call({toy, 'rust@127.0.0.1'}, slow)", "at_last"),
        (
            "gen_server:multi_call(['rust@127.0.0.1'], toy, q, 5000)",
            "{[{'rust@127.0.0.1',q}],[]}",
        ),
        (
            "gen_server:multi_call(['rust@127.0.0.1'], nosuch, q)",
            "{[],['rust@127.0.0.1']}",
        ),
        (
            "try gen_server:call({toy, 'rust@127.0.0.1'}, error) catch exit:{R, _} -> R end",
            "on_purpose",
        ),
        (
            "try gen_server:call({nosuch, 'rust@127.0.0.1'}, q) catch exit:{R, _} -> R end",
            "noproc",
        ),
        (
            "try gen_server:call({toy, 'rust@127.0.0.1'}, never, 100) catch exit:{R, _} -> R end",
            "timeout",
        ),
        ("gen_server:cast({toy, 'rust@127.0.0.1'}, {c, 1})", "ok"),
        ("{toy, 'rust@127.0.0.1'} ! bare", "bare"),
    ] {
        assert_eq!(erl.value(call).await, expected, "{call}");
    }
    let cast = Raw::encode(&term::tuple([term::atom("c"), term::int(1)]));
    let expected = [
        Event::Cast(cast),
        Event::Info(Raw::encode(&term::atom("bare"))),
    ];
    eventually("both messages arrive, in order", async || {
        toy.events().ends_with(&expected).then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn global_does_not_wait_for_us() {
    let (epmd, node, _toy, mut erl) = pair().await;
    let mut second = Beam::start(&epmd, "second").await;
    assert_eq!(second.value("net_adm:ping('erl@127.0.0.1')").await, "pong");
    assert_eq!(second.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    let start = Instant::now();
    for (call, expected) in [
        ("global:sync()", "ok"),
        ("global:set_lock({resource, self()})", "true"),
        ("global:del_lock({resource, self()})", "true"),
        ("global:register_name(the_name, self())", "yes"),
        (
            "rpc:call('second@127.0.0.1', erlang, is_pid, [global:whereis_name(the_name)])",
            "true",
        ),
        (
            "global:trans({resource, self()}, fun() -> done end)",
            "done",
        ),
        ("net_adm:ping('rust@127.0.0.1')", "pong"),
    ] {
        assert_eq!(erl.value(call).await, expected, "{call}");
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    node.stop().await;
}

#[tokio::test]
async fn functions_are_called_from_rust() {
    let (_epmd, node, _toy, mut erl) = pair().await;
    let call = async |module: &str, function: &str, args: Raw| {
        node.call(erl.name(), module, function, args, PATIENCE)
            .await
    };
    let value = call(
        "lists",
        "reverse",
        list([term::list([term::int(1), term::atom("b")])]),
    );
    assert_eq!(
        value.await.unwrap().decode(),
        Ok(term::list([term::atom("b"), term::int(1)]))
    );
    let printed = call("io", "format", list([term::string("not shown~n")]));
    assert_eq!(printed.await.unwrap().decode(), Ok(term::atom("ok")));
    match call("nosuch", "f", list([term::int(300)])).await {
        Err(CallError::Undefined { stack, .. }) => {
            assert!(stack.view().list().is_some_and(|frames| frames.len() > 0))
        }
        other => panic!("{other:?}"),
    }
    for (class, raised) in [("error", "badarg"), ("exit", "bye"), ("throw", "ball")] {
        let args = list([term::atom(raised)]);
        match call("erlang", class, args).await {
            Err(CallError::Exception {
                class: got, reason, ..
            }) => assert_eq!(
                (got.as_str(), reason.view().as_atom()),
                (class, Some(raised))
            ),
            other => panic!("{class}: {other:?}"),
        }
    }
    let start = Instant::now();
    let slow = node.call(
        erl.name(),
        "timer",
        "sleep",
        list([term::int(5000)]),
        Duration::from_millis(200),
    );
    assert!(matches!(slow.await, Err(CallError::Timeout { .. })));
    assert!(start.elapsed() < Duration::from_secs(2));
    // A connection that broke under the call.
    let broken = node.call(
        erl.name(),
        "erlang",
        "disconnect_node",
        list([term::atom("rust@127.0.0.1")]),
        PATIENCE,
    );
    assert!(matches!(broken.await, Err(CallError::NoConnection { .. })));
    // And one that is made for the call.
    let value = call("erlang", "node", list([])).await.unwrap();
    assert!(value.view().is_atom("erl@127.0.0.1"));
    erl.kill();
    node.stop().await;
}

#[tokio::test]
async fn processes_are_called_from_rust() {
    let (_epmd, node, _toy, mut erl) = pair().await;
    let known = node
        .gen_call(
            erl.name(),
            "global_name_server",
            Raw::encode(&term::atom("get_protocol_version")),
            PATIENCE,
        )
        .await
        .expect("its version");
    assert!(known.view().as_i64().is_some(), "{known:?}");
    match node
        .gen_call(erl.name(), "nosuch", list([]), PATIENCE)
        .await
    {
        Err(CallError::Exit { reason, .. }) => assert!(reason.view().is_atom("noproc")),
        other => panic!("{other:?}"),
    }
    erl.value("register(waiting, self())").await;
    let unanswered = node
        .gen_call(erl.name(), "waiting", list([]), Duration::from_millis(200))
        .await;
    assert!(matches!(unanswered, Err(CallError::Timeout { .. })));
    assert_eq!(
        erl.value(
            "receive {'$gen_call', From, _} -> gen_server:reply(From, too_late) after 5000 -> no end"
        )
        .await,
        "ok"
    );
    let hello = Raw::encode(&term::tuple([term::atom("hello"), term::int(1)]));
    node.send(erl.name(), "waiting", hello).await.unwrap();
    assert_eq!(
        erl.value("receive M -> M after 5000 -> nothing end").await,
        "{hello,1}"
    );
    node.stop().await;
}

#[tokio::test]
async fn both_sides_hear_of_the_end() {
    let (_epmd, node, toy, mut erl) = pair().await;
    erl.value("net_kernel:monitor_nodes(true)").await;
    let monitored = "R = monitor(process, {toy, 'rust@127.0.0.1'}), put(monitor, R), ok";
    assert_eq!(erl.value(monitored).await, "ok");

    node.disconnect(erl.name());
    assert_eq!(
        erl.value("receive {nodedown, N} -> N after 5000 -> hangs end")
            .await,
        "'rust@127.0.0.1'"
    );
    assert_eq!(
        erl.value("receive {'DOWN', _, process, P, R} -> {P, R} after 5000 -> hangs end")
            .await,
        "{{toy,'rust@127.0.0.1'},noconnection}"
    );
    eventually("our own end is told", async || {
        (toy.downs() == [DownReason::Requested]).then_some(())
    })
    .await;

    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    erl.kill();
    eventually("the killed node is gone", async || {
        (toy.downs().len() == 2 && node.peers().is_empty()).then_some(())
    })
    .await;
    assert_eq!(toy.downs()[1], DownReason::Closed);
    node.stop().await;
}

#[tokio::test]
async fn what_is_sent_just_before_the_stop_arrives() {
    let (_epmd, node, _toy, mut erl) = pair().await;
    erl.value("register(waiting, self())").await;
    for n in 0..20 {
        let message = Raw::encode(&term::int(n));
        node.send(erl.name(), "waiting", message).await.unwrap();
    }
    node.stop().await;
    assert_eq!(
        erl.value("[receive N -> ok after 5000 -> lost end || N <- lists:seq(0, 19)]")
            .await,
        format!("[{}]", ["ok"; 20].join(","))
    );
}

#[tokio::test]
async fn a_large_answer_goes_through_in_both_directions() {
    let (_epmd, node, _toy, mut erl) = pair().await;
    let echoed = "X = binary:copy(<<7, 8>>, 16 bsl 20), \
                  X =:= rpc:call('rust@127.0.0.1', toy, same, [X])";
    assert_eq!(erl.value(echoed).await, "true");
    let args = list([term::binary(vec![9; 3]), term::int(8 << 20)]);
    let value = node
        .call(erl.name(), "binary", "copy", args, PATIENCE)
        .await
        .unwrap();
    assert_eq!(value.view().as_binary().map(<[u8]>::len), Some(24 << 20));
    node.stop().await;
}
