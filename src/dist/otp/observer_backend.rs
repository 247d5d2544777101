//! What `observer` and `etop` on another node ask of a node, in the shapes of OTP's `observer_backend`, which have been the same
//! from OTP 25 to 29.
//!
//! The System page is one call. The process table comes as messages: `spawn_link(Node, observer_backend, procs_info, [self()])`,
//! and the process spawned sends `{procs_info, self(), [#etop_proc_info{}]}` and ends `normal`. `etop_collect` sends one
//! `{self(), #etop_info{}}`. `fetch_stats`, which draws the load charts from what a BEAM measures, is not here.

use super::{
    super::{Node, call, ids::CALLER, message::Body},
    Function, clock, count, pair, process_info, system_info, uint,
};
use crate::term::Raw;

/// The `runtime_tools` of the release that we follow.
const VERSION: &str = "2.1";

/// As many processes as OTP tells of in one message.
const AT_ONCE: usize = 10_000;

/// The kinds of memory in `#etop_info{}`, in its order, each with its place in `erlang:memory/0`.
const ETOP_MEMORY: [(&str, usize); 6] = [
    ("total", 0),
    ("processes", 1),
    ("ets", 8),
    ("atom", 4),
    ("code", 7),
    ("binary", 6),
];

pub(super) const FUNCTIONS: &[Function] = &[
    ("vsn", 0, |_, _| Some(pair("ok", &call::string(VERSION)))),
    ("sys_info", 0, sys_info),
    ("get_table_list", 2, |_, _| Some(call::nil())),
    ("get_port_list", 0, |_, _| Some(call::nil())),
    ("get_socket_list", 0, |_, _| Some(call::nil())),
    // Of what it would tell nothing is known: the page then says "Not Supported".
    ("socket_info", 0, |_, _| Some(call::nil())),
    // These two send messages from the process that runs them: see `report`. Here is who asks for them as for a
    // value, or has them sent to a third node.
    ("procs_info", 1, |_, _| None),
    ("etop_collect", 1, |_, _| None),
];

/// What `observer` asks for its Applications page. Whom it gets the pid of has to live, or `observer` ends over it, but need not tell
/// anything: no application has a tree of processes here, and the page stays empty.
pub(super) const APPMON_INFO: &[Function] = &[("start_link2", 3, |node, _| {
    Some(pair("ok", &node.own().ids.pid(CALLER)))
})];

/// The messages that a spawned `procs_info` or `etop_collect` sends to the process in its argument. `None`: it is another
/// function, or that process is not of the peer that has spawned it.
pub(crate) fn report(
    node: &Node,
    own: &Raw,
    peer: &str,
    module: &str,
    function: &str,
    args: &[Raw],
) -> Option<(Raw, Vec<Body>)> {
    let ("observer_backend", [collector]) = (module, args) else {
        return None;
    };
    let of_peer = collector.view().is_pid() && collector.view().node().as_deref() == Some(peer);
    let messages = match function {
        _ if !of_peer => return None,
        "procs_info" => {
            let told = processes(node);
            let message = |told: &[Raw]| {
                let tag = call::atom("procs_info");
                call::tuple(&[&tag, own, &call::list(told)]).into()
            };
            told.chunks(AT_ONCE).map(message).collect()
        }
        "etop_collect" => vec![call::tuple(&[own, &etop_info(node)]).into()],
        _ => return None,
    };
    Some((collector.clone(), messages))
}

/// `#etop_proc_info{}` of every process.
fn processes(node: &Node) -> Vec<Raw> {
    let own = node.own();
    let told = |number: u64| {
        let about = process_info::about(node, number)?;
        let name = match &about.name {
            Some(name) => call::atom(name),
            None => process_info::our_function(),
        };
        Some(call::tuple(&[
            &call::atom("etop_proc_info"),
            &own.ids.pid(number),
            &count(about.bytes),
            &uint(0),
            &name,
            &uint(0),
            &process_info::our_function(),
            &count(about.queue),
        ]))
    };
    process_info::numbers(node)
        .into_iter()
        .filter_map(told)
        .collect()
}

/// `#etop_info{}`.
fn etop_info(node: &Node) -> Raw {
    let processes = processes(node);
    let bytes = system_info::memory_values(node);
    let memory = ETOP_MEMORY.map(|(kind, place)| pair(kind, &uint(bytes[place])));
    call::tuple(&[
        &call::atom("etop_info"),
        &clock::timestamp(),
        &count(processes.len()),
        // The backend of OTP leaves it out, too.
        &call::atom("undefined"),
        &call::atom("undefined"),
        &count(system_info::run_queue()),
        &call::nil(),
        &call::list(&memory),
        &call::list(&processes),
    ])
}

/// The System page: the same keys in the same order as OTP's.
fn sys_info(node: &Node, _: &[Raw]) -> Option<Raw> {
    let [input, output] = system_info::io(node.kept());
    let info = |item: &str| Some(pair(item, &system_info::named(node, item)?));
    let word = || system_info::named(node, "wordsize");
    let mut told = vec![
        pair("uptime", &uint(system_info::wall_clock(node.kept()))),
        pair("run_queue", &count(system_info::run_queue())),
        pair("io_input", &uint(input)),
        pair("io_output", &uint(output)),
        info("logical_processors")?,
        info("logical_processors_online")?,
        info("logical_processors_available")?,
        info("schedulers")?,
        info("schedulers_online")?,
        pair(
            "schedulers_available",
            &system_info::named(node, "schedulers_online")?,
        ),
        info("otp_release")?,
        info("version")?,
        info("system_architecture")?,
        info("kernel_poll")?,
        info("smp_support")?,
        info("threads")?,
        info("thread_pool_size")?,
        pair("wordsize_internal", &word()?),
        pair("wordsize_external", &word()?),
        pair("alloc_info", &allocators(node)),
        info("process_count")?,
        info("atom_limit")?,
        info("atom_count")?,
        info("process_limit")?,
        info("process_count")?,
        info("port_limit")?,
        info("port_count")?,
        info("ets_limit")?,
        info("ets_count")?,
        info("dist_buf_busy_limit")?,
    ];
    told.extend(system_info::memory_pairs(node));
    Some(call::list(&told))
}

/// Without any allocator the page of allocators, and `observer` with it, ends over the sum of none. So there is the one that there is: the
/// system's, which has given us what is resident. How much of that is free inside nobody counts.
fn allocators(node: &Node) -> Raw {
    let [total, ..] = system_info::memory_values(node).map(uint);
    let blocks = pair("sys_alloc", &call::list(&[four("size", &total)]));
    let carriers = [
        pair("blocks", &call::list(&[blocks])),
        four("carriers_size", &total),
    ];
    let data = call::list(&[pair("mbcs", &call::list(&carriers))]);
    let instance = call::tuple(&[&call::atom("instance"), &uint(0), &data]);
    call::list(&[pair("sys_alloc", &call::list(&[instance]))])
}

/// A size as an allocator tells it: now, the most since it was last asked, the most ever. We keep but the first.
fn four(key: &str, size: &Raw) -> Raw {
    call::tuple(&[&call::atom(key), size, size, size])
}
