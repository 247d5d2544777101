//! `erlang:processes`, `process_info` and what else is asked about one process.
//!
//! Ours have a mailbox, links and monitors, and are told of as they are. They have no heap, no stack and no reductions, so
//! those are 0, and no function of Erlang's: each began with, and is in, [`FUNCTION`]. A function that a peer has
//! spawned is among them while it runs; whom that peer has linked to it only its connection knows.

use super::{
    super::{
        Node, NodeName, call,
        ids::CALLER,
        process::{Mail, state::About},
    },
    Function, boolean, count, pair, pairs,
};
use crate::term::{
    Raw, View,
    write::{put_atom, put_binary, put_map, put_raw},
};
use bytes::BytesMut;

pub(super) const PROC_LIB: &[Function] = &[
    // What OTP says of a process that `proc_lib` did not start; `observer` then asks for no state.
    ("translate_initial_call", 1, |_, _| {
        Some(function("proc_lib", "init_p", 5))
    }),
    ("initial_call", 1, |_, _| Some(boolean(false))),
    ("get_label", 1, |_, _| Some(call::atom("undefined"))),
];

/// What stands where Erlang has the function that a process runs.
const FUNCTION: (&str, &str, i64) = ("rust", "process", 0);

/// More than OTP has.
const MAX_ITEMS: usize = 100;

/// What `process_info/1` tells, in OTP's order; `registered_name` comes before it where there is one.
const USUAL: [&str; 16] = [
    "current_function",
    "initial_call",
    "status",
    "message_queue_len",
    "links",
    "dictionary",
    "trap_exit",
    "error_handler",
    "priority",
    "group_leader",
    "total_heap_size",
    "heap_size",
    "stack_size",
    "reductions",
    "garbage_collection",
    "suspending",
];

pub(super) fn processes(node: &Node, _: &[Raw]) -> Option<Raw> {
    let own = node.own();
    let pids: Vec<Raw> = numbers(node)
        .into_iter()
        .map(|number| own.ids.pid(number))
        .collect();
    Some(call::list(&pids))
}

/// All that live: the one that our calls come from, the names that the node answers for, and the program's.
pub(super) fn numbers(node: &Node) -> Vec<u64> {
    let own = node.own();
    let mut numbers = node.processes().numbers();
    numbers.push(CALLER);
    numbers.extend(own.names.values());
    numbers.sort_unstable();
    numbers
}

/// What there is to tell of a process; `None` when there is none, or no more.
pub(super) fn about(node: &Node, number: u64) -> Option<About> {
    let own = node.own();
    if number == CALLER {
        return Some(About::default());
    }
    match own.names.iter().find(|(_, owner)| **owner == number) {
        Some((name, _)) => Some(About {
            name: Some(name.clone()),
            ..About::default()
        }),
        None => node.processes().about(number),
    }
}

/// The number of a pid of ours: of no other may be asked.
fn number(node: &Node, pid: View<'_>) -> Option<u64> {
    node.own().ids.own_pid(pid)
}

pub(super) fn is_process_alive(node: &Node, args: &[Raw]) -> Option<Raw> {
    let number = number(node, args[0].view())?;
    Some(boolean(about(node, number).is_some()))
}

pub(super) fn all(node: &Node, args: &[Raw]) -> Option<Raw> {
    let number = number(node, args[0].view())?;
    let Some(about) = about(node, number) else {
        return Some(call::atom("undefined"));
    };
    let name = about.name.as_ref().map(|_| "registered_name");
    let items: Option<Vec<Raw>> = name
        .into_iter()
        .chain(USUAL)
        .map(|item| Some(pair(item, &value(node, number, &about, item)?)))
        .collect();
    Some(call::list(&items?))
}

/// `process_info/2`: one item or a list. No item may be there twice, unlike in OTP: a few bytes would have us send a full
/// mailbox a thousand times.
pub(super) fn some(node: &Node, args: &[Raw]) -> Option<Raw> {
    let number = number(node, args[0].view())?;
    let found = about(node, number);
    let nobody = About::default();
    let about = found.as_ref().unwrap_or(&nobody);
    let asked = args[1].view();
    let told = match asked.list() {
        Some(items) => {
            let mut told: Vec<(Raw, Raw)> = Vec::new();
            for item in items {
                let (key, value) = item_of(node, number, about, item)?;
                if told.len() >= MAX_ITEMS || told.iter().any(|(known, _)| *known == key) {
                    return None;
                }
                let item = call::tuple(&[&key, &value]);
                told.push((key, item));
            }
            let told: Vec<Raw> = told.into_iter().map(|(_, told)| told).collect();
            call::list(&told)
        }
        None => {
            let (key, value) = item_of(node, number, about, asked)?;
            if asked.is_atom("registered_name") && about.name.is_none() {
                call::nil()
            } else {
                call::tuple(&[&key, &value])
            }
        }
    };
    Some(match found {
        Some(_) => told,
        None => call::atom("undefined"),
    })
}

