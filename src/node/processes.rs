//! Processes of the program, and talking to those of others: the face of `dist` for programs that use [`Term`]s.

use super::{CALL_TIMEOUT, CallFailure, Node};
use crate::{
    dist::{Groups, NodeName, Process, SpawnError},
    term::{Raw, Term},
};
use futures_util::future::join_all;
use std::{future::Future, time::Duration};

impl Node {
    /// A process whose mailbox the caller reads: a pid to send to, to link to, to watch.
    ///
    /// # Errors
    /// The node has stopped.
    pub fn process(&self) -> Result<Process, SpawnError> {
        self.dist().process()
    }

    /// The same with a registered name.
    ///
    /// ```no_run
    /// # use redgrid::{Node, dist::{Mail, Request}};
    /// # async fn example(node: Node) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut clock = node.spawn_named("clock")?;
    /// // gen_server:call({clock, 'rust@127.0.0.1'}, Anything)
    /// while let Ok(Mail::Message(message)) = clock.receive().await {
    ///     if let Some(call) = Request::of(&message) {
    ///         clock.reply(&call, &call.request).await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The name is taken, or the node has stopped.
    pub fn spawn_named(&self, name: &str) -> Result<Process, SpawnError> {
        self.dist().process_named(name)
    }

    /// Runs a function as a process of its own, and returns its pid. It ends `normal` when the function returns `Ok`, with the
    /// reason that it returns otherwise, and with `{panic, Text}` when it panics. An exit signal that ends it drops the
    /// function where it waits.
    ///
    /// # Errors
    /// The name is taken, or the node has stopped.
    pub fn spawn<F, R>(&self, name: Option<&str>, function: F) -> Result<Raw, SpawnError>
    where
        F: FnOnce(Process) -> R + Send + 'static,
        R: Future<Output = Result<(), Raw>> + Send + 'static,
    {
        self.dist().spawn(name, function)
    }

    /// The process groups of a scope, shared with the Erlang nodes that run it; `pg` is the one that OTP uses when none is named.
    /// Where this node does not run it yet, it begins to.
    ///
    /// # Errors
    /// Something else has the name, or the node has stopped.
    pub fn groups(&self, scope: &str) -> Result<Groups, SpawnError> {
        self.dist().groups(scope)
    }

    /// `gen_server:call({name, peer}, request)`, connecting first where needed; 5 s at most. A late answer vanishes.
    ///
    /// # Errors
    /// See [`CallFailure`].
    pub async fn gen_call(
        &self,
        peer: &NodeName,
        name: &str,
        request: &Term,
    ) -> Result<Term, CallFailure> {
        let request = Raw::try_encode(request).map_err(CallFailure::Argument)?;
        let answer = self.dist().gen_call(peer, name, request, CALL_TIMEOUT);
        answer.await?.decode().map_err(CallFailure::Value)
    }

    /// `gen_server:cast({name, peer}, message)`, connecting first where needed. Nobody hears whether the name exists.
    ///
    /// # Errors
    /// There is no connection, or the message is no term that can be sent.
    pub async fn gen_cast(
        &self,
        peer: &NodeName,
        name: &str,
        message: &Term,
    ) -> Result<(), CallFailure> {
        let message = crate::term::tuple([crate::term::atom("$gen_cast"), message.clone()]);
        self.send(peer, name, &message).await
    }

    /// Calls a function on many peers at the same time, and gives what each answered, in their order; each has as long as
    /// `timeout` says.
    pub async fn multicall(
        &self,
        timeout: Duration,
        peers: impl IntoIterator<Item = NodeName>,
        module: &str,
        function: &str,
        args: &[Term],
    ) -> Vec<(NodeName, Result<Term, CallFailure>)> {
        let calls = peers.into_iter().map(async |peer| {
            let args = args.iter().cloned();
            let answer = self.call_within(timeout, &peer, module, function, args);
            let answer = answer.await;
            (peer, answer)
        });
        join_all(calls).await
    }
}
