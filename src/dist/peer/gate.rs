//! The gate of a connection: what the rules of `access.rs` keep from its peer is answered as if it were not there, before
//! anything else sees the message.
//!
//! | What is kept from the peer | What it hears |
//! |---|---|
//! | a message, a call or a cast to a process; `exit/2`; a group leader | nothing, and the monitor of a call fires |
//! | `rpc:sbcast/3` | `nonexisting_name` |
//! | a monitor, a link | `noproc` at once |
//! | a function | `undef` |
//!
//! What takes something back passes (unlinks, demonitors, the ends of links and monitors), as OTP waits for some of it; so
//! do messages to an alias, which its owner made to be answered, by peers too that may not reach it otherwise.

use super::{
    super::{
        access::{Refusal, Target},
        call,
        message::Message,
        state::{Input, Request},
    },
    Connection, now,
};
use crate::term::{Raw, View};
use tracing::warn;

/// Where a message goes.
enum Who {
    Named(String),
    Unnamed,
    /// To nobody that rules are made for: a pid that is not there, a function that runs for this peer, ourselves as a
    /// caller.
    Else,
}

impl Connection<'_> {
    /// A message of the peer: to the state, unless the rules keep the peer from whom it is for.
    pub(super) fn received(&mut self, message: Message<Raw>) {
        if self.access.is_open() || !self.refused_at_the_gate(&message) {
            self.input(Input::Received(message));
        }
    }

    /// Whether a function is kept from the peer.
    pub(super) fn refuses(&mut self, request: &Request) -> bool {
        let Request::Apply {
            module,
            function,
            args,
        } = request
        else {
            // The gate has let these through.
            return false;
        };
        let target = Target::Function {
            module,
            function,
            arity: args.len(),
        };
        match self.access.decide(target) {
            Ok(()) => false,
            Err(why) => {
                self.audit(target, "call", &why);
                true
            }
        }
    }

    fn refused_at_the_gate(&mut self, message: &Message<Raw>) -> bool {
        let (to, how) = match message {
            Message::RegSend { to, message, .. } | Message::Send { to, message } => {
                let who = self.who(to.view());
                if matches!(&who, Who::Named(name) if name == "rex") {
                    return self.broadcast_refused(message);
                }
                return self.keeps(&who, "message");
            }
            Message::Monitor { target, .. } => (target, "monitor"),
            Message::Link { to, .. } => (to, "link"),
            Message::Exit2 { to, .. } => (to, "exit"),
            Message::GroupLeader { pid, .. } => (pid, "group leader"),
            _ => return false,
        };
        if !self.keeps(&self.who(to.view()), how) {
            return false;
        }
        match message {
            Message::Monitor {
                watcher,
                target,
                reference,
            } => self.write(Message::MonitorExit {
                target: target.clone(),
                watcher: watcher.clone(),
                reference: reference.clone(),
                reason: call::atom("noproc").into(),
            }),
            Message::Link { from, to } => self.write(Message::Exit {
                from: to.clone(),
                to: from.clone(),
                reason: call::atom("noproc").into(),
            }),
            _ => {}
        }
        true
    }

    /// `rpc:sbcast/3` is a message inside one to `rex`, and its caller waits.
    fn broadcast_refused(&mut self, message: &Raw) -> bool {
        let Some([from, request]) = message.view().tuple_n::<2>() else {
            return false;
        };
        let Some([name, _]) = request.tagged::<2>("sbcast") else {
            return false;
        };
        if !from.is_pid() || !self.keeps(&self.who(name), "message") {
            return false;
        }
        let answer = self
            .state
            .broadcast(message.sub(from), Some(&message.sub(name)));
        self.write(answer);
        true
    }

    /// Whether somebody is kept from the peer. Where nobody is there at all it is not worth a line.
    fn keeps(&mut self, who: &Who, how: &str) -> bool {
        let target = match who {
            Who::Named(name) => Target::Name(name),
            Who::Unnamed => Target::Unnamed,
            Who::Else => return false,
        };
        let Err(why) = self.access.decide(target) else {
            return false;
        };
        let there = match target {
            Target::Name(name) => self.node.whereis(name).is_some(),
            _ => true,
        };
        if there {
            self.audit(target, how, &why);
        }
        true
    }

    fn who(&self, to: View<'_>) -> Who {
        if let Some(name) = to.as_atom() {
            return Who::Named(name.to_owned());
        }
        let own = self.node.own();
        let Some(number) = own.ids.own_pid(to) else {
            return Who::Else;
        };
        if let Some((name, _)) = own.names.iter().find(|(_, pid)| **pid == number) {
            return Who::Named(name.clone());
        }
        match self.node.processes().name_of(number) {
            Some(Some(name)) => Who::Named(name),
            Some(None) => Who::Unnamed,
            None => Who::Else,
        }
    }

    /// One line: who, what, how, and which rule. Arguments and messages are never in it.
    fn audit(&mut self, what: Target<'_>, how: &str, why: &Refusal) {
        if let Some(left_out) = self.audit.refused(now()) {
            self.told_of(left_out);
            warn!(target: "redgrid::audit", peer = %self.peer.name, %what, %how, rule = %why, "refused");
        }
    }

    /// Tells how many refusals had no line, once that is due.
    pub(super) fn audit_the_rest(&mut self, at_the_end: bool) {
        let rest = match at_the_end {
            true => self.audit.end(),
            false => self.audit.rest(now()).unwrap_or_default(),
        };
        self.told_of(rest);
    }

    fn told_of(&self, left_out: u64) {
        if left_out > 0 {
            warn!(target: "redgrid::audit", peer = %self.peer.name, left_out, "refused as well, without a line for each");
        }
    }
}
