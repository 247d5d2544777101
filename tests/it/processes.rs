//! Processes of a Rust node and those of a real `erl`: messages, links, monitors, aliases, names, in both directions.

use crate::support::{beam::Beam, epmd::EpmdServer, eventually, toy};
use redgrid::dist::{Counts, Envelope, Mail, Node, Process, Request, SpawnError};
use redgrid::term::{self, Limits, Raw, Term, atom, text::parse};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A Rust node, `rust`, and an Erlang node, `erl`, connected. On the Erlang one runs a process of the name `keeper`, which
/// keeps what its messages ask for: pids, monitors, links.
async fn pair() -> (EpmdServer, Node, Beam) {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "rust")).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    let keeper = "register(keeper, spawn(fun() ->
        process_flag(trap_exit, true),
        Loop = fun(Loop, Heard) -> receive
            {do, From, Fun} -> From ! {done, catch Fun()}, Loop(Loop, Heard);
            {heard, From} -> From ! {heard, lists:reverse(Heard)}, Loop(Loop, []);
            Other -> Loop(Loop, [Other | Heard])
        end end,
        Loop(Loop, [])
    end))";
    erl.value(keeper).await;
    (epmd, node, erl)
}

/// Has the keeper evaluate an expression.
async fn keeper(erl: &mut Beam, expression: &str) -> String {
    erl.value(&format!(
        "keeper ! {{do, self(), fun() -> {expression} end}}, receive {{done, Result}} -> Result end"
    ))
    .await
}