/// The key and the value of what is asked for: an atom, or `{dictionary, Key}`.
fn item_of(node: &Node, number: u64, about: &About, item: View<'_>) -> Option<(Raw, Raw)> {
    if let Some([key]) = item.tagged::<1>("dictionary") {
        let mut own = BytesMut::new();
        key.put(&mut own);
        let asked = pair("dictionary", &Raw::own(own));
        return Some((asked, call::atom("undefined")));
    }
    let name = item.as_atom()?;
    Some((call::atom(name), value(node, number, about, name)?))
}

/// What is told of one item; `None`: OTP knows no such item, or we do not.
fn value(node: &Node, number: u64, about: &About, item: &str) -> Option<Raw> {
    let own = node.own();
    let (module, name, arity) = FUNCTION;
    let zero = || call::integer(0);
    Some(match item {
        "registered_name" => match &about.name {
            Some(name) => call::atom(name),
            None => call::nil(),
        },
        "current_function" | "initial_call" => function(module, name, arity),
        "current_location" => location(),
        "current_stacktrace" => call::list(&[location()]),
        "status" => call::atom("waiting"),
        "message_queue_len" => count(about.queue),
        "messages" => {
            let mails = node.processes().mails(number);
            call::list(
                &mails
                    .iter()
                    .map(|mail| message(node, mail))
                    .collect::<Vec<_>>(),
            )
        }
        "memory" => count(about.bytes),
        "links" => call::list(&about.links),
        "monitors" => call::list(
            &about
                .monitors
                .iter()
                .map(|target| pair("process", target))
                .collect::<Vec<_>>(),
        ),
        "monitored_by" => call::list(&about.watchers),
        "trap_exit" => boolean(about.trap_exit),
        "group_leader" => about.leader.clone().unwrap_or_else(|| own.ids.pid(CALLER)),
        "priority" => call::atom("normal"),
        "error_handler" => call::atom("error_handler"),
        "message_queue_data" => call::atom("off_heap"),
        "async_dist" | "last_calls" | "priority_messages" => boolean(false),
        "label" | "parent" => call::atom("undefined"),
        "dictionary"
        | "suspending"
        | "sequential_trace_token"
        | "binary"
        | "magic_ref"
        | "garbage_collection_info" => call::nil(),
        "total_heap_size" | "heap_size" | "stack_size" | "reductions" | "catchlevel" | "trace"
        | "min_heap_size" | "min_bin_vheap_size" | "fullsweep_after" => zero(),
        "garbage_collection" => pairs([
            ("max_heap_size", no_heap()),
            ("min_bin_vheap_size", zero()),
            ("min_heap_size", zero()),
            ("fullsweep_after", zero()),
            ("minor_gcs", zero()),
        ]),
        "max_heap_size" => no_heap(),
        "backtrace" => {
            let mut out = BytesMut::new();
            put_binary(&mut out, b"");
            Raw::own(out)
        }
        _ => return None,
    })
}

/// A mail as Erlang would have it in the queue.
fn message(node: &Node, mail: &Mail) -> Raw {
    let node_name = |name: &NodeName| call::atom(name.as_str());
    match mail {
        Mail::Message(message) => message.clone(),
        Mail::Down {
            monitor,
            target,
            reason,
        } => {
            let reference = node.own().ids.reference(monitor.0);
            call::tuple(&[
                &call::atom("DOWN"),
                &reference,
                &call::atom("process"),
                target,
                reason,
            ])
        }
        Mail::Exit { from, reason } => call::tuple(&[&call::atom("EXIT"), from, reason]),
        Mail::NodeUp(node) => pair("nodeup", &node_name(node)),
        Mail::NodeDown(node) => pair("nodedown", &node_name(node)),
    }
}

/// `{Module, Function, Arity}`.
fn function(module: &str, function: &str, arity: i64) -> Raw {
    call::tuple(&[
        &call::atom(module),
        &call::atom(function),
        &call::integer(arity),
    ])
}

pub(super) fn our_function() -> Raw {
    function(FUNCTION.0, FUNCTION.1, FUNCTION.2)
}

/// The same with where its source is, as in a stack: nowhere.
fn location() -> Raw {
    let (module, name, arity) = FUNCTION;
    call::tuple(&[
        &call::atom(module),
        &call::atom(name),
        &call::integer(arity),
        &call::nil(),
    ])
}

/// The limit of a heap that has none.
fn no_heap() -> Raw {
    let mut out = BytesMut::new();
    let values = [
        ("size", call::integer(0)),
        ("kill", boolean(false)),
        ("error_logger", boolean(false)),
        ("include_shared_binaries", boolean(false)),
    ];
    put_map(&mut out, values.len());
    for (key, value) in &values {
        put_atom(&mut out, key);
        put_raw(&mut out, value);
    }
    Raw::own(out)
}
