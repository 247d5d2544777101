//! The life of nodes in a mesh, and the library from the outside: they find each other, are killed, come back, leave;
//! Redis goes and comes; programs call Erlang and are called from it.

use crate::support::beam::{Beam, COOKIE};
use crate::support::host::Host;
use crate::support::{DEADLINE, eventually};
use redgrid::dist::EpmdMode;
use redgrid::grid::{ChangeKind, GridError};
use redgrid::term::{atom, int, list, tuple};
use redgrid::{Builder, CallError, CallFailure, Change, Exception, Meta, Node, NodeName};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;

// ---------------------------------------------------------------- in the mesh

#[tokio::test]
async fn a_node_that_was_killed_is_back_as_soon_as_it_is_started_again() {
    let host = Host::start();
    let watcher = start(&host, "watcher", |node| node).await;
    let mut erl = host.beam("erl").await;
    register(&host, "erl").await;
    let first = host.node("web@127.0.0.1", &["--meta", "life=1"]).await;
    in_mesh(&watcher, &["erl", "watcher", "web"]).await;
    sees(&mut erl, &["watcher", "web"]).await;
    let web = name("web");
    let creation = watcher.dist().peer(&web).expect("a peer").creation;

    first.kill();
    let second = host.node("web@127.0.0.1", &["--meta", "life=2"]).await;
    eventually("its new life is connected", async || {
        let peer = watcher.dist().peer(&web)?;
        let view = watcher.nodes()?;
        let listed = view.nodes().find(|member| *member.name() == web)?;
        let again = listed.registration.meta.get("life")?.text() == b"2".as_slice();
        (again && peer.creation != creation).then_some(())
    })
    .await;
    sees(&mut erl, &["watcher", "web"]).await;

    // Killed for good it is out of all views at once, though its registration lasts for a minute.
    second.kill();
    in_mesh(&watcher, &["erl", "watcher"]).await;
    sees(&mut erl, &["watcher"]).await;
    let key: i64 = host.redis.cmd(&["EXISTS", "redgrid:::web@127.0.0.1"]).await;
    assert_eq!(key, 1);
    watcher.leave().await;
}

#[tokio::test]
async fn a_mesh_keeps_its_view_and_connections_while_redis_is_away() {
    let mut host = Host::start();
    let a = start(&host, "a", |node| node.meta([("weight", 1)])).await;
    let b = start(&host, "b", |node| node).await;
    in_mesh(&a, &["a", "b"]).await;
    in_mesh(&b, &["a", "b"]).await;

    let connection = a.dist().peer(&name("b")).expect("a peer").connection;

    host.redis.stop();
    eventually("both know that Redis is away", async || {
        let away = |node: &Node| node.nodes().is_some_and(|view| !view.redis());
        (away(&a) && away(&b)).then_some(())
    })
    .await;
    in_mesh(&a, &["a", "b"]).await;
    a.update_meta(Meta::new([("weight", 2)]).unwrap())
        .await
        .unwrap();
    let answer = b.call(&name("a"), "erlang", "node", []).await.unwrap();
    assert_eq!(answer, atom("a@127.0.0.1"));

    // It comes back empty.
    host.redis.restart();
    eventually("both are registered again", async || {
        let weight: Option<String> = host
            .redis
            .cmd(&["HGET", "redgrid:::a@127.0.0.1", "weight"])
            .await;
        let there: i64 = host.redis.cmd(&["EXISTS", "redgrid:::b@127.0.0.1"]).await;
        (weight.as_deref() == Some("2") && there == 1).then_some(())
    })
    .await;
    eventually("the other has heard of the change", async || {
        let view = b.nodes()?;
        let weight = view
            .find(&name("a"))?
            .registration
            .meta
            .get("weight")?
            .text();
        (weight == b"2".as_slice()).then_some(())
    })
    .await;
    let now = a.dist().peer(&name("b")).expect("a peer").connection;
    assert_eq!(now, connection, "it never broke");
    a.leave().await;
    b.leave().await;
}

#[tokio::test]
async fn a_node_that_leaves_is_gone_everywhere() {
    let host = Host::start();
    let stays = start(&host, "stays", |node| node).await;
    let leaves = start(&host, "leaves", |node| node).await;
    in_mesh(&stays, &["leaves", "stays"]).await;
    in_mesh(&leaves, &["leaves", "stays"]).await;
    let mut changes = stays.watch().expect("a mesh");

    leaves.leave().await;
    until(&mut changes, "leaves", |kind| {
        matches!(kind, ChangeKind::Left)
    })
    .await;
    in_mesh(&stays, &["stays"]).await;
    let keys: Vec<String> = host.redis.cmd(&["KEYS", "*leaves*"]).await;
    assert_eq!(keys, [""; 0]);
    let names: Vec<String> = host
        .epmd
        .names()
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["stays"]);
    let refused = leaves.update_meta(Meta::default()).await;
    assert!(matches!(refused, Err(GridError::Stopped)), "{refused:?}");
    let refused = leaves.call(&name("stays"), "erlang", "node", []).await;
    assert!(
        matches!(refused, Err(CallFailure::Call(CallError::Connect(_)))),
        "{refused:?}"
    );
    stays.leave().await;
}

