//! `erlang:system_info/1`, `memory/0,1` and `statistics/1`: what there is a number for here is that number.
//!
//! Counters that are 0 belong to what a BEAM has and we do not: atoms, ports, tables, reductions. Limits there are none
//! beyond memory, but readers divide by them: so they are those of a BEAM.

use super::{
    super::{Node, call, peer::HIGH_WATER},
    Kept, OTP_RELEASE, boolean, count, pair, process_info, uint,
};
use crate::term::{Raw, View};
use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// The kinds of memory that `erlang:memory/0` tells of, in its order.
const MEMORY: [&str; 9] = [
    "total",
    "processes",
    "processes_used",
    "system",
    "atom",
    "atom_used",
    "binary",
    "code",
    "ets",
];

/// More than anybody asks for at a time.
const MAX_KINDS: usize = 100;

pub(super) fn system_info(node: &Node, item: &Raw) -> Option<Raw> {
    if let Some([kind]) = item.view().tagged::<1>("wordsize") {
        let known = kind.is_atom("internal") || kind.is_atom("external");
        return known.then(|| count(size_of::<usize>()));
    }
    named(node, item.view().as_atom()?)
}

/// An item that has an atom for a name.
pub(super) fn named(node: &Node, item: &str) -> Option<Raw> {
    Some(match item {
        // Whoever asks learns here that no BEAM answers.
        "machine" => call::string("redgrid"),
        "otp_release" => call::string(OTP_RELEASE),
        "compat_rel" => call::integer(OTP_RELEASE.parse().ok()?),
        "system_version" => call::string(&format!(
            "redgrid {} (Rust), speaks the distribution protocol of Erlang/OTP {OTP_RELEASE}\n",
            env!("CARGO_PKG_VERSION")
        )),
        "version" => call::string(env!("CARGO_PKG_VERSION")),
        "system_architecture" => call::string(&format!(
            "{}-{}",
            std::env::consts::ARCH,
            std::env::consts::OS
        )),
        "build_type" => call::atom(if cfg!(debug_assertions) {
            "debug"
        } else {
            "opt"
        }),
        "creation" => call::integer(i64::from(node.creation())),
        "wordsize" => count(size_of::<usize>()),
        "logical_processors" | "logical_processors_online" | "logical_processors_available" => {
            count(std::thread::available_parallelism().map_or(1, |n| n.get()))
        }
        // The threads that run our tasks.
        "schedulers" | "schedulers_online" => count(Handle::current().metrics().num_workers()),
        "multi_scheduling" => call::atom("enabled"),
        "smp_support" | "threads" | "kernel_poll" => boolean(true),
        "process_count" => count(process_info::numbers(node).len()),
        "process_limit" => uint(134_217_727),
        "atom_limit" => uint(1_048_576),
        "port_limit" => uint(65_536),
        "ets_limit" => uint(8_192),
        "atom_count"
        | "port_count"
        | "ets_count"
        | "thread_pool_size"
        | "dirty_cpu_schedulers"
        | "dirty_cpu_schedulers_online"
        | "dirty_io_schedulers" => uint(0),
        "dist_buf_busy_limit" => count(HIGH_WATER),
        "time_correction" => boolean(true),
        "time_warp_mode" => call::atom("multi_time_warp"),
        "time_offset" => call::atom("volatile"),
        "start_time" => uint(0),
        "alloc_util_allocators" => call::nil(),
        _ => return None,
    })
}

/// `erlang:memory/0`. The total is what the system has given us; processes have what waits in their mailboxes, and
/// the rest, which nobody divides further here, is the system's.
pub(super) fn memory(node: &Node) -> Raw {
    call::list(&memory_pairs(node))
}

pub(super) fn memory_pairs(node: &Node) -> Vec<Raw> {
    let told = memory_values(node);
    MEMORY
        .iter()
        .zip(told)
        .map(|(kind, bytes)| pair(kind, &uint(bytes)))
        .collect()
}

pub(super) fn memory_values(node: &Node) -> [u64; 9] {
    let processes = node.processes().bytes() as u64;
    let total = resident().max(processes);
    [
        total,
        processes,
        processes,
        total - processes,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// `erlang:memory/1`: the bytes of one kind, or those of a list of kinds.
pub(super) fn memory_of(node: &Node, kind: View<'_>) -> Option<Raw> {
    let values = memory_values(node);
    let bytes = |kind: View<'_>| {
        let place = MEMORY.iter().position(|known| kind.is_atom(known))?;
        Some((MEMORY[place], uint(values[place])))
    };
    if let Some((_, bytes)) = bytes(kind) {
        return Some(bytes);
    }
    // Two bytes may ask for what takes thirty to tell.
    if kind.list()?.count() > MAX_KINDS {
        return None;
    }
    let pairs: Option<Vec<Raw>> = kind
        .list()?
        .map(|kind| bytes(kind).map(|(kind, bytes)| pair(kind, &bytes)))
        .collect();
    Some(call::list(&pairs?))
}

/// The memory of ours that is in RAM, by Linux; 0 elsewhere.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * page_size() as u64
}

pub(super) fn statistics(node: &Node, item: View<'_>) -> Option<Raw> {
    let kept = node.kept();
    Some(match item.as_atom()? {
        "wall_clock" => total_and_since(wall_clock(kept), &kept.last_wall_clock),
        "runtime" => total_and_since(runtime(), &kept.last_runtime),
        "reductions" | "exact_reductions" | "context_switches" => {
            call::tuple(&[&uint(0), &uint(0)])
        }
        "garbage_collection" => call::tuple(&[&uint(0), &uint(0), &uint(0)]),
        "io" => {
            let [input, output] = io(kept);
            call::tuple(&[&pair("input", &uint(input)), &pair("output", &uint(output))])
        }
        "run_queue" | "total_run_queue_lengths" | "total_run_queue_lengths_all" => {
            count(run_queue())
        }
        "total_active_tasks" | "total_active_tasks_all" => {
            count(Handle::current().metrics().num_alive_tasks())
        }
        "run_queue_lengths" | "run_queue_lengths_all" => call::list(&[count(run_queue())]),
        // As on a BEAM that does not measure it.
        "scheduler_wall_time" | "scheduler_wall_time_all" | "microstate_accounting" => {
            call::atom("undefined")
        }
        _ => return None,
    })
}

fn total_and_since(total: u64, last: &AtomicU64) -> Raw {
    let since = total.saturating_sub(last.swap(total, Ordering::Relaxed));
    call::tuple(&[&uint(total), &uint(since)])
}

/// Milliseconds since the node began.
pub(super) fn wall_clock(kept: &Kept) -> u64 {
    kept.started.elapsed().as_millis() as u64
}

/// Milliseconds that all our threads have computed.
fn runtime() -> u64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec.unsigned_abs() * 1000 + spent.tv_nsec.unsigned_abs() / 1_000_000
}

/// Bytes that have come over connections to nodes, and that these have taken.
pub(super) fn io(kept: &Kept) -> [u64; 2] {
    [&kept.read, &kept.written].map(|bytes| bytes.load(Ordering::Relaxed))
}

/// Tasks that wait for a thread.
pub(super) fn run_queue() -> usize {
    Handle::current().metrics().global_queue_depth()
}
