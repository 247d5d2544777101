//! Nodes find each other through a real Redis, and nothing that anyone writes there hurts them.

use crate::support::{DEADLINE, eventually, log::Log, redis::Redis};
use futures_util::future::BoxFuture;
use redgrid::dist::{
    Address, Answer, CallError, ConnectError, DownReason, NodeName, PeerInfo, Service,
};
use redgrid::grid::{self, Dialling, Grid, GridError, Meta, MetaValue, Options, Peers, Scope};
use redgrid::term::{Raw, Term, atom, binary, int, list, string, tuple};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A network without sockets: nodes that are in it can be connected.
#[derive(Clone, Default)]
struct Net(Arc<NetState>);

#[derive(Default)]
struct NetState {
    grids: Mutex<HashMap<NodeName, (Grid, u32)>>,
    connections: Mutex<BTreeMap<(NodeName, NodeName), u64>>,
    last: AtomicU64,
}

/// A toy node.
struct Toy {
    net: Net,
    name: NodeName,
    creation: u32,
    answers_for_us: bool,
}

impl Net {
    fn peer(&self, name: &NodeName, connection: u64) -> PeerInfo {
        let creation = self
            .0
            .grids
            .lock()
            .unwrap()
            .get(name)
            .map_or(0, |(_, creation)| *creation);
        PeerInfo {
            name: name.clone(),
            creation,
            hidden: false,
            connection,
            since: SystemTime::now(),
        }
    }

    fn connect(&self, a: &NodeName, b: &NodeName) -> bool {
        let find = |name| {
            self.0
                .grids
                .lock()
                .unwrap()
                .get(name)
                .map(|(grid, _)| grid.clone())
        };
        let (Some(of_a), Some(of_b)) = (find(a), find(b)) else {
            return false;
        };
        let pair = if a < b {
            (a.clone(), b.clone())
        } else {
            (b.clone(), a.clone())
        };
        let connection = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0.connections.lock().unwrap().contains_key(&pair) {
            return true;
        }
        self.0.connections.lock().unwrap().insert(pair, connection);
        of_a.peer_up(&self.peer(b, connection));
        of_b.peer_up(&self.peer(a, connection));
        true
    }

    /// Breaks all connections of a node.
    fn cut(&self, name: &NodeName) {
        let cut: Vec<_> = {
            let mut connections = self.0.connections.lock().unwrap();
            let cut = connections
                .iter()
                .filter(|((a, b), _)| a == name || b == name);
            let cut: Vec<_> = cut.map(|(pair, id)| (pair.clone(), *id)).collect();
            for (pair, _) in &cut {
                connections.remove(pair);
            }
            cut
        };
        for ((a, b), id) in cut {
            for (one, other) in [(&a, &b), (&b, &a)] {
                let grid = self
                    .0
                    .grids
                    .lock()
                    .unwrap()
                    .get(one)
                    .map(|(grid, _)| grid.clone());
                if let Some(grid) = grid {
                    grid.peer_down(&self.peer(other, id), &DownReason::Closed);
                }
            }
        }
    }
}

impl Peers for Toy {
    fn creation(&self) -> u32 {
        self.creation
    }

    fn port(&self) -> Option<u16> {
        Some(4000)
    }

    fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }

    fn connect(&self, peer: NodeName, at: Address) -> BoxFuture<'static, Result<(), ConnectError>> {
        let (net, own) = (self.net.clone(), self.name.clone());
        Box::pin(async move {
            match net.connect(&own, &peer) {
                true => Ok(()),
                false => Err(ConnectError::Io {
                    node: peer,
                    at: (at.ip, at.port.unwrap_or(4369)).into(),
                    why: "connection refused".into(),
                }),
            }
        })
    }

    fn call(
        &self,
        process: Raw,
        _: Raw,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Raw, CallError>> {
        let node = self.name.clone();
        Box::pin(async move {
            match process.view().as_atom() {
                Some(_) => Err(CallError::Exit {
                    node,
                    reason: Raw::encode(&atom("noproc")),
                }),
                None => Err(CallError::Timeout {
                    node,
                    after: timeout,
                }),
            }
        })
    }

    fn answers_as(&self, _: NodeName, _: Address) -> BoxFuture<'static, bool> {
        let answers = self.answers_for_us;
        Box::pin(async move { answers })
    }
}

/// A node in the mesh.
struct Node {
    grid: Grid,
    name: NodeName,
    net: Net,
    stop: Option<oneshot::Sender<()>>,
    driver: JoinHandle<Result<(), GridError>>,
}

