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
//!
//! | File | Holds |
//! |---|---|
//! | `machine` | what is looked at on this machine |
//! | `known` | which nodes are talked to, and where they are |
//! | `peers` | the talk with each |
//! | `explain` | what a failed one means |

mod explain;
mod known;
mod machine;
mod peers;

use crate::{
    dist::{Cookie, Epmd, Listen, NodeName, Tls},
    grid::{self, Scope},
};
use std::{fmt, net::IpAddr, time::Duration};

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
    let mut findings = machine::redis(&examined, &options.scope);
    findings.push(machine::epmd(&options.epmd, &names));
    let members = examined.map_or(Vec::new(), |examined| examined.members);
    let names = names.unwrap_or_default();

    let known = known::known(options, &members, &names).await;
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
        let own = machine::own_name(options, name, &names, &met);
        let runs = met
            .iter()
            .any(|met| met.known.node == *name && met.answered);
        findings.push(own);
        findings.push(machine::port(options.listen.as_ref(), runs));
    }
    findings.extend(met.into_iter().map(|met| met.finding));
    findings
}