/// What the keeper has heard since it was last asked, once it has heard something.
async fn heard(erl: &mut Beam) -> String {
    let ask = "keeper ! {heard, self()}, receive {heard, Heard} -> Heard end";
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let heard = erl.value(ask).await;
        if heard != "[]" {
            return heard;
        }
        assert!(tokio::time::Instant::now() < until, "nothing was heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn next(process: &mut Process) -> Mail {
    let mail = process.receive_within(PATIENCE, |_| true).await;
    mail.expect("a process that lives")
        .expect("a message in time")
}

async fn message(process: &mut Process) -> Term {
    match next(process).await {
        Mail::Message(message) => message.decode().expect("a term"),
        other => panic!("{other:?}"),
    }
}

/// A process of the Erlang node that waits to be told how to end.
async fn victim(erl: &mut Beam) -> Raw {
    let start =
        "register(victim, spawn(fun() -> receive {stop, Reason} -> exit(Reason) end end)), ok";
    assert_eq!(erl.value(start).await, "ok");
    let text = "lists:flatten(io_lib:format(\"~w\", [term_to_binary(whereis(victim))]))";
    let bytes = term(erl.value(text).await.trim_matches('"'));
    let Term::Binary(bytes) = bytes else {
        panic!("{bytes:?}");
    };
    let pid = Raw::from_versioned(&bytes.bytes.into(), &Limits::default()).expect("a pid");
    // OTP 25 writes names as latin1 there, but not to its peers.
    Raw::encode(&pid.decode().expect("a pid"))
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    eventually(what, async || so().await.then_some(())).await;
}

fn term(text: &str) -> Term {
    parse(text).expect("a term")
}

fn raw(text: &str) -> Raw {
    Raw::encode(&term(text))
}

/// The pid of one of our processes, as the Erlang node writes it.
fn pid(process: &Process) -> String {
    let bytes = process.pid().to_versioned();
    let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("binary_to_term(<<{}>>)", bytes.join(","))
}

#[tokio::test]
async fn a_process_is_reached_by_its_pid_its_name_and_its_alias() {
    let (_epmd, node, mut erl) = pair().await;
    let mut worker = node.process_named("worker").expect("a process");
    erl.value(&format!("{} ! by_pid", pid(&worker))).await;
    erl.value("{worker, 'rust@127.0.0.1'} ! by_name").await;
    assert_eq!(message(&mut worker).await, atom("by_pid"));
    assert_eq!(message(&mut worker).await, atom("by_name"));

    let alias = worker.alias(true);
    worker
        .send(("keeper", erl.name()), &alias)
        .await
        .expect("sent");
    let send = "keeper ! {heard, self()}, receive {heard, Heard} -> [Alias] = Heard, Alias ! once, Alias ! twice, ok end";
    until("the alias is there", async || erl.eval(send).await.is_ok()).await;
    assert_eq!(message(&mut worker).await, atom("once"));
    erl.value("{worker, 'rust@127.0.0.1'} ! last").await;
    assert_eq!(
        message(&mut worker).await,
        atom("last"),
        "the alias was spent"
    );
    assert_eq!(
        erl.value("rpc:call('rust@127.0.0.1', erlang, whereis, [worker])")
            .await,
        erl.value(&pid(&worker)).await
    );
}

#[tokio::test]
async fn ten_thousand_messages_arrive_in_their_order_both_ways() {
    let (_epmd, node, mut erl) = pair().await;
    let mut worker = node.process_named("worker").expect("a process");
    erl.value("[{worker, 'rust@127.0.0.1'} ! N || N <- lists:seq(1, 10000)], ok")
        .await;
    for n in 1..=10_000 {
        assert_eq!(message(&mut worker).await, term::int(n));
    }
    for n in 1..=10_000 {
        let number = Raw::encode(&term::int(n));
        let sent = worker.send(("keeper", erl.name()), &number);
        sent.await.expect("sent");
    }
    worker
        .send(("keeper", erl.name()), &raw("last"))
        .await
        .expect("sent");
    let all = "Ask = fun(Ask, Seen) -> keeper ! {heard, self()}, receive {heard, New} ->
            All = Seen ++ New,
            case lists:member(last, New) of true -> All; false -> Ask(Ask, All) end
        end end,
        Ask(Ask, []) =:= lists:seq(1, 10000) ++ [last]";
    assert_eq!(erl.value(all).await, "true");
}

#[tokio::test]
async fn a_gen_server_call_is_answered_by_a_process_of_ours_and_late_answers_vanish() {
    let (_epmd, node, mut erl) = pair().await;
    let mut server = node.process_named("server").expect("a process");
    let serving = tokio::spawn(async move {
        while let Ok(mail) = server.receive().await {
            let Mail::Message(message) = mail else {
                continue;
            };
            let Some(call) = Request::of(&message) else {
                continue;
            };
            if call.request.view().is_atom("slow") {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            server.reply(&call, &call.request).await.expect("answered");
        }
    });
    let call = |request: &str, timeout: u32| {
        format!("catch gen_server:call({{server, 'rust@127.0.0.1'}}, {request}, {timeout})")
    };
    assert_eq!(erl.value(&call("{hello, 1}", 5000)).await, "{hello,1}");
    let late = erl.value(&call("slow", 10)).await;
    assert!(late.starts_with("{'EXIT',{timeout,"), "{late}");
    // The late answer was sent before this one.
    assert_eq!(erl.value(&call("fast", 5000)).await, "fast");
    assert_eq!(
        erl.value("receive Any -> Any after 0 -> nothing end").await,
        "nothing"
    );
    serving.abort();
}

#[tokio::test]
async fn erlang_hears_with_which_reason_a_process_that_it_watches_ends() {
    let (_epmd, node, mut erl) = pair().await;
    for (name, reason) in [("one", "normal"), ("two", "{shot,\"in the foot\"}")] {
        let worker = node.process_named(name).expect("a process");
        let by_pid = keeper(
            &mut erl,
            &format!("erlang:monitor(process, {})", pid(&worker)),
        )
        .await;
        let by_name = format!("erlang:monitor(process, {{{name}, 'rust@127.0.0.1'}})");
        let by_name = keeper(&mut erl, &by_name).await;
        // A monitor is asynchronous: an answer that follows it says that it is there.
        until("it is watched", async || node.counts().watchers == 2).await;
        worker.exit(&raw(reason));
        let heard = heard(&mut erl).await;
        assert!(
            heard.contains(&format!("{{'DOWN',{by_pid},process,<")),
            "{heard}"
        );
        let named = format!("{{'DOWN',{by_name},process,{{{name},'rust@127.0.0.1'}},{reason}}}");
        assert!(heard.contains(&named), "{heard}");
        assert_eq!(node.counts(), Counts::default());
    }
    keeper(
        &mut erl,
        "erlang:monitor(process, {nobody, 'rust@127.0.0.1'})",
    )
    .await;
    let nobody = heard(&mut erl).await;
    assert!(
        nobody.ends_with("{nobody,'rust@127.0.0.1'},noproc}]"),
        "{nobody}"
    );
}

#[tokio::test]
async fn a_demonitor_of_erlangs_leaves_nothing_here() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.process_named("worker").expect("a process");
    for target in [pid(&worker), "{worker, 'rust@127.0.0.1'}".into()] {
        let watch = format!("put(ref, erlang:monitor(process, {target}))");
        keeper(&mut erl, &watch).await;
        until("it is watched", async || node.counts().watchers == 1).await;
        keeper(&mut erl, "erlang:demonitor(get(ref))").await;
        until("nobody watches", async || node.counts().watchers == 0).await;
    }
}

#[tokio::test]
async fn we_hear_with_which_reason_a_process_that_we_watch_ends() {
    let (_epmd, node, mut erl) = pair().await;
    let mut watcher = node.process().expect("a process");
    let target = victim(&mut erl).await;
    let by_pid = watcher.monitor(&target).await;
    let by_name = watcher.monitor(("victim", erl.name())).await;
    let taken_back = watcher.monitor(&target).await;
    watcher.demonitor(taken_back);
    watcher
        .send(("victim", erl.name()), &raw("{stop, {shot, 1}}"))
        .await
        .expect("sent");
    let mut heard = vec![next(&mut watcher).await, next(&mut watcher).await];
    heard.sort_by_key(|mail| matches!(mail, Mail::Down { monitor, .. } if *monitor == by_name));
    let reason = raw("{shot, 1}");
    assert_eq!(
        heard,
        [
            Mail::Down {
                monitor: by_pid,
                target,
                reason: reason.clone(),
            },
            Mail::Down {
                monitor: by_name,
                target: raw("{victim, 'erl@127.0.0.1'}"),
                reason,
            }
        ]
    );
    let nobody = watcher.monitor(("victim", erl.name())).await;
    assert!(matches!(next(&mut watcher).await,
        Mail::Down { monitor, reason, .. } if monitor == nobody && reason == raw("noproc")));
    let nowhere = "nowhere@127.0.0.1".parse().expect("a name");
    let unreachable = watcher.monitor(("victim", &nowhere)).await;
    assert!(matches!(next(&mut watcher).await,
        Mail::Down { monitor, reason, .. } if monitor == unreachable && reason == raw("noconnection")));
    assert_eq!(node.counts().monitors, 0);
}

#[tokio::test]
async fn a_link_ends_both_whoever_made_it() {
    let (_epmd, node, mut erl) = pair().await;
    // Ours ends, theirs is told.
    let worker = node.process().expect("a process");
    keeper(&mut erl, &format!("link({})", pid(&worker))).await;
    until("it is linked", async || node.counts().links == 1).await;
    worker.exit(&raw("bang"));
    let told = heard(&mut erl).await;
    assert!(
        told.starts_with("[{'EXIT',<") && told.ends_with(",bang}]"),
        "{told}"
    );
    // Theirs ends, ours does so too, or is told where it traps exits.
    let mut trapping = node.process().expect("a process");
    trapping.trap_exit(true);
    let mut ending = node.process().expect("a process");
    let target = victim(&mut erl).await;
    trapping.link(&target).await;
    ending.link(&target).await;
    // `normal` would end nobody.
    ending
        .send(&target, &raw("{stop, hard}"))
        .await
        .expect("sent");
    assert_eq!(
        next(&mut trapping).await,
        Mail::Exit {
            from: target.clone(),
            reason: raw("hard")
        }
    );
    let over = ending.receive().await.expect_err("it is over");
    assert_eq!(over.reason, raw("hard"));
    // What is not there any more breaks a link at once.
    trapping.link(&target).await;
    assert_eq!(
        next(&mut trapping).await,
        Mail::Exit {
            from: target,
            reason: raw("noproc")
        }
    );
    drop((trapping, ending));
    assert_eq!(node.counts(), Counts::default());
}

#[tokio::test]
async fn an_unlink_is_final_on_both_sides() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.process().expect("a process");
    keeper(&mut erl, &format!("link({})", pid(&worker))).await;
    until("it is linked", async || node.counts().links == 1).await;
    keeper(&mut erl, &format!("unlink({})", pid(&worker))).await;
    until("the link is gone", async || node.counts().links == 0).await;
    let target = victim(&mut erl).await;
    worker.link(&target).await;
    worker.unlink(&target);
    // Gone once the other side has acknowledged it.
    until("the link is gone", async || node.counts().links == 0).await;
    worker.exit(&raw("bang"));
    assert_eq!(erl.value("is_process_alive(whereis(victim))").await, "true");
}

