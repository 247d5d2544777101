//! Who may reach what: `--allow` and `--deny`, seen from a real `erl`. What is kept from it looks like what is not there,
//! nothing hangs, and the audit tells.

use crate::support::{
    DEADLINE,
    beam::{Beam, COOKIE},
    epmd::EpmdServer,
    eventually,
    host::Host,
    log::Log,
    program::Program,
    toy::{self, Event, Toy},
};
use redgrid::dist::{Mail, Node, Process, Rules};
use redgrid::term::{Raw, Term, atom};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A Rust node `rust` with these rules and the service `toy`, and an Erlang node `erl` that is connected to it.
async fn pair(allow: &[&str], deny: &[&str]) -> (EpmdServer, Node, Arc<Toy>, Beam) {
    let epmd = EpmdServer::start();
    let mut options = toy::options(&epmd, "rust");
    options.access = rules(allow, deny);
    let (node, toy) = toy::start(options).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    (epmd, node, toy, erl)
}

fn rules(allow: &[&str], deny: &[&str]) -> Rules {
    let rules = Rules::default();
    let rules = allow.iter().fold(rules, |rules, text| {
        rules.allow(text).expect("a permission")
    });
    deny.iter()
        .fold(rules, |rules, text| rules.deny(text).expect("a denial"))
}

/// A pid as an Erlang node writes it.
fn written(pid: &Raw) -> String {
    let bytes = pid.to_versioned();
    let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("binary_to_term(<<{}>>)", bytes.join(","))
}

async fn message(process: &mut Process) -> Term {
    match process.receive_within(DEADLINE, |_| true).await {
        Ok(Some(Mail::Message(message))) => message.decode().expect("a term"),
        other => panic!("{other:?}"),
    }
}

/// Every way in which a function of the node is called, with what comes of it; `F` is the function of `toy`.
const CALLS: [&str; 8] = [
    "rpc:call('rust@127.0.0.1', toy, F, [a], 5000)",
    "rpc:block_call('rust@127.0.0.1', toy, F, [a], 5000)",
    "rpc:multicall(['rust@127.0.0.1'], toy, F, [a], 5000)",
    "rpc:call('rust@127.0.0.1', erlang, apply, [toy, F, [a]], 5000)",
    "(catch erpc:call('rust@127.0.0.1', toy, F, [a], 5000))",
    "(catch erpc:receive_response(erpc:send_request('rust@127.0.0.1', toy, F, [a]), 5000))",
    "(fun({P, R}) -> receive {'DOWN', R, process, P, Why} -> Why after 5000 -> hangs end end)(spawn_monitor('rust@127.0.0.1', toy, F, [a]))",
    "(fun(_) -> process_flag(trap_exit, true), P = spawn_link('rust@127.0.0.1', toy, F, [a]), receive {'EXIT', P, Why} -> Why after 5000 -> hangs end end)(0)",
];

#[tokio::test]
async fn a_denied_function_is_like_one_that_is_not_there_in_every_way_to_call_it() {
    let (_epmd, _node, _toy, mut erl) = pair(&[], &["erl@*=toy:same/1"]).await;
    for call in CALLS {
        let denied = erl.value(&call.replace('F', "same")).await;
        let absent = erl.value(&call.replace('F', "none")).await;
        assert!(denied.contains("{toy,same,[a],[]}"), "{call}: {denied}");
        assert_eq!(denied.replace("same", "none"), absent, "{call}");
        let allowed = erl.value(&call.replace('F', "slow")).await;
        assert!(!allowed.contains("undef"), "{call}: {allowed}");
    }
    // Nobody waits for a cast, so nothing is heard of it; the connection stays.
    for cast in [
        "rpc:cast('rust@127.0.0.1', toy, same, [a])",
        "erpc:cast('rust@127.0.0.1', toy, same, [a])",
        "is_pid(spawn('rust@127.0.0.1', toy, same, [a]))",
    ] {
        let heard = erl.value(cast).await;
        assert!(["true", "ok"].contains(&heard.as_str()), "{heard}");
    }
    let two = "rpc:call('rust@127.0.0.1', toy, same, [a, b])";
    assert!(erl.value(two).await.contains("undef"), "no such arity");
    assert_eq!(
        erl.value("rpc:call('rust@127.0.0.1', erlang, node, [])")
            .await,
        "'rust@127.0.0.1'"
    );
}

