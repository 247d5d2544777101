//! What is wrong where a node is to run or runs: Redis, epmd, the node's name, its port, and the way to every node that
//! is known.
//!
//! ```text
//!   Redis ──► clock, members ┐
//!   epmd ───► names here ────┼─► known nodes ──► connect, call ──► what failed, and the mend
//!   nodes that were named ───┘                       │
//!                                                    └──► is our own name free, or had twice?
//! ```
//!
//! Nothing is changed anywhere: no key, no name in epmd, no file. The nodes see a hidden one come and go.
//!
//! A node counts that is a member of the mesh, or that was asked for: when it cannot be reached that is a problem. What
//! else epmd knows may belong to another cluster, with a cookie and a name style of its own, and is warned about.

mod explain;
mod peers;

use crate::{
    dist::{Cookie, Epmd, Listen, NodeName, Tls},
    grid::{self, Examined, GridError, Scope},
};
use peers::{Meeting, Source};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

/// Clocks this far apart are no longer those of machines that are set by the network.
const SKEW_WARNED: i64 = 2_000;

/// So far apart, times of two machines cannot be compared any more.
const SKEW_WRONG: i64 = 30_000;

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of Redis. Its password is never shown.
    pub redis: String,
    /// Which mesh.
    pub scope: Scope,
    /// Where epmd is, here and on other hosts.
    pub epmd: Epmd,
    /// The name of our node, when it has one.
    pub name: Option<NodeName>,
    /// Where the others are told to reach it.
    pub ip: Option<IpAddr>,
    /// Whether nobody may have that name yet.
    pub must_be_free: bool,
    /// Where it listens; `None`: at any port.
    pub listen: Option<Listen>,
    /// What other nodes are talked to with; without it none is.
    pub voice: Option<(Cookie, Option<Tls>)>,
    /// Nodes to examine, beside those that are found.
    pub nodes: Vec<NodeName>,
    /// How long a node may take to answer, once it is connected.
    pub patience: Duration,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Whether Redis answers.
    Redis,
    /// Whether its clock and ours agree.
    Clock,
    /// Whether an epmd answers here.
    Epmd,
    /// Our name: whether others can resolve its host, and who has it.
    Name,
    /// Our cookie.
    Cookie,
    /// Our certificate.
    Tls,
    /// What else is to be said of our settings.
    Settings,
    /// Whether we can listen.
    Port,
    /// Another node, from here.
    Node,
}

impl Check {
    /// Its word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Clock => "clock",
            Self::Epmd => "epmd",
            Self::Name => "name",
            Self::Cookie => "cookie",
            Self::Tls => "tls",
            Self::Settings => "settings",
            Self::Port => "port",
            Self::Node => "node",
        }
    }
}

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Ok,
    /// It may be meant so.
    Warning,
    /// Something does not work.
    Problem,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What a check has found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How grave it is.
    pub state: State,
    /// What is wrong in one word, for programs, such as `cookie_mismatch`; `None` when all is well.
    pub fault: Option<&'static str>,
    /// The node that it is about.
    pub node: Option<NodeName>,
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: Check, what: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            fault: None,
            node: None,
            what: what.into(),
            mend: None,
        }
    }

    /// Something does not work.
    pub fn problem(
        check: Check,
        fault: &'static str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Problem,
            fault: Some(fault),
            mend: Some(mend.into()),
            ..Self::ok(check, what)
        }
    }

    /// The same where it may be meant so.
    pub fn warning(
        check: Check,
        fault: &'static str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Warning,
            ..Self::problem(check, fault, what, mend)
        }
    }

    fn about(self, node: &NodeName) -> Self {
        Self {
            node: Some(node.clone()),
            ..self
        }
    }
}

/// Looks at everything. Where nodes do not answer it takes some seconds for every 32 of them.
pub async fn examine(options: &Options) -> Vec<Finding> {
    let (examined, names) = tokio::join!(
        grid::examine(&options.redis, &options.scope),
        options.epmd.names(options.epmd.local)
    );
    let mut findings = redis(&examined, &options.scope);
    findings.push(epmd(&options.epmd, &names));
    let members = examined.map_or(Vec::new(), |examined| examined.members);
    let names = names.unwrap_or_default();

    let known = peers::known(options, &members, &names).await;
    if options.voice.is_none() && !known.is_empty() {
        findings.push(Finding::warning(
            Check::Node,
            "not_examined",
            format!(
                "{} known and not talked to, for want of cookie or certificate",
                known.len()
            ),
            "mend those first",
        ));
    }
    let met = peers::meet(options, known, &names).await;
    if let Some(name) = &options.name {
        let own = own_name(options, name, &names, &met);
        let runs = met
            .iter()
            .any(|met| met.known.node == *name && met.answered);
        findings.push(own);
        findings.push(port(options.listen.as_ref(), runs));
    }
    findings.extend(met.into_iter().map(|met| met.finding));
    findings
}

