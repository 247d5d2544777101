//! Process groups beside OTP's own `pg`: the machine of `redgrid::dist::pg`, with a toy service as its process, and real
//! `erl` nodes. Joins and leaves cross in both directions, connections break and come back, and no scope process crashes.

use crate::support::{beam::Beam, epmd::EpmdServer, eventually, toy};
use redgrid::dist::{
    Answer, Body, DownReason, Node, NodeName, PeerInfo, Service,
    pg::{self, Answered, Effect, Input, Limits, Scope},
};
use redgrid::term::{self, Raw};
use std::sync::{Arc, Mutex};

/// Two processes: `pg`, which is the scope, and `post`, which learns the pid of the scope, and takes out what the scope
/// wants sent that was not caused by a message.
#[derive(Default)]
struct Groups {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    scope: Option<Scope>,
    /// By pid, until something comes to `post`.
    waiting: Vec<(Raw, Body)>,
    /// By name.
    discoveries: Vec<(NodeName, Raw)>,
    logged: Vec<&'static str>,
}

impl Inner {
    fn handle(&mut self, input: Input) {
        let mut effects = Vec::new();
        if let Some(scope) = &mut self.scope {
            scope.handle(input, &mut effects);
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message, .. } => self.waiting.push((to, message.into())),
                Effect::SendName { node, message } => self.discoveries.push((node, message)),
                Effect::Log { what, .. } => self.logged.push(what),
                _ => {}
            }
        }
    }
}

impl Service for Groups {
    fn names(&self) -> Vec<String> {
        vec!["pg".into(), "post".into()]
    }

    fn cast(&self, name: &str, message: &Raw) {
        let answers = self.info(name, message);
        self.inner.lock().unwrap().waiting.extend(answers);
    }

    fn info(&self, name: &str, message: &Raw) -> Vec<(Raw, Body)> {
        let mut inner = self.inner.lock().unwrap();
        if name == "post" {
            if message.view().is_pid() && inner.scope.is_none() {
                let scope = Scope::new(own_name(), message.clone(), Limits::default());
                inner.scope = Some(scope);
            }
        } else if let Some(sender) = message.view().tuple().and_then(|mut t| t.nth(1))
            && let Some(from) = sender.node()
        {
            let (from, message) = (from.parse().unwrap(), message.clone());
            inner.handle(Input::Message { from, message });
        } else {
            inner.logged.push("nobody says that");
        }
        std::mem::take(&mut inner.waiting)
    }

    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        let inner = self.inner.lock().unwrap();
        let scope = |name: &str| inner.scope.as_ref().filter(|_| name == "pg");
        match module {
            "pg" => match pg::apply(scope, function, args) {
                Answered::Value(value) => Answer::Reply(value),
                Answered::Error(reason) => Answer::Error(reason),
                Answered::Undef => Answer::Undef,
            },
            _ => Answer::Undef,
        }
    }

    fn peer_up(&self, peer: &PeerInfo) {
        self.inner.lock().unwrap().handle(Input::PeerUp(peer.name.clone()));
    }

    fn peer_down(&self, peer: &PeerInfo, _: &DownReason) {
        self.inner.lock().unwrap().handle(Input::PeerDown(peer.name.clone()));
    }
}

fn own_name() -> NodeName {
    "rust@127.0.0.1".parse().unwrap()
}

const RUST: &str = "'rust@127.0.0.1'";

impl Groups {
    fn members(&self, group: &Raw) -> usize {
        let inner = self.inner.lock().unwrap();
        inner.scope.as_ref().map_or(0, |scope| scope.members(group).len())
    }

    fn logged(&self) -> Vec<&'static str> {
        self.inner.lock().unwrap().logged.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Scope, &mut Vec<Effect>)) {
        let mut inner = self.inner.lock().unwrap();
        let mut effects = Vec::new();
        change(inner.scope.as_mut().expect("a scope"), &mut effects);
        inner.perform(effects);
    }
}

/// The pid of a process of the Rust node that does not exist; nobody looks, since members are watched by their own node.
fn process(node: &Node, number: u32) -> Raw {
    let mut out = bytes::BytesMut::new();
    let creation = node.creation();
    term::write::put_pid(&mut out, own_name().as_str(), 100 + number, 0, creation);
    Raw::written(out).expect("a pid")
}