impl Node {
    /// Leaves as on SIGTERM.
    async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.driver).await.unwrap().unwrap();
        self.kill();
    }

    /// Dies as on SIGKILL: nothing is deleted.
    fn kill(self) {
        self.driver.abort();
        self.net.cut(&self.name);
        self.net.0.grids.lock().unwrap().remove(&self.name);
    }

    fn listed(&self) -> Vec<String> {
        self.grid
            .nodes()
            .nodes()
            .map(|member| member.name().to_string())
            .collect()
    }

    async fn sees(&self, nodes: &[&str]) {
        let what = format!("{} sees {nodes:?}", self.name);
        eventually(&what, async || (self.listed() == nodes).then_some(())).await;
    }

    fn nodes(&self, options: &[&str]) -> Term {
        let options = list(options.iter().map(|text| atom(*text)).collect::<Vec<_>>());
        let request = tuple(vec![atom("nodes"), options]);
        reply(self.grid.call("redgrid", &Raw::encode(&request)))
    }
}

fn reply(answer: Answer) -> Term {
    match answer {
        Answer::Reply(raw) => raw.decode().unwrap(),
        Answer::Error(raw) => tuple(vec![atom("error"), raw.decode().unwrap()]),
        Answer::Exit(raw) => tuple(vec![atom("exit"), raw.decode().unwrap()]),
        Answer::Throw(raw) => tuple(vec![atom("throw"), raw.decode().unwrap()]),
        Answer::Undef => atom("undef"),
        Answer::Later(_) => atom("later"),
    }
}

