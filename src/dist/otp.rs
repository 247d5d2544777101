//! What OTP's tools ask of any node by `rpc`: a few functions of `erlang` and friends, answered honestly and cheaply.
//! Whatever would act on the node (`halt`, `os:cmd`, code loading, the cookie) is not here, so it answers `undef`.

use super::{Answer, Node, PeerInfo, call};
use crate::term::{Raw, View};

/// The release whose behaviour ours follows, as `erlang:system_info(otp_release)` tells it.
pub(crate) const OTP_RELEASE: &str = "27";

/// Answers a function of OTP's; [`Answer::Undef`] when it is not one of those offered.
pub(crate) fn apply(node: &Node, module: &str, function: &str, args: &[Raw]) -> Answer {
    let value = match (module, function, args) {
        ("erlang", "node", []) => call::atom(node.name().as_str()),
        ("erlang", "nodes", []) => peers(node, |peer| !peer.hidden),
        ("erlang", "nodes", [kind]) => match nodes(node, kind.view()) {
            Some(list) => list,
            None => return Answer::Error(call::atom("badarg")),
        },
        ("erlang", "system_info", [item]) => match system_info(node, item.view()) {
            Some(value) => value,
            None => return Answer::Error(call::atom("badarg")),
        },
        ("erlang", "registered", []) => {
            let mut names = node.registered();
            names.sort_unstable();
            call::list(
                &names
                    .iter()
                    .map(|name| call::atom(name))
                    .collect::<Vec<_>>(),
            )
        }
        ("erlang", "whereis", [name]) => match name.view().as_atom().map(|name| node.whereis(name))
        {
            Some(Some(pid)) => pid,
            Some(None) => call::atom("undefined"),
            None => return Answer::Error(call::atom("badarg")),
        },
        ("erlang", "is_alive", []) => call::atom("true"),
        // `erl -remsh` asks this first, and then ends with one line instead of a crash report.
        ("code", "ensure_loaded", [_]) => {
            call::tuple(&[&call::atom("error"), &call::atom("nofile")])
        }
        ("code", "which", [_]) => call::atom("non_existing"),
        ("code", "is_loaded", [_]) => call::atom("false"),
        ("net_kernel", "get_net_ticktime", []) => call::integer(node.tick_time().as_secs() as i64),
        ("net_adm", "localhost", []) => call::string(node.name().host()),
        _ => return Answer::Undef,
    };
    Answer::Reply(value)
}

fn peers(node: &Node, wanted: impl Fn(&PeerInfo) -> bool) -> Raw {
    let mut peers: Vec<PeerInfo> = node.peers().into_iter().filter(wanted).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    call::list(
        &peers
            .iter()
            .map(|peer| call::atom(peer.name.as_str()))
            .collect::<Vec<_>>(),
    )
}

/// `erlang:nodes/1`: a kind or a list of kinds, of which any will do.
fn nodes(node: &Node, kinds: View<'_>) -> Option<Raw> {
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
    let connected = peers(node, |peer| if peer.hidden { hidden } else { visible });
    if !this {
        return Some(connected);
    }
    let others = connected.view().list()?.map(|peer| connected.sub(peer));
    Some(call::list(
        &std::iter::once(call::atom(node.name().as_str()))
            .chain(others)
            .collect::<Vec<_>>(),
    ))
}

fn system_info(node: &Node, item: View<'_>) -> Option<Raw> {
    Some(match item.as_atom()? {
        "otp_release" => call::string(OTP_RELEASE),
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
        "creation" => call::integer(i64::from(node.creation())),
        "wordsize" => call::integer(size_of::<usize>() as i64),
        "schedulers" | "schedulers_online" | "logical_processors" => {
            call::integer(std::thread::available_parallelism().map_or(1, |n| n.get() as i64))
        }
        _ => return None,
    })
}
