//! What the mesh needs of the node it belongs to.

use crate::dist::{self, Address, CallError, ConnectError, NodeName, PeerInfo};
use crate::term::Raw;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// The node, as the mesh sees it: a trait, so that the mesh can be tested without one.
pub trait Peers: Send + Sync + 'static {
    /// Which of the node's lives this is.
    fn creation(&self) -> u32;

    /// The port of its listener; `None` when nobody can connect to it.
    fn port(&self) -> Option<u16>;

    /// Who is connected now.
    fn peers(&self) -> Vec<PeerInfo>;

    /// Connects to a peer; at once `Ok` when it is connected already.
    fn connect(&self, peer: NodeName, at: Address) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Calls a process of another node, a pid or `{Name, Node}`, as `gen_server:call/3` does.
    fn call(
        &self,
        process: Raw,
        request: Raw,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Raw, CallError>>;

    /// Whether a node of this name completes a handshake at the address. No connection is left of it.
    fn answers_as(&self, name: NodeName, at: Address) -> BoxFuture<'static, bool>;
}

impl Peers for dist::Node {
    fn creation(&self) -> u32 {
        dist::Node::creation(self)
    }

    fn port(&self) -> Option<u16> {
        Some(dist::Node::port(self)).filter(|port| *port != 0)
    }

    fn peers(&self) -> Vec<PeerInfo> {
        dist::Node::peers(self)
    }

    fn connect(&self, peer: NodeName, at: Address) -> BoxFuture<'static, Result<(), ConnectError>> {
        let node = self.clone();
        Box::pin(async move { dist::Node::connect(&node, &peer, at).await.map(drop) })
    }

    fn call(
        &self,
        process: Raw,
        request: Raw,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Raw, CallError>> {
        let node = self.clone();
        Box::pin(async move { node.call_process(&process, request, timeout).await })
    }

    fn answers_as(&self, name: NodeName, at: Address) -> BoxFuture<'static, bool> {
        let node = self.clone();
        Box::pin(async move { dist::Node::answers_as(&node, &name, at).await })
    }
}
