//! Settings of the short-lived commands: those that only read Redis, and those
//! that talk to a node through a hidden one of their own.

use std::time::Duration;

use rand::Rng;

use super::error::{BadValue, ConfigError, Origin};
use super::name::{self, Host, is_loopback_host, node_name};
use super::sources::{Environment, Flags, Sources};
use super::value::{self, LogLevel};
use super::{
    LogConfig, MeshConfig, Resolved, epmd_port, find_cookie, log, mesh, parsed, style_of, tls,
    warn_of_open_file,
};
use crate::dist::{Cookie, NameStyle, NodeName, Tls};

/// What the commands need that only read Redis: `nodes`, `await`.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Redis and scope.
    pub mesh: MeshConfig,
    /// How long to wait; `None` when nobody said.
    pub timeout: Option<Duration>,
    /// How they log.
    pub log: LogConfig,
}

impl ReaderConfig {
    /// Settings for a command that only reads Redis. Its log is quieter than a
    /// node's, because its result is what the user looks at.
    ///
    /// # Errors
    /// As [`super::Config::resolve`].
    pub fn resolve(flags: Flags, env: Environment) -> Result<Resolved<ReaderConfig>, ConfigError> {
        let mut warnings = Vec::new();
        let sources = Sources::new(flags, env)?;
        warn_of_open_file(&sources, &mut warnings);
        let config = ReaderConfig {
            mesh: mesh(&sources)?,
            timeout: parsed(&sources, "timeout", value::timeout)?,
            log: log(&sources, LogLevel::Warning)?,
        };
        Ok(Resolved { config, warnings })
    }
}

/// What the commands need that talk to a node through a short-lived hidden one.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// A name that the flags ask for. Only the flags: a `REDGRID_NAME` around
    /// here names the daemon, and this must not pretend to be it.
    name: Option<NodeName>,
    /// The secret of the cluster.
    pub cookie: Cookie,
    /// Whether the target is talked to inside TLS, and how.
    pub tls: Option<Tls>,
    /// The port of epmd wherever the target is.
    pub epmd_port: u16,
    /// Redis and scope, where the target can be looked up.
    pub mesh: MeshConfig,
    /// How long to wait; `None` when nobody said.
    pub timeout: Option<Duration>,
    /// How they log.
    pub log: LogConfig,
}

impl CallerConfig {
    /// Settings for a command that talks to a node.
    ///
    /// # Errors
    /// As [`super::Config::resolve`].
    pub fn resolve(
        flags: Flags,
        env: Environment,
        host: &dyn Host,
    ) -> Result<Resolved<CallerConfig>, ConfigError> {
        let mut warnings = Vec::new();
        let sources = Sources::new(flags.clone(), env)?;
        let typed_alone = Sources::new(flags.without("config"), Environment::new())?;
        let name = match typed_alone.either("name", "sname")? {
            Some((flag, found)) => Some(node_name(
                found.text(),
                style_of(flag),
                &found.origin,
                host,
            )?),
            None => None,
        };
        let mesh = mesh(&sources)?;
        let epmd_port = epmd_port(&sources)?;
        let timeout = parsed(&sources, "timeout", value::timeout)?;
        let log = log(&sources, LogLevel::Warning)?;
        // It dials only: without a certificate it is refused by peers that demand one, and by nobody else.
        let tls = tls::tls(&sources, false, &mut warnings)?;
        let cookie = find_cookie(&sources, &mut warnings)?;
        warn_of_open_file(&sources, &mut warnings);
        let config = CallerConfig {
            name,
            cookie,
            tls,
            epmd_port,
            mesh,
            timeout,
            log,
        };
        Ok(Resolved { config, warnings })
    }

    /// The name of the short-lived node: the one asked for, else one after this
    /// process, in the name style of the target, since only nodes of one style
    /// talk to each other. The random end keeps apart two machines on which the
    /// process has the same number.
    ///
    /// # Errors
    /// When the name asked for is of the other style than the target's.
    pub fn name_for(&self, target: &NodeName, host: &dyn Host) -> Result<NodeName, ConfigError> {
        let style = target.style();
        if let Some(name) = &self.name {
            if name.style() == style {
                return Ok(name.clone());
            }
            let (flag, other) = match style {
                NameStyle::Long => ("sname", "name"),
                NameStyle::Short => ("name", "sname"),
            };
            let problem =
                format!("{name} and {target} have different name styles and cannot connect");
            return Err(
                BadValue::new(problem, format!("use --{other}, or leave it away"))
                    .at(Origin::Flag(flag)),
            );
        }
        let (own, fallback) = match style {
            _ if is_loopback_host(target.host()) => (target.host().to_owned(), "localhost"),
            // Nobody dials this node, so any long host will do when ours is not known.
            NameStyle::Long => (host.full_name().unwrap_or_default(), "127.0.0.1"),
            NameStyle::Short => (name::short(host).unwrap_or_default(), "localhost"),
        };
        let end: u16 = rand::rng().random();
        let local = format!("redgrid-{}-{end:04x}", std::process::id());
        let named = |part: &str| {
            let origin = Origin::Flag(if style == NameStyle::Long {
                "name"
            } else {
                "sname"
            });
            node_name(&format!("{local}@{part}"), style, &origin, host)
        };
        named(&own).or_else(|_| named(fallback))
    }
}

/// The port of epmd, for a command that needs nothing else.
///
/// # Errors
/// When one of the places that name it names no port.
pub fn resolve_epmd_port(flags: Flags, env: Environment) -> Result<u16, ConfigError> {
    epmd_port(&Sources::new(flags, env)?)
}