#[tokio::test]
async fn exit_signals_of_erlang_end_a_process_as_they_would_one_of_its_own() {
    let (_epmd, node, mut erl) = pair().await;
    for (trap, reason, left) in [
        (false, "normal", None),
        (false, "stop", Some("stop")),
        (false, "kill", Some("killed")),
        (true, "stop", None),
        (true, "kill", Some("killed")),
    ] {
        let mut worker = node.process().expect("a process");
        worker.trap_exit(trap);
        erl.value(&format!(
            "P = {}, exit(P, {reason}), P ! after_it",
            pid(&worker)
        ))
        .await;
        match left {
            Some(left) => {
                let over = worker.receive().await.expect_err("it is over");
                assert_eq!(over.reason, raw(left));
            }
            None if trap => {
                let mail = next(&mut worker).await;
                assert!(matches!(mail, Mail::Exit { reason, .. } if reason == raw("stop")));
            }
            None => assert_eq!(message(&mut worker).await, atom("after_it")),
        }
    }
}

#[tokio::test]
async fn we_end_a_process_of_erlangs() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.process().expect("a process");
    let target = victim(&mut erl).await;
    worker
        .exit_other(&target, &raw("kill"))
        .await
        .expect("sent");
    until("it is dead", async || {
        erl.value("whereis(victim)").await == "undefined"
    })
    .await;
}