#[tokio::test]
async fn a_denied_function_of_otp_is_undef_like_another() {
    let (_epmd, _node, _toy, mut erl) =
        pair(&[], &["erlang:*,code:which/1,observer_backend:*"]).await;
    for call in [
        "rpc:call('rust@127.0.0.1', erlang, node, [])",
        "rpc:call('rust@127.0.0.1', erlang, whereis, [toy])",
        "rpc:call('rust@127.0.0.1', code, which, [lists])",
    ] {
        let answer = erl.value(call).await;
        assert!(answer.contains("'EXIT',{undef"), "{call}: {answer}");
    }
    // This one answers by messages, past the others.
    let table = "(fun(_) -> process_flag(trap_exit, true),
        P = spawn_link('rust@127.0.0.1', observer_backend, procs_info, [self()]),
        receive {procs_info, P, _} -> told; {'EXIT', P, {Why, _}} -> Why after 5000 -> hangs end end)(0)";
    assert_eq!(erl.value(table).await, "undef");
    // Its code is here neither with rules nor without.
    let fun = "rpc:call('rust@127.0.0.1', erlang, apply, [fun() -> ok end, []])";
    assert!(erl.value(fun).await.contains("{undef,[{erlang,apply,"));
}

#[tokio::test]
async fn a_denied_process_is_like_one_that_is_not_there() {
    let (_epmd, node, toy, mut erl) = pair(&[], &["erl@*=toy,worker"]).await;
    let worker = node.process_named("worker").expect("a process");
    let mut open = node.process_named("open").expect("a process");
    let toy_pid = node.whereis("toy").expect("registered");

    let started = Instant::now();
    for name in ["toy", "worker", "absent"] {
        let at = format!("{{{name}, 'rust@127.0.0.1'}}");
        assert_eq!(
            erl.value(&format!("catch gen_server:call({at}, hello)"))
                .await,
            format!(
                "{{'EXIT',{{noproc,{{gen_server,call,[{{{name},'rust@127.0.0.1'}},hello]}}}}}}"
            ),
            "{name}"
        );
        assert_eq!(
            erl.value(&format!("gen_server:cast({at}, hello), {at} ! hello"))
                .await,
            "hello"
        );
        assert_eq!(
            erl.value(&format!(
                "R = monitor(process, {at}), \
                 receive {{'DOWN', R, process, What, Why}} -> {{What, Why}} after 5000 -> hangs end"
            ))
            .await,
            format!("{{{{{name},'rust@127.0.0.1'}},noproc}}")
        );
        assert_eq!(
            erl.value(&format!("rpc:sbcast(['rust@127.0.0.1'], {name}, hello)"))
                .await,
            "{[],['rust@127.0.0.1']}"
        );
        let call = format!("catch gen_server:multi_call(['rust@127.0.0.1'], {name}, hello, 5000)");
        assert_eq!(erl.value(&call).await, "{[],['rust@127.0.0.1']}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "nothing waited");

    // Its pid, which can be guessed, is no way round.
    for pid in [written(&worker.pid()), written(&toy_pid)] {
        let ask = format!(
            "process_flag(trap_exit, true), P = {pid}, P ! hello, exit(P, kill),
            group_leader(self(), P),
            R = monitor(process, P), W1 = receive {{'DOWN', R, process, P, D}} -> D after 5000 -> hangs end,
            link(P), W2 = receive {{'EXIT', P, E}} -> E after 5000 -> hangs end,
            unlink(P), demonitor(R, [flush]),
            W3 = (catch gen_server:call(P, hello)), {{W1, W2, element(1, element(2, W3))}}"
        );
        let run = format!("(fun(_) -> {ask} end)(0)");
        assert_eq!(erl.value(&run).await, "{noproc,noproc,noproc}");
    }

    // Order is kept: what was sent to the others would be here by now.
    erl.value("{open, 'rust@127.0.0.1'} ! last").await;
    assert_eq!(message(&mut open).await, atom("last"));
    assert_eq!((worker.waiting(), worker.dropped()), (0, 0));
    assert!(node.whereis("worker").is_some(), "it was not killed");
    assert!(
        !toy.events()
            .iter()
            .any(|event| matches!(event, Event::Cast(_) | Event::Info(_))),
        "{:?}",
        toy.events()
    );
    assert_eq!((node.counts().links, node.counts().watchers), (0, 0));
}

#[tokio::test]
async fn an_allowed_process_is_all_there() {
    let allow = ["erl@*=toy,worker", "other@*=open"];
    let (_epmd, node, toy, mut erl) = pair(&allow, &[]).await;
    let mut worker = node.process_named("worker").expect("a process");
    let open = node.process_named("open").expect("a process");
    assert_eq!(
        erl.value("gen_server:call({toy, 'rust@127.0.0.1'}, hello)")
            .await,
        "hello"
    );
    erl.value("gen_server:cast({toy, 'rust@127.0.0.1'}, hello)")
        .await;
    eventually("the cast is there", async || {
        let cast = |event: &Event| matches!(event, Event::Cast(_));
        toy.events().iter().any(cast).then_some(())
    })
    .await;
    assert_eq!(
        erl.value("rpc:sbcast(['rust@127.0.0.1'], worker, by_rex)")
            .await,
        "{['rust@127.0.0.1'],[]}"
    );
    assert_eq!(message(&mut worker).await, atom("by_rex"));
    erl.value("{open, 'rust@127.0.0.1'} ! hello, {worker, 'rust@127.0.0.1'} ! last")
        .await;
    assert_eq!(message(&mut worker).await, atom("last"));
    assert_eq!(open.waiting(), 0);
    // A process that has no name is reached by whoever may reach anything, as it gives out its pid by itself.
    let mut nameless = node.process().expect("a process");
    erl.value(&format!("{} ! hello", written(&nameless.pid())))
        .await;
    assert_eq!(message(&mut nameless).await, atom("hello"));

    let watch = format!(
        "register(keeper, spawn(fun() -> process_flag(trap_exit, true), P = {}, link(P), R = monitor(process, P), \
         Got = lists:sort([receive {{'EXIT', P, E}} -> E; {{'DOWN', R, process, P, D}} -> D end || _ <- [1, 2]]), \
         receive {{heard, To}} -> To ! Got end end)), ok",
        written(&worker.pid())
    );
    erl.value(&watch).await;
    eventually("it is watched", async || {
        let counts = node.counts();
        ((counts.links, counts.watchers) == (1, 1)).then_some(())
    })
    .await;
    worker.exit(&Raw::encode(&atom("bye")));
    assert_eq!(
        erl.value("keeper ! {heard, self()}, receive Got -> Got after 5000 -> hangs end")
            .await,
        "[bye,bye]"
    );
    open.unregister();
}

#[tokio::test]
async fn rules_are_for_the_peers_that_they_name() {
    let (epmd, node, _toy, mut erl) =
        pair(&["toy:same", "other@127.*=*"], &["*=toy:error/1"]).await;
    let mut other = Beam::start(&epmd, "other").await;
    let mut worker = node.process_named("worker").expect("a process");
    let same = "rpc:call('rust@127.0.0.1', toy, same, [a])";
    let error = "element(2, element(2, rpc:call('rust@127.0.0.1', toy, error, [a])))";
    let node_of = "rpc:call('rust@127.0.0.1', erlang, node, [])";
    for (beam, own) in [(&mut erl, false), (&mut other, true)] {
        assert_eq!(beam.value(same).await, "a");
        let denied = beam.value(error).await;
        assert!(denied.contains("undef"), "{denied}");
        let answer = beam.value(node_of).await;
        assert_eq!(answer == "'rust@127.0.0.1'", own, "{answer}");
        let name = beam.name().clone();
        beam.value(&format!("{{worker, 'rust@127.0.0.1'}} ! '{name}'"))
            .await;
    }
    assert_eq!(message(&mut worker).await, atom("other@127.0.0.1"));
    assert_eq!(worker.waiting(), 0);
}

#[tokio::test]
async fn who_is_denied_everything_is_still_a_node_that_nothing_waits_for() {
    let (epmd, node, _toy, mut erl) = pair(&["none:none"], &["*"]).await;
    let mut other = Beam::start(&epmd, "other").await;
    let started = Instant::now();
    for beam in [&mut erl, &mut other] {
        assert_eq!(beam.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
        assert_eq!(beam.value("net_adm:ping('erl@127.0.0.1')").await, "pong");
        let nodes = beam.value("lists:member('rust@127.0.0.1', nodes())").await;
        assert_eq!(nodes, "true");
        assert_eq!(beam.value("global:sync()").await, "ok");
        let name = beam.name().short().to_owned();
        assert_eq!(
            beam.value(&format!("global:register_name({name}, self())"))
                .await,
            "yes"
        );
        assert_eq!(
            beam.value("global:trans({lock, self()}, fun() -> done end)")
                .await,
            "done"
        );
        // This asks each node what its features are, and waits for the answer.
        let answer = beam
            .value("rpc:call('rust@127.0.0.1', toy, same, [a])")
            .await;
        assert!(answer.contains("undef"), "{answer}");
    }
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());

    // It may not reach us, but it answers what we ask of it.
    let caller = node.process().expect("a process");
    let time = Duration::from_secs(5);
    let args = Raw::encode(&redgrid::term::list(Vec::new()));
    let answer = node
        .call(other.name(), "erlang", "node", args, time)
        .await
        .expect("an answer");
    assert_eq!(answer.decode().unwrap(), atom("other@127.0.0.1"));
    let pid = written(&caller.pid());
    other.value(&format!("{pid} ! hello, ok")).await;
    other.value("net_adm:ping('rust@127.0.0.1')").await;
    assert_eq!(caller.waiting(), 0, "denied everything, also by pid");
}

#[tokio::test]
async fn the_audit_says_who_reached_for_what_and_which_rule_and_keeps_to_a_few_lines() {
    let (log, _guard) = Log::collect();
    let deny = ["erl@*=toy:same/1,worker", "*=none:*"];
    let (_epmd, node, _toy, mut erl) = pair(&[], &deny).await;
    let _worker = node.process_named("worker").expect("a process");
    erl.value("rpc:call('rust@127.0.0.1', toy, same, [\"pass-of-ann\"])")
        .await;
    erl.value("{worker, 'rust@127.0.0.1'} ! {login, \"pass-of-ann\"}")
        .await;
    erl.value("rpc:call('rust@127.0.0.1', none, 'a\\nb', [])")
        .await;
    // Not there: nothing was kept from anybody.
    erl.value("{absent, 'rust@127.0.0.1'} ! hello").await;
    let line = |what: &str| {
        log.lines("redgrid::audit")
            .into_iter()
            .find(|line| line.contains(what))
    };
    for (what, how, rule) in [
        ("what=toy:same/1", "call", "rule=deny erl@*=toy:same/1"),
        ("what=worker", "message", "rule=deny erl@*=worker"),
        ("what=none:'a\\nb'/0", "call", "rule=deny *=none:*"),
    ] {
        let line = eventually(what, async || line(what)).await;
        assert!(line.contains("peer=erl@127.0.0.1"), "{line}");
        assert!(line.contains("WARN"), "{line}");
        assert!(line.contains(how) && line.contains(rule), "{line}");
    }

    // A flood is counted: every refusal has a line, or is in the count of one.
    let before = log.lines("redgrid::audit").len();
    let started = Instant::now();
    erl.value("[rpc:call('rust@127.0.0.1', toy, same, [N]) || N <- lists:seq(1, 500)], ok")
        .await;
    let seconds = started.elapsed().as_secs() as usize + 2;
    erl.value("erlang:disconnect_node('rust@127.0.0.1')").await;
    eventually("it is gone", async || node.peers().is_empty().then_some(())).await;
    let counted = eventually("all are told of", async || {
        let lines = log.lines("redgrid::audit");
        let of = |line: &String| -> Option<u64> {
            let (_, count) = line.split_once("left_out=")?;
            count.split_whitespace().next()?.parse().ok()
        };
        let left_out: u64 = lines.iter().filter_map(of).sum();
        let singly = lines.len() - lines.iter().filter_map(of).count();
        (singly as u64 + left_out == 503).then_some(lines.len() - before)
    })
    .await;
    assert!(counted <= 6 * seconds, "{counted} lines in {seconds} s");
    for secret in ["pass-of-ann", COOKIE, "absent"] {
        assert_eq!(log.lines(secret), [""; 0]);
    }
}

#[tokio::test]
async fn the_binary_takes_rules_from_its_flags_and_the_environment() {
    let host = Host::start();
    let mut command = host.redgrid(&["node", "--name", "web@127.0.0.1", "--echo"]);
    command.args(["--deny", "redgrid-*=redgrid:suspend", "--deny", "*=sink"]);
    let refused = Program::start(&mut command);
    refused
        .ended()
        .await
        .failed(2, &["--deny", "NAME@HOST=WHAT"]);

    let mut command = host.redgrid(&["node", "--name", "web@127.0.0.1", "--echo"]);
    command.args(["--deny", "redgrid-*@*=redgrid:suspend", "--deny", "sink"]);
    command.env("REDGRID_ALLOW", "echo:*, redgrid:*, sink");
    let node = Program::start(&mut command);
    node.log_line("the node is up").await;
    let call = |function: [&'static str; 3]| {
        let host = &host;
        async move {
            let [module, function, argument] = function;
            let args = ["call", "web@127.0.0.1", module, function, argument];
            let args: Vec<&str> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
            host.run(&args).await
        }
    };
    assert_eq!(call(["echo", "echo", "hi"]).await.done().trim(), "hi");
    assert!(call(["redgrid", "nodes", ""]).await.done().contains("web@"));
    for refused in [["redgrid", "suspend", ""], ["erlang", "node", ""]] {
        let ended = call(refused).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("no such function"), "{ended:?}");
    }
    let line = node.log_line("what=redgrid:suspend/0").await;
    assert!(line.contains("deny redgrid-*@*=redgrid:suspend"), "{line}");
    let line = node.log_line("what=erlang:node/0").await;
    assert!(line.contains("no allow names it"), "{line}");
    assert!(!node.stderr().contains(COOKIE));
}

#[tokio::test]
async fn a_program_sets_rules_and_hears_of_one_that_is_none() {
    let bad = redgrid::Node::builder("rust@127.0.0.1").cookie(COOKIE);
    let bad = bad.allow("stock:*").deny("stock").deny("stock/1");
    let error = match bad.start().await {
        Err(error @ redgrid::StartError::Access(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    };
    assert!(error.contains("\"stock/1\" has no module"), "{error}");

    let epmd = EpmdServer::start();
    let node = redgrid::Node::builder("rust@127.0.0.1")
        .cookie(COOKIE)
        .epmd(epmd.address())
        .allow("erl@*=stock:count")
        .deny("stock:count/2")
        .start()
        .await
        .expect("a node");
    node.export("stock", |call| async move {
        Ok(redgrid::term::int(call.args.len() as i64))
    });
    let mut erl = Beam::start(&epmd, "erl").await;
    let count = |args: &str| format!("rpc:call('rust@127.0.0.1', stock, count, {args})");
    assert_eq!(erl.value(&count("[a]")).await, "1");
    let denied = erl.value(&count("[a, b]")).await;
    assert!(denied.contains("{stock,count,[a,b],[]}"), "{denied}");
    node.leave().await;
}
