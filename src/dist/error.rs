//! Why a call to a peer failed.

use super::{ConnectError, DownReason, NodeName, state::Failure};
use crate::term::Raw;
use std::time::Duration;

/// What a handshake failed for, for whoever can say more of it than the error's own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The two nodes have different cookies.
    Cookie,
    /// The peer is too old, or says what nodes of today do not.
    TooOld,
    /// The peer does not let our node connect.
    NotAllowed,
    /// The peer closed the connection when it had read our name.
    ClosedAtOnce,
    /// A node of another name answered.
    OtherName,
    /// Anything else.
    Other,
}

/// Why a call had no value. Unless it says otherwise the function may or may not have run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no connection to the peer and none could be made; nothing has run.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke while the call was under way.
    #[error("the connection to {node} broke during the call: {reason}")]
    NoConnection {
        /// The peer.
        node: NodeName,
        /// Why it broke.
        reason: DownReason,
    },
    /// No answer in time. A late one is dropped.
    #[error("{node} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// The peer.
        node: NodeName,
        /// How long it was waited for.
        after: Duration,
    },
    /// The function does not exist there; nothing has run.
    #[error("{node} has no such function: {}", show(stack))]
    Undefined {
        /// The peer.
        node: NodeName,
        /// The stack as a term; its first entry is `{Module, Function, Args, []}`.
        stack: Raw,
    },
    /// The function raised an exception.
    #[error("{node} answered with an exception ({class}): {}", show(reason))]
    Exception {
        /// The peer.
        node: NodeName,
        /// `error`, `exit` or `throw`.
        class: String,
        /// Its reason, as a term.
        reason: Raw,
    },
    /// The process is not there, or ended before it answered.
    #[error(
        "the process called on {node} is not there or has ended: {}",
        show(reason)
    )]
    Exit {
        /// The peer.
        node: NodeName,
        /// `noproc`, or what it ended with.
        reason: Raw,
    },
    /// The peer does not let its functions be called.
    #[error("{node} refused the call: {reason}")]
    Refused {
        /// The peer.
        node: NodeName,
        /// Its word: `notsup`, `system_limit`...
        reason: String,
    },
}

impl CallError {
    pub(crate) fn gone(node: &NodeName, reason: DownReason) -> Self {
        Self::NoConnection {
            node: node.clone(),
            reason,
        }
    }

    pub(crate) fn of(node: &NodeName, failure: Failure) -> Self {
        let node = node.clone();
        match failure {
            Failure::Exception {
                class,
                reason,
                stack,
            } if class == "error" && reason.view().is_atom("undef") => {
                Self::Undefined { node, stack }
            }
            Failure::Exception { class, reason, .. } => Self::Exception {
                node,
                class,
                reason,
            },
            Failure::Exit(reason) => Self::Exit { node, reason },
            Failure::Refused(reason) => Self::Refused { node, reason },
            Failure::NoConnection(reason) => Self::NoConnection { node, reason },
        }
    }
}

/// A term for an error text: one line, not too long.
fn show(term: &Raw) -> String {
    match term.decode() {
        Ok(term) => term.to_string(),
        Err(error) => format!("a term that cannot be shown ({error})"),
    }
}