#[tokio::test]
async fn two_scopes_are_two_meshes() {
    let host = Host::start();
    let a = start(&host, "a", |node| node.scope("shop", "1")).await;
    let x = start(&host, "x", |node| node.scope("shop", "2")).await;
    let y = start(&host, "y", |node| node).await;
    let b = start(&host, "b", |node| node.scope("shop", "1")).await;
    let z = start(&host, "z", |node| node.scope("shop", "2")).await;
    in_mesh(&a, &["a", "b"]).await;
    in_mesh(&b, &["a", "b"]).await;
    in_mesh(&x, &["x", "z"]).await;
    in_mesh(&y, &["y"]).await;
    for (node, peers) in [(&a, 1), (&b, 1), (&x, 1), (&z, 1), (&y, 0)] {
        assert_eq!(node.peers().len(), peers, "{:?}", node.peers());
    }
    for node in [a, b, x, y, z] {
        node.leave().await;
    }
}

#[tokio::test]
async fn a_watcher_hears_what_happens_in_the_mesh() {
    let host = Host::start();
    let a = start(&host, "a", |node| node).await;
    let mut changes = a.watch().expect("a mesh");
    let b = start(&host, "b", |node| node).await;
    until(&mut changes, "b", |kind| matches!(kind, ChangeKind::Joined)).await;
    until(&mut changes, "b", |kind| matches!(kind, ChangeKind::Up)).await;
    b.update_meta(Meta::new([("weight", 1)]).unwrap())
        .await
        .unwrap();
    until(&mut changes, "b", |kind| matches!(kind, ChangeKind::Meta)).await;
    b.suspend().await.unwrap();
    until(&mut changes, "b", |kind| {
        matches!(kind, ChangeKind::Suspended)
    })
    .await;
    in_mesh(&a, &["a"]).await;
    assert_eq!(a.peers().len(), 1, "connections stay");
    b.resume().await.unwrap();
    until(&mut changes, "b", |kind| {
        matches!(kind, ChangeKind::Resumed)
    })
    .await;
    b.dist().disconnect(a.name());
    until(&mut changes, "b", |kind| {
        matches!(kind, ChangeKind::Down(_))
    })
    .await;
    b.leave().await;
    a.leave().await;
}

// ---------------------------------------------------------------- calls

#[tokio::test]
async fn a_program_calls_servers_of_erlang_and_many_nodes_at_once() {
    let host = Host::start();
    let node = start(&host, "rust", |node| node).await;
    let mut erl = host.beam("erl").await;
    let server = "register(stock, spawn(fun() -> Loop = fun(Loop, N) -> receive
            {'$gen_call', From, count} -> gen:reply(From, N), Loop(Loop, N);
            {'$gen_cast', {add, M}} -> Loop(Loop, N + M)
        end end, Loop(Loop, 0) end)), ok";
    assert_eq!(erl.value(server).await, "ok");
    let peer = erl.name().clone();
    let add = tuple([atom("add"), int(41)]);
    node.gen_cast(&peer, "stock", &add).await.expect("sent");
    let count = node.gen_call(&peer, "stock", &atom("count")).await;
    assert_eq!(count.expect("an answer"), int(41));
    let nobody = node.gen_call(&peer, "nobody", &atom("count")).await;
    assert!(
        matches!(&nobody, Err(CallFailure::Call(CallError::Exit { reason, .. })) if reason.view().is_atom("noproc")),
        "{nobody:?}"
    );

    let nowhere: NodeName = "nowhere@127.0.0.1".parse().expect("a name");
    let answers = node
        .multicall(DEADLINE, [nowhere, peer.clone()], "erlang", "node", &[])
        .await;
    assert!(answers[0].1.is_err(), "{answers:?}");
    assert_eq!(answers[1].0, peer);
    let name = answers[1].1.as_ref().expect("an answer");
    assert_eq!(*name, atom(peer.as_str()));
    node.leave().await;
}

