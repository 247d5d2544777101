//! The functions of `erlang` that tell of the node. What is more than a few lines is in files of its own.

use super::{
    super::{Node, PeerInfo, call},
    Function, boolean, clock, exported, process_info, system_info, uint,
};
use crate::term::{
    Raw, View,
    write::{put_atom, put_map, put_raw},
};
use bytes::BytesMut;

pub(super) const FUNCTIONS: &[Function] = &[
    ("node", 0, |node, _| Some(call::atom(node.name().as_str()))),
    ("nodes", 0, |node, _| {
        Some(names(&node.peers(), |peer| !peer.hidden))
    }),
    ("nodes", 1, |node, args| {
        let found = nodes(node, args[0].view())?;
        Some(call::list(
            &found
                .iter()
                .map(|(name, _, _)| call::atom(name))
                .collect::<Vec<_>>(),
        ))
    }),
    ("nodes", 2, |node, args| {
        nodes_with(node, args[0].view(), args[1].view())
    }),
    ("is_alive", 0, |_, _| Some(boolean(true))),
    ("registered", 0, |node, _| {
        let mut names = node.registered();
        names.sort_unstable();
        let names: Vec<Raw> = names.iter().map(|name| call::atom(name)).collect();
        Some(call::list(&names))
    }),
    ("whereis", 1, |node, args| {
        let pid = node.whereis(args[0].view().as_atom()?);
        Some(pid.unwrap_or_else(|| call::atom("undefined")))
    }),
    ("processes", 0, process_info::processes),
    ("is_process_alive", 1, process_info::is_process_alive),
    ("process_info", 1, process_info::all),
    ("process_info", 2, process_info::some),
    // Our sockets are no ports of Erlang's.
    ("ports", 0, |_, _| Some(call::nil())),
    ("port_info", 1, |_, args| no_port(args[0].view())),
    ("port_info", 2, |_, args| {
        args[1].view().as_atom()?;
        no_port(args[0].view())
    }),
    ("system_info", 1, |node, args| {
        system_info::system_info(node, &args[0])
    }),
    ("memory", 0, |node, _| Some(system_info::memory(node))),
    ("memory", 1, |node, args| {
        system_info::memory_of(node, args[0].view())
    }),
    ("statistics", 1, |node, args| {
        system_info::statistics(node, args[0].view())
    }),
    ("monotonic_time", 0, clock::monotonic_time),
    ("monotonic_time", 1, clock::monotonic_time),
    ("system_time", 0, clock::system_time),
    ("system_time", 1, clock::system_time),
    ("time_offset", 0, clock::time_offset),
    ("time_offset", 1, clock::time_offset),
    ("timestamp", 0, |_, _| Some(clock::timestamp())),
    ("now", 0, clock::now),
    ("date", 0, clock::date),
    ("time", 0, clock::time),
    ("localtime", 0, clock::localtime),
    ("universaltime", 0, clock::universaltime),
    ("function_exported", 3, |node, args| {
        let [module, function] = [&args[0], &args[1]].map(|name| name.view().as_atom());
        let arity = args[2].view().as_usize()?;
        Some(boolean(exported(node, module?, function?, arity)))
    }),
    // There is no code of Erlang's here.
    ("module_loaded", 1, |_, args| {
        args[0].view().as_atom()?;
        Some(boolean(false))
    }),
    ("loaded", 0, |_, _| Some(call::nil())),
];

fn names(peers: &[PeerInfo], wanted: impl Fn(&PeerInfo) -> bool) -> Raw {
    let mut peers: Vec<&str> = peers
        .iter()
        .filter(|peer| wanted(peer))
        .map(|peer| peer.name.as_str())
        .collect();
    peers.sort_unstable();
    let names: Vec<Raw> = peers.into_iter().map(call::atom).collect();
    call::list(&names)
}

/// `erlang:nodes/1`: a kind or a list of kinds, of which any will do. Each with what it is, and its connection.
fn nodes(node: &Node, kinds: View<'_>) -> Option<Vec<(String, &'static str, Option<u64>)>> {
    let kinds: Vec<&str> = match kinds.as_atom() {
        Some(kind) => vec![kind],
        None => kinds.list()?.map(View::as_atom).collect::<Option<_>>()?,
    };
    let (mut this, mut visible, mut hidden) = (false, false, false);
    for kind in kinds {
        match kind {
            "visible" => visible = true,
            "hidden" => hidden = true,
            "connected" => (visible, hidden) = (true, true),
            "this" => this = true,
            // We keep no record of nodes that are gone.
            "known" => (this, visible, hidden) = (true, true, true),
            _ => return None,
        }
    }
    let mut found: Vec<_> = node
        .peers()
        .into_iter()
        .filter(|peer| if peer.hidden { hidden } else { visible })
        .map(|peer| {
            let kind = if peer.hidden { "hidden" } else { "visible" };
            (peer.name.as_str().to_owned(), kind, Some(peer.connection))
        })
        .collect();
    found.sort();
    if this {
        found.insert(0, (node.name().as_str().to_owned(), "this", None));
    }
    Some(found)
}

/// `erlang:nodes/2`: the same with what is asked for in a map, each as `{Node, Info}`.
fn nodes_with(node: &Node, kinds: View<'_>, options: View<'_>) -> Option<Raw> {
    let (mut connection_id, mut node_type) = (false, false);
    for (key, wanted) in options.map()? {
        let wanted = match wanted.as_atom()? {
            "true" => true,
            "false" => false,
            _ => return None,
        };
        match key.as_atom()? {
            "connection_id" => connection_id = wanted,
            "node_type" => node_type = wanted,
            _ => return None,
        }
    }
    let with_info = |(name, kind, connection): (String, &str, Option<u64>)| {
        let mut info = BytesMut::new();
        put_map(
            &mut info,
            usize::from(connection_id) + usize::from(node_type),
        );
        if connection_id {
            let id = connection.map_or_else(|| call::atom("undefined"), uint);
            for term in [&call::atom("connection_id"), &id] {
                put_raw(&mut info, term);
            }
        }
        if node_type {
            for term in ["node_type", kind] {
                put_atom(&mut info, term);
            }
        }
        call::tuple(&[&call::atom(&name), &Raw::own(info)])
    };
    let nodes: Vec<Raw> = nodes(node, kinds)?.into_iter().map(with_info).collect();
    Some(call::list(&nodes))
}

fn no_port(port: View<'_>) -> Option<Raw> {
    (port.is_port() || port.as_atom().is_some()).then(|| call::atom("undefined"))
}
