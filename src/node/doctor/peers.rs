//! What becomes of a round trip to each of the known nodes.

use super::{
    Check, Finding, Options, State, explain,
    known::{Known, Source},
    machine::is_here,
};
use crate::{
    dist::{
        self, Address, ConnectError, EpmdMode, NameStyle, Node, NodeName, Options as NodeOptions,
        Refusal, Service,
    },
    term::{Raw, atom, tuple},
};
use futures_util::{StreamExt, stream};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// So many nodes are talked to at a time.
const AT_A_TIME: usize = 32;

/// How long a port may take to accept, when it is only asked for that.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(2);

/// What became of it.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) known: Known,
    /// A node of that name is there, whether it talked to us or not.
    pub(super) answered: bool,
    pub(super) finding: Finding,
}

impl Meeting {
    /// Where it is, for a text.
    pub(super) fn place(&self) -> String {
        match self.known.address {
            Ok(Address {
                ip,
                port: Some(port),
            }) => format!(" at {}", SocketAddr::new(ip, port)),
            Ok(Address { ip, port: None }) => format!(" at {ip}"),
            Err(_) => String::new(),
        }
    }
}

/// Nobody asks this node for anything.
struct Nobody;

impl Service for Nobody {}

/// Talks to all of them.
pub(super) async fn meet(
    options: &Options,
    known: Vec<Known>,
    names: &[(String, u16)],
) -> Vec<Meeting> {
    let Some(node) = voice(options).await else {
        return Vec::new();
    };
    let node = &node;
    let met = stream::iter(known)
        .map(|known| async move {
            let (known, result) = one(options, node, known).await;
            let (answered, mut finding) = match result {
                Ok(took) => match second(options, node, &known, names).await {
                    Some(finding) => (true, finding),
                    None => (true, well(&known, took)),
                },
                Err((answered, finding)) => (answered, finding),
            };
            if known.source == Source::Epmd && finding.state == State::Problem {
                finding.state = State::Warning;
            }
            Meeting {
                known,
                answered,
                finding,
            }
        })
        .buffered(AT_A_TIME)
        .collect()
        .await;
    node.stop().await;
    met
}

/// The node that we talk through: hidden, in neither epmd nor Redis. Its host is that of our name, since its
/// certificate is for that one; nobody dials it.
async fn voice(options: &Options) -> Option<Node> {
    let (cookie, tls) = options.voice.clone()?;
    let host = options
        .name
        .as_ref()
        .map_or(Ipv4Addr::LOCALHOST.to_string(), |name| {
            name.host().to_owned()
        });
    let end: u16 = rand::random();
    let name = format!("redgrid-doctor-{}-{end:04x}@{host}", std::process::id());
    let options = NodeOptions {
        hidden: true,
        listen: None,
        epmd_mode: EpmdMode::Unregistered,
        epmd: options.epmd.clone(),
        tls,
        ..NodeOptions::new(name.parse().ok()?, cookie)
    };
    // Nothing of it can fail that is not opened: neither port nor epmd.
    Node::start(options, Arc::new(Nobody)).await.ok()
}

/// A second node of the name of one that answers: epmd here has another port for it than the mesh.
async fn second(
    options: &Options,
    node: &Node,
    known: &Known,
    names: &[(String, u16)],
) -> Option<Finding> {
    let Ok(Address {
        ip,
        port: Some(listed),
    }) = known.address
    else {
        return None;
    };
    let name = &known.node;
    let (_, port) = names
        .iter()
        .find(|(short, port)| short == name.short() && *port != listed)?;
    let other = Address {
        ip: options.epmd.local,
        port: Some(*port),
    };
    // It may be another node with that name before the @, whose own is another.
    if !is_here(ip) || !node.answers_as(name, other).await {
        return None;
    }
    let finding = Finding::problem(
        Check::Node,
        "duplicate_name",
        format!(
            "two nodes of this name run: Redis has one at port {listed}, epmd here one at port {port}"
        ),
        "stop one of them, or start it under another --name",
    );
    Some(finding.about(name))
}

fn well(known: &Known, took: Duration) -> Finding {
    let took = took.as_secs_f64() * 1000.0;
    let what = match known.source {
        Source::Epmd => format!("answers ({took:.1} ms); it is no member of the mesh"),
        Source::Member | Source::Asked => format!("answers ({took:.1} ms)"),
    };
    Finding::ok(Check::Node, what).about(&known.node)
}

