//! What tools see of the processes of a Rust program. What they see of any node is `tools_SUITE`.

use crate::support::{beam::Beam, epmd::EpmdServer, eventually, toy};
use redgrid::{
    dist::Node,
    term::{Raw, text::parse},
};

async fn pair() -> (EpmdServer, Node, Beam) {
    let epmd = EpmdServer::start();
    let (node, _) = toy::start(toy::options(&epmd, "rust")).await;
    let mut erl = Beam::start(&epmd, "erl").await;
    assert_eq!(erl.value("net_adm:ping('rust@127.0.0.1')").await, "pong");
    (epmd, node, erl)
}

/// The value of a function of ours, called from there.
async fn rpc(erl: &mut Beam, module: &str, function: &str, args: &str) -> String {
    let call = format!("rpc:call('rust@127.0.0.1', {module}, {function}, {args})");
    erl.value(&call).await
}

/// What it tells of the process `worker`.
async fn info(erl: &mut Beam, items: &str) -> String {
    let pid = "rpc:call('rust@127.0.0.1', erlang, whereis, [worker])";
    rpc(erl, "erlang", "process_info", &format!("[{pid}, {items}]")).await
}

#[tokio::test]
async fn a_process_is_told_of_as_it_is() {
    let (_epmd, node, mut erl) = pair().await;
    let mut worker = node.process_named("worker").expect("a process");
    let alone = "[registered_name, trap_exit, message_queue_len, links, monitors, monitored_by]";
    assert_eq!(
        info(&mut erl, alone).await,
        "[{registered_name,worker},{trap_exit,false},{message_queue_len,0},{links,[]},{monitors,[]},{monitored_by,[]}]"
    );

    worker.trap_exit(true);
    worker
        .monitor(("keeper", &"erl@127.0.0.1".parse().expect("a name")))
        .await;
    // Nobody has that name there, so this comes at once.
    let down = worker.receive().await.expect("a message");
    assert!(format!("{down:?}").contains("noproc"), "{down:?}");
    let waits = "register(waits, spawn(fun() ->
        erlang:monitor(process, {worker, 'rust@127.0.0.1'}),
        link(rpc:call('rust@127.0.0.1', erlang, whereis, [worker])),
        {worker, 'rust@127.0.0.1'} ! {hello, \"you\"},
        receive stop -> ok end
    end)), ok";
    erl.value(waits).await;
    let waits = erl.name().clone();
    worker.monitor(("waits", &waits)).await;
    eventually("all of it is told", async || {
        let all = "[trap_exit, message_queue_len, messages, monitors]";
        let told = info(&mut erl, all).await;
        let expected = "[{trap_exit,true},{message_queue_len,1},{messages,[{hello,\"you\"}]},\
             {monitors,[{process,{waits,'erl@127.0.0.1'}}]}]";
        (told == expected).then_some(())
    })
    .await;
    let same = erl
        .value("Pid = whereis(waits), [{links, [Pid]}, {monitored_by, [Pid]}]")
        .await;
    assert_eq!(info(&mut erl, "[links, monitored_by]").await, same);

    erl.value("waits ! stop").await;
    eventually("nothing of it is left", async || {
        let told = info(&mut erl, "[links, monitors, monitored_by]").await;
        (told == "[{links,[]},{monitors,[]},{monitored_by,[]}]").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_that_has_ended_is_not_there() {
    let (_epmd, node, mut erl) = pair().await;
    let worker = node.process_named("worker").expect("a process");
    let pid = "rpc:call('rust@127.0.0.1', erlang, whereis, [worker])";
    erl.value(&format!("put(worker, {pid}), ok")).await;
    let ask = "Worker = get(worker),
        Ask = fun(F, A) -> rpc:call('rust@127.0.0.1', erlang, F, A) end,
        {Ask(is_process_alive, [Worker]), lists:member(Worker, Ask(processes, [])),
         Ask(process_info, [Worker, registered_name])}";
    assert_eq!(erl.value(ask).await, "{true,true,{registered_name,worker}}");
    drop(worker);
    assert_eq!(erl.value(ask).await, "{false,false,undefined}");
}

#[tokio::test]
async fn memory_is_what_the_system_counts() {
    let (_epmd, node, mut erl) = pair().await;
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/status").expect("of this process");
        let line = statm.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        1024 * kilobytes
            .and_then(|n| n.parse::<u64>().ok())
            .expect("a number")
    };
    let told: u64 = (rpc(&mut erl, "erlang", "memory", "[total]").await)
        .parse()
        .expect("a number");
    let counted = resident();
    // Other tests run in this process at the same time.
    assert!(
        told > counted / 4 && told < counted * 4,
        "{told} and {counted}"
    );

    let worker = node.process_named("worker").expect("a process");
    let message = Raw::encode(&parse(&format!("\"{}\"", "x".repeat(50_000))).expect("a term"));
    worker.send("worker", &message).await.expect("sent");
    let waiting: usize = (rpc(&mut erl, "erlang", "memory", "[processes]").await)
        .parse()
        .expect("a number");
    assert!(waiting > 50_000, "{waiting}");
    assert!(
        info(&mut erl, "memory")
            .await
            .contains(&waiting.to_string())
    );
}

#[tokio::test]
async fn a_collector_is_told_of_every_process_of_many() {
    let (_epmd, node, mut erl) = pair().await;
    // More than are told of in one message.
    let workers: Vec<_> = (0..10_500)
        .map(|_| node.process().expect("a process"))
        .collect();
    let collect = "begin
        process_flag(trap_exit, true),
        Backend = spawn_link('rust@127.0.0.1', observer_backend, procs_info, [self()]),
        Collect = fun(Collect, Sizes) -> receive
            {procs_info, Backend, Infos} -> Collect(Collect, [length(Infos) | Sizes]);
            {'EXIT', Backend, Reason} -> {Reason, lists:reverse(Sizes)}
        after 10000 -> late end end,
        Collect(Collect, [])
    end";
    let all = workers.len() + node.registered().len() + 1;
    assert_eq!(
        erl.value(collect).await,
        format!("{{normal,[10000,{}]}}", all - 10_000)
    );
}