#[tokio::test]
async fn a_function_that_runs_as_a_process_ends_with_what_it_says() {
    let (_epmd, node, mut erl) = pair().await;
    let mut watcher = node.process().expect("a process");
    let fine = node.spawn(None, |_| async { Ok(()) }).expect("spawned");
    let bad = node.spawn(Some("bad"), |mut process| async move {
        let _ = process.receive().await;
        Err(raw("on_purpose"))
    });
    let bad = bad.expect("spawned");
    let panics = node.spawn(None, |mut process| async move {
        let _ = process.receive().await;
        panic!("as the test wants it")
    });
    let panics = panics.expect("spawned");
    assert_eq!(
        node.spawn(Some("bad"), |_| async { Ok(()) }),
        Err(SpawnError::Taken("bad".into()))
    );
    let mut ends = Vec::new();
    for pid in [&fine, &bad, &panics] {
        let monitor = watcher.monitor(pid).await;
        if pid != &fine {
            watcher.send(pid, &raw("go")).await.expect("sent");
        }
        let Mail::Down {
            monitor: fired,
            reason,
            ..
        } = next(&mut watcher).await
        else {
            panic!("no down");
        };
        assert_eq!(fired, monitor);
        ends.push(reason.decode().expect("a term"));
    }
    // The first may have ended before it was watched.
    assert!(
        [atom("normal"), atom("noproc")].contains(&ends[0]),
        "{ends:?}"
    );
    assert_eq!(ends[1], atom("on_purpose"));
    assert_eq!(ends[2], term("{panic, \"as the test wants it\"}"));

    // An exit signal drops a function where it waits.
    let (dropped, when) = tokio::sync::oneshot::channel::<()>();
    let waits = node.spawn(Some("waits"), |process| async move {
        let _held = (process, dropped);
        std::future::pending().await
    });
    waits.expect("spawned");
    erl.value("exit(rpc:call('rust@127.0.0.1', erlang, whereis, [waits]), stop)")
        .await;
    assert!(
        tokio::time::timeout(PATIENCE, when)
            .await
            .expect("in time")
            .is_err()
    );
}