/// Talks to one. It may turn out to have another host part than was guessed. An error says also whether a node of that
/// name is there.
async fn one(
    options: &Options,
    node: &Node,
    mut known: Known,
) -> (Known, Result<Duration, (bool, Finding)>) {
    let mut result = try_one(options, node, &known).await;
    if let (Source::Epmd, Err(Failure::Connect(error))) = (known.source, &result)
        && let ConnectError::Handshake {
            refusal: Refusal::OtherName,
            answered: Some(real),
            ..
        } = error
        && real.short() == known.node.short()
    {
        known.node = real.clone();
        result = try_one(options, node, &known).await;
    }
    let result = match result {
        Ok(took) => Ok(took),
        Err(Failure::Told(answered, finding)) => Err((answered, *finding)),
        Err(Failure::Connect(error)) => {
            let accepts = match (&error, &known.address) {
                (ConnectError::Timeout { .. }, Ok(address)) => {
                    accepts(options, &known, address).await
                }
                _ => false,
            };
            // Another node in its place, or a peer that says nothing, is no proof that it is there.
            let answered = matches!(
                error,
                ConnectError::Handshake {
                    refusal: Refusal::Cookie | Refusal::TooOld | Refusal::NotAllowed,
                    ..
                }
            );
            Err((answered, explain::connect(&known.node, &error, accepts)))
        }
    };
    (known, result)
}

enum Failure {
    Connect(ConnectError),
    Told(bool, Box<Finding>),
}

async fn try_one(options: &Options, node: &Node, known: &Known) -> Result<Duration, Failure> {
    let name = &known.node;
    let told = |answered, finding| Failure::Told(answered, Box::new(finding));
    if name.style() != node.name().style() {
        return Err(told(
            known.source == Source::Epmd,
            other_style(name, node.name()),
        ));
    }
    let address = match &known.address {
        Ok(address) => *address,
        Err(why) => return Err(told(false, explain::unresolvable(name, why))),
    };
    let own_tls = options.voice.as_ref().is_some_and(|(_, tls)| tls.is_some());
    if let Some(tls) = known.tls.filter(|tls| *tls != own_tls) {
        return Err(told(false, other_tls(name, tls)));
    }
    node.connect(name, address)
        .await
        .map_err(Failure::Connect)?;
    let request = tuple([atom("is_auth"), atom(node.name().as_str())]);
    let asked = Instant::now();
    let answer = dist::Node::gen_call(
        node,
        name,
        "net_kernel",
        Raw::encode(&request),
        options.patience,
    );
    let answer = answer.await;
    let took = asked.elapsed();
    // A large mesh has more nodes than this process may have sockets.
    node.disconnect(name);
    match answer {
        Ok(_) => Ok(took),
        Err(error) => Err(told(true, explain::call(name, &error))),
    }
}

/// Whether something accepts where nothing answered.
async fn accepts(options: &Options, known: &Known, address: &Address) -> bool {
    let port = match address.port {
        Some(port) => Ok(port),
        None => options.epmd.look_up(address.ip, &known.node).await,
    };
    let Ok(port) = port else {
        return false;
    };
    let connected = timeout(ACCEPT_PATIENCE, TcpStream::connect((address.ip, port)));
    matches!(connected.await, Ok(Ok(_)))
}

fn other_style(node: &NodeName, own: &NodeName) -> Finding {
    let style = |name: &NodeName| match name.style() {
        NameStyle::Long => "long",
        NameStyle::Short => "short",
    };
    let flag = match node.style() {
        NameStyle::Long => "--name NAME@HOST.DOMAIN or NAME@ADDRESS",
        NameStyle::Short => "--sname NAME",
    };
    Finding::problem(
        Check::Node,
        "name_style",
        format!(
            "it has a {} name and the node here a {} one ({own}): the two styles cannot connect",
            style(node),
            style(own),
            own = own.host()
        ),
        format!("give all nodes names of one style; for its style start this one with {flag}"),
    )
    .about(node)
}

fn other_tls(node: &NodeName, tls: bool) -> Finding {
    let (what, mend) = if tls {
        (
            "it speaks TLS and this node does not",
            "give --tls-cert, --tls-key and --tls-ca here too",
        )
    } else {
        (
            "it speaks no TLS and this node does",
            "start it with --tls-cert, or leave TLS away here (--tls-cert, REDGRID_TLS_CERT)",
        )
    };
    Finding::problem(Check::Node, "tls_mismatch", what, mend).about(node)
}
