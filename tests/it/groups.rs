//! Process groups shared by a Rust node and real `erl` nodes that run `pg`.

use crate::support::{beam::Beam, epmd::EpmdServer, eventually, toy};
use redgrid::dist::{Groups, Mail, Node, Process};
use redgrid::term::{self, Raw, Term, atom};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn raw(term: &Term) -> Raw {
    Raw::encode(term)
}

fn workers() -> Raw {
    raw(&atom("workers"))
}

/// A Rust node and two Erlang nodes, all of which run the scope `pg`. The first Erlang node was there before ours ran it, the
/// second comes after.
async fn three() -> (EpmdServer, Node, Groups, Beam, Beam) {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "rust")).await;
    let mut first = Beam::start(&epmd, "first").await;
    assert_eq!(first.value(START).await, "ok");
    assert_eq!(first.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    let groups = node.groups("pg").expect("a scope");
    let mut second = Beam::start(&epmd, "second").await;
    assert_eq!(second.value(START).await, "ok");
    assert_eq!(second.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    assert_eq!(
        second.value("net_adm:ping('first@127.0.0.1')").await,
        "pong"
    );
    (epmd, node, groups, first, second)
}

const START: &str =
    "spawn(fun() -> {ok, _} = pg:start_link(), receive after infinity -> ok end end), ok";

/// Waits until a group has so many members on a node.
async fn has(erl: &mut Beam, group: &str, members: usize) {
    let count = format!("catch length(pg:get_members({group}))");
    eventually("the group has its members there", async || {
        (erl.value(&count).await == members.to_string()).then_some(())
    })
    .await;
}

async fn has_here(groups: &Groups, group: &Raw, members: usize) {
    eventually("the group has its members here", async || {
        (groups.members(group).len() == members).then_some(())
    })
    .await;
}

async fn next(process: &mut Process) -> Raw {
    match process.receive_within(PATIENCE, |_| true).await {
        Ok(Some(Mail::Message(message))) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_are_seen_on_all_nodes_whoever_came_first() {
    let (_epmd, node, groups, mut first, mut second) = three().await;
    let worker = node.process().expect("a process");
    groups.join(&workers(), &[worker.pid()]).expect("joined");
    first.value("pg:join(workers, [self(), self()])").await;
    second.value("pg:join(workers, self())").await;
    has_here(&groups, &workers(), 4).await;
    has(&mut first, "workers", 4).await;
    has(&mut second, "workers", 4).await;
    assert_eq!(groups.local_members(&workers()), [worker.pid()]);
    assert_eq!(groups.groups(), [workers()]);

    // By rpc, as of any node.
    for erl in [&mut first, &mut second] {
        let there = erl
            .value("length(rpc:call('rust@127.0.0.1', pg, get_members, [workers]))")
            .await;
        assert_eq!(there, "4");
        let local = erl
            .value("rpc:call('rust@127.0.0.1', pg, get_local_members, [pg, workers])")
            .await;
        assert!(local.starts_with("[<"), "{local}");
        assert_eq!(
            erl.value("rpc:call('rust@127.0.0.1', pg, which_groups, [])")
                .await,
            "[workers]"
        );
    }

    // Who joined twice is in it twice; who leaves once is in it once.
    first.value("pg:leave(workers, self())").await;
    has_here(&groups, &workers(), 3).await;
    assert!(groups.leave(&workers(), &[worker.pid()]).expect("ours"));
    assert!(!groups.leave(&workers(), &[worker.pid()]).expect("ours"));
    has(&mut second, "workers", 2).await;
    assert_eq!(first.log(), "");
    assert_eq!(second.log(), "");
}

#[tokio::test]
async fn a_member_of_an_erlang_group_gets_its_messages_and_leaves_with_its_end() {
    let (_epmd, node, groups, mut first, mut second) = three().await;
    let mut worker = node.process().expect("a process");
    let group = raw(&term::tuple([atom("jobs"), term::string("mail")]));
    groups.join(&group, &[worker.pid()]).expect("joined");
    has(&mut first, "{jobs, \"mail\"}", 1).await;
    first
        .value("[Pid ! {job, 1} || Pid <- pg:get_members({jobs, \"mail\"})]")
        .await;
    assert_eq!(
        next(&mut worker).await,
        raw(&term::tuple([atom("job"), term::int(1)]))
    );
    drop(worker);
    has(&mut first, "{jobs, \"mail\"}", 0).await;
    has(&mut second, "{jobs, \"mail\"}", 0).await;
    assert_eq!(groups.groups(), []);
    // An Erlang one does, too, and all of a node with that.
    second
        .value("spawn(fun() -> pg:join(workers, self()), receive stop -> ok end end) ! nothing, ok")
        .await;
    second.value("pg:join(workers, self())").await;
    has_here(&groups, &workers(), 2).await;
    second.kill();
    has_here(&groups, &workers(), 0).await;
}

#[tokio::test]
async fn a_process_hears_of_the_changes_of_a_group() {
    let (_epmd, node, groups, mut first, _second) = three().await;
    let mut listener = node.process().expect("a process");
    let (reference, members) = groups.monitor(&listener, &workers()).expect("a monitor");
    assert_eq!(members, []);
    first
        .value("pg:join(workers, self()), pg:join(others, self())")
        .await;
    let heard = next(&mut listener).await;
    let [heard_by, change, group, _pids] = heard.view().tuple_n::<4>().expect("a change");
    assert_eq!(heard.sub(heard_by), reference);
    assert!(change.is_atom("join") && group.is_atom("workers"));
    first
        .value("pg:leave(others, self()), pg:leave(workers, self())")
        .await;
    let heard = next(&mut listener).await;
    assert!(
        heard
            .view()
            .tuple_n::<4>()
            .is_some_and(|[_, change, ..]| change.is_atom("leave"))
    );
    assert!(groups.demonitor(&reference));
}

#[tokio::test]
async fn a_scope_that_ends_is_gone_for_the_others_and_can_begin_again() {
    let (_epmd, node, groups, mut first, _second) = three().await;
    let worker = node.process().expect("a process");
    groups.join(&workers(), &[worker.pid()]).expect("joined");
    has(&mut first, "workers", 1).await;
    first
        .value("exit(rpc:call('rust@127.0.0.1', erlang, whereis, [pg]), kill)")
        .await;
    has(&mut first, "workers", 0).await;
    let again = eventually("the name is free", async || node.groups("pg").ok()).await;
    eventually("it joins the new one", async || {
        again.join(&workers(), &[worker.pid()]).expect("joined");
        let seen = first.value("length(pg:get_members(workers))").await;
        (seen != "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_scope_that_we_do_not_run_is_left_alone() {
    let (_epmd, node, _groups, mut first, _second) = three().await;
    first.value("spawn(fun() -> {ok, _} = pg:start_link(other), receive after infinity -> ok end end), ok").await;
    first.value("net_kernel:disconnect('rust@127.0.0.1')").await;
    assert_eq!(first.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    assert_eq!(first.value("pg:join(other, workers, self())").await, "ok");
    assert_eq!(
        first
            .value("rpc:call('rust@127.0.0.1', pg, get_members, [other, workers])")
            .await,
        "[]"
    );
    assert_eq!(node.whereis("other"), None);
    assert_eq!(first.log(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_begin_a_scope_at_the_same_time_all_have_it() {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "rust")).await;
    for round in 0..20 {
        let name = format!("scope{round}");
        let begin = |node: Node| {
            let name = name.clone();
            tokio::spawn(async move { node.groups(&name).map(drop) })
        };
        let all: Vec<_> = (0..8).map(|_| begin(node.clone())).collect();
        for one in all {
            assert_eq!(one.await.expect("no panic"), Ok(()));
        }
    }
}