fn redis(examined: &Result<Examined, GridError>, scope: &Scope) -> Vec<Finding> {
    let examined = match examined {
        Ok(examined) => examined,
        Err(GridError::Redis(trouble)) => {
            let (what, mend) = (trouble.what.clone(), trouble.mend.clone());
            return vec![Finding::problem(Check::Redis, "redis_down", what, mend)];
        }
        Err(other) => {
            let mend = "correct --redis";
            return vec![Finding::problem(
                Check::Redis,
                "redis_url",
                other.to_string(),
                mend,
            )];
        }
    };
    let Examined {
        place,
        took,
        ahead_ms,
        members,
    } = examined;
    let took = took.as_secs_f64() * 1000.0;
    let count = match members.len() {
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let answers = format!("{place} answers ({took:.1} ms) and has {count} of {scope}");
    vec![Finding::ok(Check::Redis, answers), clock(*ahead_ms)]
}

fn clock(ahead_ms: i64) -> Finding {
    let off = ahead_ms.saturating_abs();
    let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
    let what = format!(
        "the clock here is {:.1} s {way} that of Redis",
        off as f64 / 1000.0
    );
    let mend = "have both machines set their clocks by the network (timedatectl set-ntp true); the mesh goes by the \
                clock of Redis, but certificates, logs and graphs do not";
    if off <= SKEW_WARNED {
        let within = SKEW_WARNED / 1000;
        let what = format!("the clocks here and of Redis agree within {within} s");
        Finding::ok(Check::Clock, what)
    } else if off <= SKEW_WRONG {
        Finding::warning(Check::Clock, "clock_skew", what, mend)
    } else {
        Finding::problem(Check::Clock, "clock_skew", what, mend)
    }
}

fn epmd(epmd: &Epmd, names: &Result<Vec<(String, u16)>, String>) -> Finding {
    let at = SocketAddr::new(epmd.local, epmd.port);
    match names {
        Ok(names) if names.is_empty() => Finding::ok(
            Check::Epmd,
            format!("epmd at {at} answers and knows no node"),
        ),
        Ok(names) => {
            let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            let what = format!("epmd at {at} answers and knows {}", names.join(", "));
            Finding::ok(Check::Epmd, what)
        }
        Err(why) => Finding::problem(
            Check::Epmd,
            "epmd_down",
            format!("no epmd answers at {at} ({why})"),
            "start a node here, which serves one (redgrid node --epmd auto), or `epmd -daemon`; if it has another \
             port, give --epmd-port or ERL_EPMD_PORT",
        ),
    }
}

/// Whether the name can be had, or who has it.
fn own_name(
    options: &Options,
    name: &NodeName,
    names: &[(String, u16)],
    met: &[Meeting],
) -> Finding {
    let short = name.short();
    let other_host = met.iter().find(|met| {
        let node = &met.known.node;
        let same = node.short() == short && node != name;
        same && met.known.source == Source::Epmd && met.answered
    });
    if let Some(other) = other_host {
        let other = &other.known.node;
        return Finding::problem(
            Check::Name,
            "duplicate_name",
            format!(
                "epmd here has {short:?} for {other} already, and takes no second one for {name}"
            ),
            "stop that node, or choose another --name: what stands before the @ can be had once on a host",
        );
    }
    let runs = met
        .iter()
        .find(|met| met.known.node == *name && met.answered);
    let registered = names.iter().find(|(known, _)| known == short);
    match (runs, registered) {
        (Some(met), _) if options.must_be_free => Finding::problem(
            Check::Name,
            "duplicate_name",
            format!("a node {name} runs already{}", met.place()),
            format!(
                "to start another one choose another --name, or stop that one first; to examine it, leave --name away: \
                 redgrid doctor {name}"
            ),
        ),
        (None, Some((_, port))) if options.must_be_free => Finding::problem(
            Check::Name,
            "duplicate_name",
            format!("epmd here has {short:?} at port {port} already, and takes no second one"),
            "stop what has that port, or choose another --name",
        ),
        (Some(_), _) => Finding::ok(Check::Name, format!("{name} runs")),
        (None, Some((_, port))) => Finding::ok(
            Check::Name,
            format!("{name} is registered with epmd here, at port {port}"),
        ),
        (None, None) => {
            let ip = options.ip.map_or(String::new(), |ip| {
                format!("; the others would reach it at {ip}")
            });
            Finding::ok(Check::Name, format!("{name} is free{ip}"))
        }
    }
}

/// Whether a node could listen. Where ours runs already the port is most likely its own.
fn port(listen: Option<&Listen>, runs: bool) -> Finding {
    let Some(listen) = listen else {
        return Finding::ok(Check::Port, "the node listens at any free port");
    };
    let ports = &listen.ports;
    let shown = if ports.start() == ports.end() {
        format!("{}:{}", listen.ip, ports.start())
    } else {
        format!("{}:{}-{}", listen.ip, ports.start(), ports.end())
    };
    if runs {
        return Finding::ok(Check::Port, format!("{shown} is for the node that runs"));
    }
    let mut last = None;
    for port in ports.clone() {
        match TcpListener::bind((listen.ip, port)) {
            Ok(_) => return Finding::ok(Check::Port, format!("a node can listen at {shown}")),
            Err(why) => last = Some(why),
        }
    }
    let why = last.map_or("it has no port".to_owned(), |why| why.to_string());
    Finding::problem(
        Check::Port,
        "port_in_use",
        format!("no node can listen at {shown} ({why})"),
        "stop what listens there, or choose another --listen",
    )
}

/// Whether an address is one of this host: one that we could use ourselves.
fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// For the host part of a name that nobody dials.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