#[tokio::test]
async fn when_a_node_dies_all_that_hung_on_it_ends_with_noconnection() {
    let (_epmd, node, mut erl) = pair().await;
    let mut worker = node.process().expect("a process");
    worker.trap_exit(true);
    worker.monitor_nodes(true);
    let target = victim(&mut erl).await;
    worker.link(&target).await;
    let monitor = worker.monitor(&target).await;
    let call = {
        let (node, name) = (node.clone(), erl.name().clone());
        let args = Raw::encode(&term::list([term::int(60_000)]));
        tokio::spawn(async move { node.call(&name, "timer", "sleep", args, PATIENCE).await })
    };
    keeper(
        &mut erl,
        &format!("erlang:monitor(process, {})", pid(&worker)),
    )
    .await;
    until("it is watched", async || node.counts().watchers == 1).await;
    erl.kill();
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(next(&mut worker).await);
    }
    let noconnection = raw("noconnection");
    for mail in [
        Mail::Exit {
            from: target.clone(),
            reason: noconnection.clone(),
        },
        Mail::Down {
            monitor,
            target,
            reason: noconnection,
        },
        Mail::NodeDown(erl.name().clone()),
    ] {
        assert!(heard.contains(&mail), "{mail:?} of {heard:?}");
    }
    assert!(call.await.expect("no panic").is_err());
    drop(worker);
    assert_eq!(node.counts(), Counts::default());
}

#[tokio::test]
async fn when_our_node_stops_whoever_watches_its_processes_hears_shutdown() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.process().expect("a process");
    keeper(
        &mut erl,
        &format!("erlang:monitor(process, {})", pid(&worker)),
    )
    .await;
    until("it is watched", async || node.counts().watchers == 1).await;
    node.stop().await;
    let told = heard(&mut erl).await;
    assert!(told.ends_with(",shutdown}]"), "{told}");
    assert!(matches!(node.process(), Err(SpawnError::Stopped)));
}

#[tokio::test]
async fn nothing_is_kept_of_a_hundred_thousand_short_lives() {
    let (_epmd, node, mut erl) = pair().await;
    let server = node.spawn(Some("spawner"), {
        let node = node.clone();
        |mut spawner| async move {
            // For each message a process that is linked to, watched, named by an alias, and ends.
            while let Ok(Mail::Message(message)) = spawner.receive().await {
                let Some(call) = Request::of(&message) else {
                    continue;
                };
                let short = node.spawn(None, |mut short| async move {
                    let _alias = short.alias(false);
                    let _ = short.receive_within(PATIENCE, |_| true).await;
                    Ok(())
                });
                spawner
                    .reply(&call, &short.expect("spawned"))
                    .await
                    .expect("answered");
            }
            Ok(())
        }
    });
    server.expect("spawned");
    let lives = "lists:foreach(fun(N) ->
            Pid = gen_server:call({spawner, 'rust@127.0.0.1'}, new),
            Ref = erlang:monitor(process, Pid),
            N rem 2 =:= 0 andalso link(Pid),
            Pid ! stop,
            receive {'DOWN', Ref, process, Pid, normal} -> ok end
        end, lists:seq(1, 2500))";
    let parallel = format!(
        "Me = self(), [spawn(fun() -> {lives}, Me ! done end) || _ <- lists:seq(1, 8)],
        [receive done -> ok end || _ <- lists:seq(1, 8)], ok"
    );
    for _ in 0..5 {
        assert_eq!(erl.value(&parallel).await, "ok");
    }
    let idle = Counts {
        processes: 1,
        names: 1,
        ..Counts::default()
    };
    until("nothing is kept", async || node.counts() == idle).await;
}