#[tokio::test]
async fn what_a_program_exports_is_called_from_erlang() {
    let host = Host::start();
    let node = start(&host, "rust", |node| node).await;
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = dropped.clone();
    node.export("shop", move |call| {
        let guard = Dropped(counter.clone());
        async move {
            let _guard = guard;
            match (call.function.as_str(), call.args.as_slice()) {
                ("double", [n]) => match redgrid::term::as_i64(n) {
                    Some(n) => Ok(int(2 * n)),
                    None => Err(Exception::error("badarg")),
                },
                ("same", [term]) => Ok(term.clone()),
                ("unsendable", []) => Ok(atom("x".repeat(300))),
                ("panics", []) => panic!("on purpose"),
                ("exits", [reason]) => Err(Exception::Exit(reason.clone())),
                ("throws", [value]) => Err(Exception::Throw(value.clone())),
                ("never", []) => std::future::pending().await,
                _ => Err(Exception::Undefined),
            }
        }
    });
    let mut erl = host.beam("erl").await;
    for (call, answer) in [
        ("rpc:call(R, shop, double, [21])", "42"),
        ("erpc:call(R, shop, double, [-21])", "-42"),
        (
            "rpc:call(R, shop, same, [#{a => [1.5, <<1,2>>, self()]}]) =:= #{a => [1.5, <<1,2>>, self()]}",
            "true",
        ),
        ("element(1, rpc:call(R, shop, double, [1, 2]))", "badrpc"),
        (
            "{badrpc, {'EXIT', {undef, [{shop, double, [1, 2], []} | _]}}} = rpc:call(R, shop, double, [1, 2]), ok",
            "ok",
        ),
        (
            "{badrpc, {'EXIT', {undef, [{other, f, [], []} | _]}}} = rpc:call(R, other, f, []), ok",
            "ok",
        ),
        (
            "{badrpc, {'EXIT', {badarg, _}}} = rpc:call(R, shop, double, [x]), ok",
            "ok",
        ),
        (
            "{badrpc, {'EXIT', {function_panicked, _}}} = rpc:call(R, shop, panics, []), ok",
            "ok",
        ),
        (
            "{badrpc, {'EXIT', _}} = rpc:call(R, shop, unsendable, []), ok",
            "ok",
        ),
        (
            "try erpc:call(R, shop, double, [x]) catch error:{exception, badarg, _} -> ok end",
            "ok",
        ),
        (
            "try erpc:call(R, shop, none, []) catch error:{exception, undef, [{shop, none, [], []} | _]} -> ok end",
            "ok",
        ),
        // The three classes, as a function of Erlang's raises them.
        ("rpc:call(R, shop, throws, [ball])", "ball"),
        ("rpc:call(R, shop, exits, [left])", "{badrpc,{'EXIT',left}}"),
        ("rpc:block_call(R, shop, throws, [ball])", "ball"),
        (
            "rpc:block_call(R, shop, exits, [left])",
            "{badrpc,{'EXIT',left}}",
        ),
        (
            "try erpc:call(R, shop, throws, [ball]) catch throw:ball -> ok end",
            "ok",
        ),
        (
            "try erpc:call(R, shop, exits, [left]) catch exit:{exception, left} -> ok end",
            "ok",
        ),
        (
            "{_, M} = spawn_monitor(R, shop, throws, [ball]), receive {'DOWN', M, _, _, {{nocatch, ball}, _}} -> ok end",
            "ok",
        ),
        (
            "{_, M} = spawn_monitor(R, shop, exits, [left]), receive {'DOWN', M, _, _, left} -> ok end",
            "ok",
        ),
        // A fun that names an exported function runs; one with code of its own cannot.
        ("erpc:call(R, fun erlang:node/0)", "'rust@127.0.0.1'"),
        ("rpc:call(R, erlang, apply, [fun shop:double/1, [4]])", "8"),
        ("rpc:call(R, erlang, apply, [shop, double, [5]])", "10"),
        (
            "F = fun() -> 1 end, try erpc:call(R, F) catch error:{exception, {badfun, F}, _} -> ok end",
            "ok",
        ),
        (
            "F = fun() -> 1 end, {_, M} = spawn_monitor(R, F), receive {'DOWN', M, _, _, {{badfun, F}, _}} -> ok end",
            "ok",
        ),
        ("rpc:call(R, shop, double, [1])", "2"),
    ] {
        let value = erl.value(&format!("R = 'rust@127.0.0.1', {call}")).await;
        assert_eq!(value, answer, "{call}");
    }

    // Whoever goes away is not worked for any more: by a timeout, or by dying.
    let before = dropped.load(Ordering::Relaxed);
    let late = "try erpc:call('rust@127.0.0.1', shop, never, [], 100) catch error:{erpc, timeout} -> late end";
    assert_eq!(erl.value(late).await, "late");
    let dies = "P = spawn(fun() -> rpc:call('rust@127.0.0.1', shop, never, []) end), timer:sleep(100), exit(P, kill)";
    assert_eq!(erl.value(dies).await, "true");
    eventually("both functions are dropped where they wait", async || {
        (dropped.load(Ordering::Relaxed) == before + 2).then_some(())
    })
    .await;
    assert_eq!(
        erl.value("rpc:call('rust@127.0.0.1', shop, double, [3])")
            .await,
        "6"
    );
    node.leave().await;
}