async fn awaited(answer: Answer) -> Term {
    match answer {
        Answer::Later(later) => reply(later.await),
        answer => reply(answer),
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn options(redis: &Redis, node: &str) -> Options {
    Options::new(name(node), "127.0.0.1".parse().unwrap(), redis.url())
}

fn start_with(net: &Net, options: Options, creation: u32) -> Node {
    start_toy(net, options, creation, false)
}

fn start_toy(net: &Net, options: Options, creation: u32, answers_for_us: bool) -> Node {
    let name = options.name.clone();
    let (grid, driver) = Grid::new(options).unwrap();
    net.0
        .grids
        .lock()
        .unwrap()
        .insert(name.clone(), (grid.clone(), creation));
    let toy = Toy {
        net: net.clone(),
        name: name.clone(),
        creation,
        answers_for_us,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let driver = tokio::spawn(driver.run(toy, async move {
        let _ = stopped.await;
    }));
    Node {
        grid,
        name,
        net: net.clone(),
        stop: Some(stop),
        driver,
    }
}

fn start(net: &Net, redis: &Redis, node: &str) -> Node {
    static CREATION: AtomicU64 = AtomicU64::new(100);
    let creation = CREATION.fetch_add(1, Ordering::Relaxed) as u32;
    start_with(net, options(redis, node), creation)
}

const A: &str = "a@127.0.0.1";
const B: &str = "b@127.0.0.1";
const C: &str = "c@127.0.0.1";

#[tokio::test]
async fn nodes_find_each_other_and_their_meta_with_its_types() {
    let (redis, net) = (Redis::start(), Net::default());
    let (a, b) = (start(&net, &redis, A), start(&net, &redis, B));
    a.sees(&[A, B]).await;
    b.sees(&[B, A]).await;
    let meta = [
        ("weight", MetaValue::Integer(0)),
        ("lang", MetaValue::Atom("rust".into())),
    ];
    a.grid.update_meta(Meta::new(meta).unwrap()).await.unwrap();
    let member = |node: &str, pairs: Vec<Term>| tuple(vec![atom(node), list(pairs)]);
    let pair = |key, value| tuple(vec![key, value]);
    let native = list(vec![
        member(B, vec![pair(atom("ip"), string("127.0.0.1"))]),
        member(
            A,
            vec![
                pair(atom("ip"), string("127.0.0.1")),
                pair(atom("weight"), int(0)),
                pair(atom("lang"), atom("rust")),
            ],
        ),
    ]);
    eventually("the types arrive", async || {
        (b.nodes(&["native"]) == native).then_some(())
    })
    .await;
    let plain = member(
        A,
        vec![
            pair(binary("ip"), binary("127.0.0.1")),
            pair(binary("weight"), binary("0")),
            pair(binary("lang"), binary("rust")),
        ],
    );
    let Term::List(nodes) = b.nodes(&[]) else {
        panic!("no list")
    };
    assert_eq!(nodes.elements[1], plain);
    // Replaced, not merged.
    a.grid
        .update_meta(Meta::new([("zone", "x")]).unwrap())
        .await
        .unwrap();
    let keys = async || {
        let hash: BTreeMap<String, String> = redis.cmd(&["HGETALL", "redgrid:::a@127.0.0.1"]).await;
        (hash.into_keys().collect::<Vec<_>>() == ["ip", "zone"]).then_some(())
    };
    eventually("the classic hash holds ip and the new meta only", keys).await;
}

#[tokio::test]
async fn what_stands_in_redis_is_what_the_contract_says() {
    let (redis, net) = (Redis::start(), Net::default());
    let mut options = options(&redis, A);
    options.scope = Scope::new("logs", "2");
    options.meta = Meta::new([("weight", 7)]).unwrap();
    let a = start_with(&net, options, 77);
    let joined = tokio::time::timeout(DEADLINE, a.grid.joined()).await;
    assert!(joined.is_ok(), "a lone node is told that it is registered");
    let key = "redgrid:logs:2:a@127.0.0.1";
    eventually("a is registered", async || {
        redis.cmd::<bool>(&["EXISTS", key]).await.then_some(())
    })
    .await;
    let classic: BTreeMap<String, String> = redis.cmd(&["HGETALL", key]).await;
    let expected = [("ip", "127.0.0.1"), ("weight", "7")];
    assert_eq!(classic, expected.map(|(k, v)| (k.into(), v.into())).into());
    let info_key = "redgrid.info:logs:2:a@127.0.0.1";
    let mut info: BTreeMap<String, Vec<u8>> = redis.cmd(&["HGETALL", info_key]).await;
    assert!(info.remove("started_at").is_some());
    assert_eq!(info.remove("meta").unwrap()[0], 131);
    let info: Vec<_> = info
        .into_iter()
        .map(|(k, v)| (k, String::from_utf8(v).unwrap()))
        .collect();
    let implementation = concat!("redgrid ", env!("CARGO_PKG_VERSION"));
    let expected = [
        ("creation", "77"),
        ("hidden", "false"),
        ("impl", implementation),
        ("port", "4000"),
        ("proto", "tcp"),
        ("status", "up"),
        ("v", "1"),
    ];
    assert_eq!(info, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    for key in [key, info_key] {
        let left: i64 = redis.cmd(&["PTTL", key]).await;
        assert!((50_000..=60_000).contains(&left), "{key} lives {left} ms");
    }
    let score: i64 = redis.cmd(&["ZSCORE", "redgrid.index:logs:2", A]).await;
    let (seconds, _): (i64, i64) = redis.cmd(&["TIME"]).await;
    assert!(
        (score - (seconds + 60) * 1000).abs() < 10_000,
        "score {score}"
    );
    a.stop().await;
    let keys: Vec<String> = redis.cmd(&["KEYS", "redgrid*"]).await;
    let left: Vec<_> = keys
        .iter()
        .filter(|key| !key.starts_with("redgrid.scan"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[tokio::test]
async fn classic_members_are_found_by_scan_on_joining_and_by_their_published_key_later() {
    let (redis, net) = (Redis::start(), Net::default());
    redis
        .cmd::<()>(&[
            "HSET",
            "redgrid:::old@10.0.0.7",
            "ip",
            "10.0.0.7",
            "zone",
            "x",
        ])
        .await;
    redis
        .cmd::<()>(&["HSET", "redgrid::2:other@10.0.0.8", "ip", "10.0.0.8"])
        .await;
    let mut options = options(&redis, A);
    options.dialling = Dialling {
        connect: grid::Connect::None,
        ..Dialling::default()
    };
    let a = start_with(&net, options, 1);
    a.sees(&[A, "old@10.0.0.7"]).await;
    let url = "redis://u:hush@h:6379/";
    redis
        .cmd::<()>(&[
            "HSET",
            "redgrid:::new@10.0.0.9",
            "ip",
            "10.0.0.9",
            "redis_url",
            url,
        ])
        .await;
    redis
        .cmd::<()>(&["PUBLISH", "redgrid::", "redgrid:::new@10.0.0.9"])
        .await;
    a.sees(&[A, "new@10.0.0.9", "old@10.0.0.7"]).await;
    let shown = a.nodes(&["native"]);
    let text = format!("{shown:?}");
    assert!(!text.contains("hush"), "{text}");
    // Nobody proved a cookie: no atoms but ip and the names.
    let expected = tuple(vec![binary("zone"), binary("x")]);
    let Term::List(nodes) = shown else {
        panic!("{text}")
    };
    let old = tuple(vec![
        atom("old@10.0.0.7"),
        list(vec![tuple(vec![atom("ip"), string("10.0.0.7")]), expected]),
    ]);
    assert_eq!(nodes.elements[2], old);
}

#[tokio::test]
async fn a_broken_connection_takes_its_node_out_of_the_view_at_once() {
    let (redis, net) = (Redis::start(), Net::default());
    let (a, b) = (start(&net, &redis, A), start(&net, &redis, B));
    a.sees(&[A, B]).await;
    eventually("they connect", async || {
        a.grid.nodes().find(&name(B))?.connected.map(drop)
    })
    .await;
    b.kill();
    assert_eq!(
        a.listed(),
        [A],
        "no waiting: the view is right when the break is told"
    );
    let key: bool = redis.cmd(&["EXISTS", "redgrid:::b@127.0.0.1"]).await;
    assert!(key, "its key is still there");
    // The next life is in the mesh again, not locked out by its own old key.
    let b = start(&net, &redis, B);
    a.sees(&[A, B]).await;
    b.sees(&[B, A]).await;
}

#[tokio::test]
async fn a_node_whose_name_is_answered_for_elsewhere_does_not_start() {
    let (redis, net) = (Redis::start(), Net::default());
    let first = start_with(&net, options(&redis, A), 1);
    let registered = async || {
        redis
            .cmd::<bool>(&["EXISTS", "redgrid:::a@127.0.0.1"])
            .await
            .then_some(())
    };
    eventually("a is registered", registered).await;
    let mut second = options(&redis, A);
    second.ip = "127.0.0.2".parse().unwrap();
    let second = start_toy(&Net::default(), second, 2, true);
    let Err(GridError::NameTaken(why)) = second.driver.await.unwrap() else {
        panic!("it started")
    };
    assert!(why.contains(A) && why.contains("--name"), "{why}");
    let creation: u32 = redis
        .cmd(&["HGET", "redgrid.info:::a@127.0.0.1", "creation"])
        .await;
    assert_eq!(creation, 1);
    drop(first);
}

#[tokio::test]
async fn an_outage_of_redis_costs_neither_the_node_nor_its_view() {
    let net = Net::default();
    let mut redis = Redis::stopped();
    let (log, _guard) = Log::collect();
    let a = start(&net, &redis, A);
    eventually("it is told", async || {
        (!log.lines("cannot be reached").is_empty()).then_some(())
    })
    .await;
    assert_eq!(a.listed(), [A]);
    redis.restart();
    let b = start(&net, &redis, B);
    a.sees(&[A, B]).await;
    redis.stop();
    eventually("it is noticed", async || {
        (!a.grid.nodes().redis()).then_some(())
    })
    .await;
    a.sees(&[A, B]).await;
    // Changes are taken meanwhile, and told when Redis is back, empty.
    a.grid
        .update_meta(Meta::new([("n", 5)]).unwrap())
        .await
        .unwrap();
    redis.restart();
    eventually("b hears of it", async || {
        b.grid
            .nodes()
            .find(&name(A))?
            .registration
            .meta
            .get("n")
            .map(drop)
    })
    .await;
    b.sees(&[B, A]).await;
    let lines = log.lines("cannot be reached");
    assert!(
        lines.len() <= 6,
        "once per change, not per attempt: {lines:#?}"
    );
}

#[tokio::test]
async fn leaving_takes_two_seconds_at_most_whatever_redis_does() {
    let (redis, net) = (Redis::start(), Net::default());
    let a = start(&net, &redis, A);
    let registered = async || {
        redis
            .cmd::<bool>(&["EXISTS", "redgrid:::a@127.0.0.1"])
            .await
            .then_some(())
    };
    eventually("a is registered", registered).await;
    redis.signal("-STOP");
    let began = Instant::now();
    a.stop().await;
    let took = began.elapsed();
    redis.signal("-CONT");
    assert!(took < Duration::from_secs(2) * 5, "{took:?}");
}

#[tokio::test]
async fn a_redis_that_refuses_us_is_told_in_one_line_without_the_password() {
    let redis = Redis::start_with(&["--requirepass", "hush-hush"]);
    let acl = Redis::start_with(&[
        "--user",
        "poor",
        "on",
        ">hush-hush",
        "~*",
        "&*",
        "+subscribe",
        "+client",
        "+time",
    ]);
    for (url, mend) in [
        (redis.url(), "wants a password"),
        (
            redis.url_as("default", "wr0ng-hush"),
            "refuses the user name or password",
        ),
        (acl.url_as("poor", "hush-hush"), "docs/security.md"),
    ] {
        let (log, _guard) = Log::collect();
        let mut options = options(&redis, A);
        options.redis = url;
        let a = start_with(&Net::default(), options, 1);
        eventually(mend, async || (!log.lines(mend).is_empty()).then_some(())).await;
        // Long enough for several attempts.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(log.lines(mend).len(), 1, "{:#?}", log.lines(""));
        assert!(log.lines("hush").is_empty(), "{:#?}", log.lines("hush"));
        assert_eq!(a.listed(), [A]);
        a.kill();
    }
}

#[tokio::test]
async fn what_does_not_belong_in_redis_is_told_once_and_nothing_else_suffers() {
    let (redis, net) = (Redis::start(), Net::default());
    redis
        .cmd::<()>(&["SET", "redgrid:::string@10.0.0.3", "x"])
        .await;
    redis
        .cmd::<()>(&["HSET", "redgrid:::noip@10.0.0.4", "zone", "x"])
        .await;
    redis
        .cmd::<()>(&["HSET", "redgrid:::no node name", "ip", "10.0.0.5"])
        .await;
    let (log, _guard) = Log::collect();
    let (a, b) = (start(&net, &redis, A), start(&net, &redis, B));
    a.sees(&[A, B]).await;
    for _ in 0..20 {
        redis.cmd::<()>(&["PUBLISH", "redgrid::", "rubbish"]).await;
        redis
            .cmd::<()>(&["PUBLISH", "redgrid.events::", "rubbish"])
            .await;
        redis
            .cmd::<()>(&["PUBLISH", "redgrid::", "redgrid:::noip@10.0.0.4"])
            .await;
        redis
            .cmd::<()>(&["PUBLISH", "redgrid::", "redgrid:::string@10.0.0.3"])
            .await;
    }
    let c = start(&net, &redis, C);
    a.sees(&[A, B, C]).await;
    b.sees(&[B, A, C]).await;
    // Three nodes wrote to this log, and each may tell everything once.
    for (trouble, nodes) in [
        ("no hash", 3),
        ("no field `ip`", 3),
        ("no node name", 3),
        ("neither `ping`", 2),
        ("no event", 2),
    ] {
        let told = async || (!log.lines(trouble).is_empty()).then_some(());
        eventually(trouble, told).await;
        let lines = log.lines(trouble);
        assert!(lines.len() <= nodes, "{lines:#?}");
    }
    drop(c);
}

#[tokio::test]
async fn erlang_callers_are_answered_as_the_contract_says() {
    let (redis, net) = (Redis::start(), Net::default());
    let a = start(&net, &redis, A);
    let raw = |term: Term| Raw::encode(&term);
    let call = |term: Term| a.grid.call("redgrid", &raw(term));
    assert_eq!(reply(call(atom("get_status"))), atom("normal"));
    assert_eq!(awaited(call(atom("suspend"))).await, atom("ok"));
    assert_eq!(reply(call(atom("get_status"))), atom("suspended"));
    assert_eq!(awaited(call(atom("resume"))).await, atom("ok"));
    assert_eq!(reply(call(atom("dance"))), atom("unknown_message"));
    assert_eq!(
        reply(call(tuple(vec![atom("a"), atom("b"), atom("c")]))),
        atom("unknown_message")
    );
    assert_eq!(reply(a.grid.apply("redgrid", "dance", &[])), atom("undef"));
    assert_eq!(reply(a.grid.apply("lists", "nodes", &[])), atom("undef"));

    let meta = |value: Term| list(vec![tuple(vec![atom("weight"), value])]);
    let update = tuple(vec![atom("update_meta"), meta(int(1))]);
    assert_eq!(awaited(call(update)).await, atom("ok"));
    let nodes = |value: Term| {
        let ip = tuple(vec![atom("ip"), string("127.0.0.1")]);
        let weight = tuple(vec![atom("weight"), value]);
        list(vec![tuple(vec![atom(A), list(vec![ip, weight])])])
    };
    assert_eq!(
        a.nodes(&["native"]),
        nodes(int(1)),
        "the caller reads what it wrote"
    );
    let bad = awaited(
        a.grid
            .apply("redgrid", "update_meta", &[raw(meta(tuple(vec![])))]),
    )
    .await;
    let Term::Tuple(bad) = bad else {
        panic!("{bad:?}")
    };
    assert_eq!(bad.elements[0], atom("error"));
    assert_eq!(a.nodes(&["native"]), nodes(int(1)), "nothing changed");
    let own = raw(atom("redgrid"));
    let answer = a
        .grid
        .apply("redgrid", "update_meta", &[own.clone(), raw(meta(int(2)))]);
    assert_eq!(awaited(answer).await, atom("ok"));
    a.grid.cast(
        "redgrid",
        &raw(tuple(vec![atom("update_meta"), meta(int(3))])),
    );
    eventually("the cast", async || {
        (a.nodes(&["native"]) == nodes(int(3))).then_some(())
    })
    .await;
    assert_eq!(
        reply(a.grid.apply("redgrid", "nodes", &[own])),
        reply(call(atom("nodes")))
    );
    assert_eq!(
        awaited(a.grid.apply("redgrid", "nodes", &[raw(atom("nobody"))])).await,
        tuple(vec![atom("error"), atom("noproc")])
    );
    assert_eq!(
        reply(call(tuple(vec![atom("node_info"), atom("x@y")]))),
        tuple(vec![atom("error"), atom("not_found")])
    );
    let info = reply(call(tuple(vec![atom("node_info"), atom(A)])));
    let Term::Tuple(info) = info else {
        panic!("{info:?}")
    };
    assert!(matches!(info.elements.as_slice(), [ok, Term::Map(_)] if *ok == atom("ok")));
}

#[tokio::test]
async fn a_suspended_node_is_found_by_asking_for_all_only() {
    let (redis, net) = (Redis::start(), Net::default());
    let (a, b) = (start(&net, &redis, A), start(&net, &redis, B));
    a.sees(&[A, B]).await;
    b.grid.suspend().await.unwrap();
    a.sees(&[A]).await;
    let scope = Scope::default();
    let names = async |all| {
        let members = grid::list(&redis.url(), &scope, all).await.unwrap();
        members
            .into_iter()
            .map(|m| m.registration.node.to_string())
            .collect::<Vec<_>>()
    };
    eventually("without", async || {
        (names(false).await == [A]).then_some(())
    })
    .await;
    assert_eq!(names(true).await, [A, B]);
    b.grid.resume().await.unwrap();
    a.sees(&[A, B]).await;
}

#[tokio::test]
async fn waiting_for_members_ends_when_they_are_there_or_says_how_many_were() {
    let (redis, net) = (Redis::start(), Net::default());
    let scope = Scope::default();
    let mut web = options(&redis, A);
    web.meta = Meta::new([("role", "web")]).unwrap();
    let _a = start_with(&net, web, 1);
    let _b = start(&net, &redis, B);
    let role = [("role".to_owned(), "web".to_owned())];
    let found = grid::await_members(&redis.url(), &scope, 1, &role, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found[0].registration.node, name(A));
    let short = Duration::from_millis(600);
    let why = grid::await_members(&redis.url(), &scope, 2, &role, short)
        .await
        .unwrap_err();
    assert!(why.to_string().contains("1 of 2"), "{why}");
}

#[tokio::test]
async fn changes_are_told_to_whoever_watches() {
    let (redis, net) = (Redis::start(), Net::default());
    let a = start(&net, &redis, A);
    let mut changes = a.grid.changes();
    let b = start(&net, &redis, B);
    a.sees(&[A, B]).await;
    eventually("they connect", async || {
        a.grid.nodes().find(&name(B))?.connected.map(drop)
    })
    .await;
    b.stop().await;
    a.sees(&[A]).await;
    let mut told = Vec::new();
    while let Ok(change) = changes.try_recv() {
        told.push(change.to_string());
    }
    assert!(told.contains(&format!("{B} joined")), "{told:?}");
    assert!(told.contains(&format!("{B} is up")), "{told:?}");
    assert!(told.contains(&format!("{B} left")), "{told:?}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_its_password() {
    for url in [
        "redis://u:hush@h:port/",
        "http://u:hush@h/",
        "rubbish",
        "redis://u:hush@h:1/db",
    ] {
        let options = Options::new(name(A), "127.0.0.1".parse().unwrap(), url);
        let Err(why) = Grid::new(options) else {
            panic!("{url} was taken")
        };
        assert!(!why.to_string().contains("hush"), "{why}");
    }
}
