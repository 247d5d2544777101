//! Why a node could not be reached, and what to do about it.

use super::{Check, Finding};
use crate::dist::{CallError, ConnectError, NodeName, Refusal};
use std::net::SocketAddr;

/// What a failed connection means. `accepts`: whether something accepts at the address where nothing answered.
pub(super) fn connect(node: &NodeName, error: &ConnectError, accepts: bool) -> Finding {
    let problem = |fault, what: String, mend: String| {
        Finding::problem(Check::Node, fault, what, mend).about(node)
    };
    match error {
        ConnectError::Epmd { at, why, .. } => problem(
            "epmd_unreachable",
            format!("the epmd that knows its port does not answer at {at} ({why})"),
            format!(
                "see that the host is up and epmd runs there, and let firewalls pass port {}",
                at.port()
            ),
        ),
        ConnectError::NotRegistered { at, .. } => problem(
            "not_running",
            format!("epmd at {at} knows no {:?}", node.short()),
            format!("start it; `redgrid names {}` shows what runs there", at.ip()),
        ),
        ConnectError::Resolve { why, .. } => unresolvable(node, why),
        ConnectError::Io { at, why, .. } => blocked(node, *at, why),
        ConnectError::Handshake {
            refusal,
            why,
            answered,
            ..
        } => match refusal {
            Refusal::Cookie => problem(
                "cookie_mismatch",
                "its cookie is not the one here".into(),
                "start both with the same: compare ~/.erlang.cookie of both users, or give --cookie-file (erl: \
                 -setcookie)"
                    .into(),
            ),
            Refusal::TooOld => problem(
                "too_old",
                format!("it is too old: {why}"),
                "run it on OTP 25 or newer".into(),
            ),
            Refusal::ClosedAtOnce => problem(
                "too_old",
                "it closes the connection at our first word, as OTP does up to release 22".into(),
                "run it on OTP 25 or newer; if it is, its log says why".into(),
            ),
            Refusal::NotAllowed => problem(
                "not_allowed",
                "it refuses this node by its name or release".into(),
                "its log says why: net_kernel:allow/1 there must name this node, and its release must go with OTP 25 \
                 to 29"
                    .into(),
            ),
            Refusal::OtherName => {
                let other = answered
                    .as_ref()
                    .map_or("a node with another name".to_owned(), NodeName::to_string);
                problem(
                    "other_name",
                    format!("{other} answers in its place"),
                    format!("start {node}, or use the name {other}"),
                )
            }
            Refusal::Other => problem(
                "handshake",
                format!("the handshake fails: {why}"),
                "its log says more; if it is no node, stop what listens there".into(),
            ),
        },
        ConnectError::Tls { why, .. } => {
            problem("tls_mismatch", "no TLS comes to be with it".into(), why.clone())
        }
        ConnectError::Timeout { after, .. } if accepts => problem(
            "node_hangs",
            format!(
                "its port accepts, and no handshake came of it within {} s",
                after.as_secs()
            ),
            "it is stopped, overloaded, or no node: look at its process, and start it again".into(),
        ),
        ConnectError::Timeout { after, .. } => problem(
            "port_blocked",
            format!("nothing came back from it within {} s", after.as_secs()),
            "most likely a firewall drops what is sent to it: let its port pass (redgrid node --listen ADDR:PORT, erl \
             -kernel inet_dist_listen_min and inet_dist_listen_max, give it a fixed one)"
                .into(),
        ),
        ConnectError::Never { .. } | ConnectError::Itself(_) | ConnectError::Stopped => problem(
            "not_dialled",
            error.to_string(),
            "choose another --name for this examination".into(),
        ),
    }
}

/// A host that nobody knows.
pub(super) fn unresolvable(node: &NodeName, why: &str) -> Finding {
    let host = node.host();
    Finding::problem(
        Check::Node,
        "name_unresolvable",
        format!("its host {host:?} does not resolve ({why})"),
        format!("enter {host} into DNS or /etc/hosts, or name the node by an address"),
    )
    .about(node)
}

fn blocked(node: &NodeName, at: SocketAddr, why: &str) -> Finding {
    Finding::problem(
        Check::Node,
        "port_blocked",
        format!("nothing accepts at {at} ({why})"),
        format!(
            "if it runs, let firewalls pass port {} to it, and have it listen at {} (redgrid node --listen, \
             --ip; erl -kernel inet_dist_use_interface)",
            at.port(),
            at.ip()
        ),
    )
    .about(node)
}

/// What a failed call over a connection means.
pub(super) fn call(node: &NodeName, error: &CallError) -> Finding {
    let (fault, mend) = match error {
        CallError::Connect(error) => return connect(node, error, true),
        CallError::Timeout { .. } => (
            "node_hangs",
            "it is stopped or overloaded; --timeout SECONDS waits longer",
        ),
        _ => ("no_round_trip", "its log says more"),
    };
    Finding::problem(Check::Node, fault, error.to_string(), mend).about(node)
}
