//! Nodes with a toy service: it answers a little of everything and remembers what it was told.

use super::beam::COOKIE;
use super::epmd::EpmdServer;
use redgrid::dist::{
    Answer, Body, Cookie, DownReason, EpmdMode, Node, NodeName, Options, PeerInfo, Service,
};
use redgrid::term::{Raw, atom};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a service was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Up(NodeName, u64),
    Down(NodeName, u64, DownReason),
    Cast(Raw),
    Info(Raw),
}

/// One process, `toy`, and one module, `toy`.
#[derive(Default)]
pub(crate) struct Toy {
    events: Mutex<Vec<Event>>,
}

impl Toy {
    /// Everything that was told so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The reasons of all ends so far.
    pub(crate) fn downs(&self) -> Vec<DownReason> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Down(_, _, reason) => Some(reason),
                _ => None,
            })
            .collect()
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl Service for Toy {
    fn names(&self) -> Vec<String> {
        vec!["toy".into()]
    }

    /// `slow`: after 50 ms; `never`; anything else comes back.
    fn call(&self, _: &str, request: &Raw) -> Answer {
        match request.view().as_atom() {
            Some("slow") => Answer::Later(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Answer::Reply(Raw::encode(&atom("at_last")))
            })),
            Some("never") => Answer::Later(Box::pin(std::future::pending())),
            Some("error") => Answer::Error(Raw::encode(&atom("on_purpose"))),
            _ => Answer::Reply(request.clone()),
        }
    }

    fn cast(&self, _: &str, message: &Raw) {
        self.note(Event::Cast(message.clone()));
    }

    fn info(&self, _: &str, message: &Raw) -> Vec<(Raw, Body)> {
        self.note(Event::Info(message.clone()));
        Vec::new()
    }

    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        match (module, function, args) {
            ("toy", "same", [value]) => Answer::Reply(value.clone()),
            ("toy", "slow", [value]) => {
                let value = value.clone();
                Answer::Later(Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Answer::Reply(value)
                }))
            }
            ("toy", "never", _) => Answer::Later(Box::pin(std::future::pending())),
            ("toy", "error", [reason]) => Answer::Error(reason.clone()),
            _ => Answer::Undef,
        }
    }

    fn peer_up(&self, peer: &PeerInfo) {
        self.note(Event::Up(peer.name.clone(), peer.connection));
    }

    fn peer_down(&self, peer: &PeerInfo, reason: &DownReason) {
        self.note(Event::Down(
            peer.name.clone(),
            peer.connection,
            reason.clone(),
        ));
    }
}

/// Options for a node of this name at this epmd, with the cookie of all.
pub(crate) fn options(epmd: &EpmdServer, name: &str) -> Options {
    let name = format!("{name}@127.0.0.1").parse().expect("a node name");
    let mut options = Options::new(name, Cookie::new(COOKIE).expect("a cookie"));
    options.epmd = epmd.address();
    options.epmd_mode = EpmdMode::External;
    options
}

/// A node with these options and its service.
pub(crate) async fn start(options: Options) -> (Node, Arc<Toy>) {
    let toy = Arc::new(Toy::default());
    let node = Node::start(options, toy.clone()).await;
    (node.expect("a node starts"), toy)
}