#[tokio::test]
async fn a_full_mailbox_drops_what_is_sent_and_nothing_that_was_asked_for() {
    let (_epmd, node, mut erl) = pair().await;
    let mut full = node.process_named("full").expect("a process");
    let target = victim(&mut erl).await;
    let monitor = full.monitor(&target).await;
    let flood = format!(
        "[{{full, 'rust@127.0.0.1'}} ! N || N <- lists:seq(1, {})], victim ! {{stop, x}}, ok",
        redgrid::dist::MAX_MESSAGES + 10
    );
    erl.value(&flood).await;
    until("the mailbox is full", async || {
        full.waiting() == redgrid::dist::MAX_MESSAGES + 1
    })
    .await;
    assert_eq!(full.dropped(), 10);
    let down = full
        .receive_within(PATIENCE, |mail| matches!(mail, Mail::Down { .. }))
        .await;
    assert!(matches!(down, Ok(Some(Mail::Down { monitor: fired, .. })) if fired == monitor));
    assert_eq!(message(&mut full).await, term::int(1));
}

#[tokio::test]
async fn what_one_node_has_spawned_is_watched_and_ended_by_another() {
    let (epmd, node, mut erl) = pair().await;
    let mut other = Beam::start(&epmd, "other").await;
    assert_eq!(other.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    // A function that waits: `toy:never/0`.
    for reason in ["kill", "stop"] {
        let spawn = "binary_to_list(term_to_binary(spawn('rust@127.0.0.1', toy, never, [])))";
        let pid = erl.value(spawn).await;
        let bytes = format!("P = binary_to_term(list_to_binary({pid}))");
        let watch = format!(
            "{bytes}, M = monitor(process, P), exit(P, {reason}),
             receive {{'DOWN', M, process, P, Why}} -> Why end"
        );
        let left = if reason == "kill" { "killed" } else { reason };
        assert_eq!(other.value(&watch).await, left);
    }
    until("nothing is kept", async || {
        node.counts() == Counts::default()
    })
    .await;
}

#[tokio::test]
async fn processes_of_one_node_reach_each_other_without_a_peer() {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "alone")).await;
    let mut one = node.process_named("one").expect("a process");
    let two = node.process_named("two").expect("a process");
    two.send("one", &raw("hello")).await.expect("sent");
    assert_eq!(message(&mut one).await, atom("hello"));
    let monitor = one.monitor("two").await;
    one.link(&two.pid()).await;
    one.trap_exit(true);
    let two_pid = two.pid();
    two.exit(&raw("bye"));
    assert_eq!(
        next(&mut one).await,
        Mail::Exit {
            from: two_pid,
            reason: raw("bye")
        }
    );
    assert_eq!(
        next(&mut one).await,
        Mail::Down {
            monitor,
            target: raw("{two, 'alone@127.0.0.1'}"),
            reason: raw("bye")
        }
    );
    drop(one);
    assert_eq!(node.counts(), Counts::default());
}