#[tokio::test]
async fn a_program_calls_erlang_and_sends_to_it() {
    let host = Host::start();
    let node = start(&host, "rust", |node| node).await;
    let mut erl = host.beam("erl").await;
    let there = name("erl");
    let sum = node
        .call(&there, "lists", "sum", [list([int(1), int(2)])])
        .await;
    assert_eq!(sum.unwrap(), int(3));

    let refused = node.call(&there, "lists", "no_such", []).await;
    assert!(
        matches!(refused, Err(CallFailure::Call(CallError::Undefined { .. }))),
        "{refused:?}"
    );
    let raised = node
        .call(&there, "erlang", "error", [atom("on_purpose")])
        .await;
    let text = raised.unwrap_err().to_string();
    assert!(
        text.contains("on_purpose") && text.contains("erl@127.0.0.1"),
        "{text}"
    );
    let late = node
        .call_within(
            Duration::from_millis(100),
            &there,
            "timer",
            "sleep",
            [int(10_000)],
        )
        .await;
    assert!(
        matches!(late, Err(CallFailure::Call(CallError::Timeout { .. }))),
        "{late:?}"
    );
    let nobody = node.call(&name("nobody"), "erlang", "node", []).await;
    let text = nobody.unwrap_err().to_string();
    assert!(text.contains("nobody@127.0.0.1 is not running"), "{text}");
    let bad = node
        .call(&there, "erlang", "hd", [atom("x".repeat(300))])
        .await;
    assert!(matches!(bad, Err(CallFailure::Argument(_))), "{bad:?}");

    let register = "S = self(), spawn(fun() -> register(box, self()), S ! up, receive M -> S ! {got, M} end end), receive up -> ok end";
    assert_eq!(erl.value(register).await, "ok");
    node.send(&there, "box", &tuple([atom("hello"), int(1)]))
        .await
        .unwrap();
    assert_eq!(
        erl.value("receive {got, M} -> M after 5000 -> nothing end")
            .await,
        "{hello,1}"
    );
    node.leave().await;
}

/// Counts how often it was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn name(short: &str) -> NodeName {
    format!("{short}@127.0.0.1").parse().expect("a node name")
}

async fn start(host: &Host, short: &str, settings: impl FnOnce(Builder) -> Builder) -> Node {
    let builder = Node::builder(name(short))
        .cookie(COOKIE)
        .redis(host.redis.url())
        .epmd(host.epmd.address())
        .epmd_mode(EpmdMode::External);
    settings(builder).start().await.expect("a node starts")
}

/// Registers an Erlang node in Redis, as its library would.
async fn register(host: &Host, short: &str) {
    let key = format!("redgrid:::{short}@127.0.0.1");
    let _: i64 = host.redis.cmd(&["HSET", &key, "ip", "127.0.0.1"]).await;
    let _: i64 = host.redis.cmd(&["EXPIRE", &key, "60"]).await;
    let _: i64 = host.redis.cmd(&["PUBLISH", "redgrid::", &key]).await;
}

/// Waits until exactly these are in a node's view, all others connected.
async fn in_mesh(node: &Node, short: &[&str]) {
    let wanted: BTreeSet<NodeName> = short.iter().map(|short| name(short)).collect();
    eventually(
        &format!("{} has {short:?} in its view", node.name()),
        async || {
            let view = node.nodes()?;
            let listed: BTreeSet<NodeName> =
                view.nodes().map(|member| member.name().clone()).collect();
            let connected = node.peers().len() >= wanted.len() - 1;
            (listed == wanted && connected).then_some(())
        },
    )
    .await;
}

/// Waits until `nodes()` of an Erlang node are exactly these.
async fn sees(erl: &mut Beam, short: &[&str]) {
    let wanted: Vec<String> = short
        .iter()
        .map(|short| format!("'{short}@127.0.0.1'"))
        .collect();
    let wanted = format!("[{}]", wanted.join(","));
    eventually(&format!("erl has {wanted}"), async || {
        (erl.value("lists:sort(nodes())").await == wanted).then_some(())
    })
    .await;
}

/// Waits for a change of a node; others may come before it.
async fn until(changes: &mut Receiver<Change>, short: &str, wanted: impl Fn(&ChangeKind) -> bool) {
    let heard = async {
        loop {
            let change = changes.recv().await.expect("a node that lives");
            if change.node == name(short) && wanted(&change.kind) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, heard)
        .await
        .expect("the change is heard");
}