#[tokio::test]
async fn sys_looks_at_a_process_halts_it_and_lets_it_go_on() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.spawn(Some("worker"), |mut worker| async move {
        let mut count = 0;
        while let Ok(Mail::Message(message)) = worker.receive().await {
            count += 1;
            worker.show(&Raw::encode(&term::tuple([
                atom("count"),
                term::int(count),
            ])));
            if let Some(call) = Request::of(&message) {
                worker.reply(&call, &call.request).await.expect("answered");
            }
        }
        Ok(())
    });
    worker.expect("spawned");
    for (expression, value) in [
        ("sys:get_state(W)", "undefined"),
        ("gen_server:call(W, hello)", "hello"),
        ("sys:get_state(W)", "{count,1}"),
        (
            "{status, P, {module, redgrid}, [_, running, P, [], Misc]} = sys:get_status(W), proplists:get_value(data, Misc)",
            "[{\"State\",{count,1}}]",
        ),
        ("sys:suspend(W)", "ok"),
        (
            "catch gen_server:call(W, while_suspended, 50), sys:get_state(W)",
            "{count,1}",
        ),
        (
            "{status, _, _, [_, S | _]} = sys:get_status(W), S",
            "suspended",
        ),
        ("sys:resume(W)", "ok"),
        ("gen_server:call(W, again)", "again"),
        ("sys:get_state(W)", "{count,3}"),
        (
            "try sys:replace_state(W, fun(S) -> S end) catch error:{not_on_this_node, redgrid} -> refused end",
            "refused",
        ),
        (
            "M = monitor(process, W), sys:terminate(W, enough), receive {'DOWN', M, _, _, Why} -> Why end",
            "enough",
        ),
    ] {
        let expression = format!("W = {{worker, 'rust@127.0.0.1'}}, {expression}");
        assert_eq!(erl.value(&expression).await, value, "{expression}");
    }
}

#[tokio::test]
async fn the_envelopes_of_gen_server_gen_statem_and_gen_event_are_told_apart() {
    let (_epmd, node, mut erl) = pair().await;
    let server = node.spawn(Some("any"), |mut any| async move {
        let mut last = atom("nothing");
        while let Ok(Mail::Message(message)) = any.receive().await {
            match Envelope::open(message) {
                Envelope::Call(call) => {
                    let asked = call.request.decode().expect("a term");
                    let answer = term::tuple([asked, last.clone()]);
                    any.reply(&call, &Raw::encode(&answer))
                        .await
                        .expect("answered");
                }
                Envelope::Cast(cast) => {
                    last = term::tuple([atom("cast"), cast.decode().expect("a term")])
                }
                Envelope::Info(info) => {
                    last = term::tuple([atom("info"), info.decode().expect("a term")])
                }
            }
        }
        Ok(())
    });
    server.expect("spawned");
    for (expression, value) in [
        ("gen_server:call(A, one)", "{one,nothing}"),
        (
            "gen_server:cast(A, x), gen_server:call(A, two)",
            "{two,{cast,x}}",
        ),
        (
            "gen_statem:cast(A, y), gen_statem:call(A, three)",
            "{three,{cast,y}}",
        ),
        ("A ! z, gen_statem:call(A, four)", "{four,{info,z}}"),
        (
            "gen_event:notify(A, bell), gen_event:call(A, handler, five)",
            "{{call,handler,five},{info,{notify,bell}}}",
        ),
        (
            "R = gen_server:send_request(A, six), gen_server:receive_response(R, 5000)",
            "{reply,{six,{info,{notify,bell}}}}",
        ),
        (
            "C = gen_server:send_request(A, eight, label, gen_server:reqids_new()), {Reply, label, _} = gen_server:receive_response(C, 5000, true), Reply",
            "{reply,{eight,{info,{notify,bell}}}}",
        ),
        (
            "{Good, []} = gen_server:multi_call(['rust@127.0.0.1'], any, seven), Good",
            "[{'rust@127.0.0.1',{seven,{info,{notify,bell}}}}]",
        ),
    ] {
        let expression = format!("A = {{any, 'rust@127.0.0.1'}}, {expression}");
        assert_eq!(erl.value(&expression).await, value, "{expression}");
    }
}

#[tokio::test]
async fn a_process_may_watch_more_than_the_connection_takes_at_once() {
    let (_epmd, node, mut erl) = pair().await;
    let mut watcher = node.process().expect("a process");
    let target = victim(&mut erl).await;
    // More than may be owed to a peer.
    const MANY: usize = 250_000;
    for _ in 0..MANY {
        let monitor = watcher.monitor(&target).await;
        watcher.demonitor(monitor);
    }
    let last = watcher.monitor(&target).await;
    watcher
        .send(&target, &raw("{stop, done}"))
        .await
        .expect("sent");
    assert_eq!(
        next(&mut watcher).await,
        Mail::Down {
            monitor: last,
            target,
            reason: raw("done")
        }
    );
}
