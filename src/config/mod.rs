//! Settings as given → settings as used, once.
//!
//! ```text
//!   flags as typed ┐
//!   REDGRID_<FLAG> ├─ table.rs, sources.rs:     value.rs, name.rs, cookie.rs,   Config
//!   heritage names │  the first place that  →   meta.rs, redis_url.rs:      →  MeshConfig
//!   --config FILE  ┘  names it counts           text → value, or the mend      CallerConfig
//! ```
//!
//! After this nothing is looked up again: names are whole, addresses resolved,
//! the cookie read. It all happens before anything is started, and it blocks (on
//! files, on DNS), so it is not for a running node. What is not wrong but should
//! be said is returned in [`Resolved::warnings`], because the log is itself one
//! of the settings.

mod command;
mod cookie;
mod doctor;
mod error;
mod file;
mod meta;
mod name;
mod redis_url;
mod sources;
mod table;
mod tls;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

pub use self::command::{CallerConfig, ReaderConfig, resolve_epmd_port};
pub use self::doctor::DoctorConfig;
pub use self::error::{BadValue, ConfigError, Origin};
pub use self::meta::entry as meta_entry;
pub use self::name::{Host, ThisHost, is_loopback_host};
pub use self::redis_url::RedisUrl;
pub use self::sources::{Environment, Flags, environment};
pub use self::table::{Kind, SETTINGS, Setting};
pub use self::value::{LogFormat, LogLevel};

use self::name::{node_name, own_ip};
use self::sources::{Found, Sources};
use crate::dist::{
    BadRule, Cookie, DEFAULT_EPMD_PORT, EpmdMode, Listen, NameStyle, NodeName, Rules, Tls,
};
use crate::grid::{Connect, Meta};
use crate::term::Limits;

/// The name of a node that was given none.
const DEFAULT_NAME: &str = "redgrid@127.0.0.1";
/// The silence that means down, as OTP has it.
const DEFAULT_TICKTIME: Duration = Duration::from_secs(60);
/// The largest frame taken from a peer, in bytes.
const DEFAULT_MAX_FRAME: usize = 512 * 1024 * 1024;
/// The most members a view holds.
const DEFAULT_MAX_MEMBERS: usize = 20_000;

/// Settings ready for use, with what the user should be told beside them.
#[derive(Debug)]
pub struct Resolved<T> {
    /// The settings.
    pub config: T,
    /// One line each, for the log, as soon as there is one.
    pub warnings: Vec<String>,
}

/// Where the mesh is: its Redis and its scope.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// The Redis server.
    pub redis: RedisUrl,
    /// Whether anyone named that server; otherwise it is the default one.
    pub redis_named: bool,
    /// First half of the scope; may be empty.
    pub domain: String,
    /// Second half of the scope; may be empty.
    pub version: String,
    /// Whether members of every version are taken.
    pub any_version: bool,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// This and everything graver.
    pub level: LogLevel,
    /// For people or for programs.
    pub format: LogFormat,
}

/// How epmd is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpmdConfig {
    /// Whether one is served here.
    pub mode: EpmdMode,
    /// Its port, on this host and on every other.
    pub port: u16,
    /// Where one that is served here listens beside the loopback; empty: everywhere.
    pub addresses: Vec<IpAddr>,
}

/// Everything `redgrid node` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub name: NodeName,
    /// The secret of the cluster.
    pub cookie: Cookie,
    /// Redis and scope.
    pub mesh: MeshConfig,
    /// The address that the other members are told.
    pub ip: Ipv4Addr,
    /// What the node announces about itself.
    pub meta: Meta,
    /// Where it listens for other nodes.
    pub listen: Listen,
    /// How it uses epmd.
    pub epmd: EpmdConfig,
    /// Which discovered nodes it connects to of its own accord.
    pub connect: Connect,
    /// The networks it may dial into; empty: any.
    pub peers: Vec<IpNet>,
    /// Whether its connections are inside TLS, and how.
    pub tls: Option<Tls>,
    /// Which peer may reach what.
    pub access: Rules,
    /// Whether it stays out of the others' `nodes()`.
    pub hidden: bool,
    /// The silence after which a peer is down.
    pub net_ticktime: Duration,
    /// The largest frame it takes, in bytes.
    pub max_frame: usize,
    /// How deep a term from a peer may be nested.
    pub max_depth: usize,
    /// The most members its view holds.
    pub max_members: usize,
    /// Whether the processes `echo` and `sink` are registered.
    pub echo: bool,
    /// How it logs.
    pub log: LogConfig,
}

impl Config {
    /// Settings for `redgrid node`.
    ///
    /// # Errors
    /// The first setting that cannot be used, with where it stood and the mend.
    pub fn resolve(
        flags: Flags,
        env: Environment,
        host: &dyn Host,
    ) -> Result<Resolved<Config>, ConfigError> {
        let mut warnings = Vec::new();
        let sources = Sources::new(flags, env)?;
        // What needs no file and no DNS comes first: a slip of the pen is told at
        // once, and before a cookie file is made.
        let mesh = mesh(&sources)?;
        let log = log(&sources, LogLevel::Info)?;
        let meta = match sources.find("meta")? {
            Some(found) => meta::meta(&found.values).map_err(|bad| bad.at(found.origin))?,
            None => Meta::default(),
        };
        let listen: Option<Listen> = parsed(&sources, "listen", value::listen)?;
        let epmd = EpmdConfig {
            mode: parsed(&sources, "epmd", value::epmd)?.unwrap_or(EpmdMode::Auto),
            port: epmd_port(&sources)?,
            addresses: list(&sources, "epmd-address", value::address)?,
        };
        let connect = parsed(&sources, "connect", value::connect)?.unwrap_or_default();
        let peers = list(&sources, "peers", value::network)?;
        let access = access(&sources)?;
        let hidden = sources.is_on("hidden")?;
        let net_ticktime =
            parsed(&sources, "net-ticktime", value::ticktime)?.unwrap_or(DEFAULT_TICKTIME);
        let max_frame =
            parsed(&sources, "max-frame", value::frame_size)?.unwrap_or(DEFAULT_MAX_FRAME);
        let max_depth =
            parsed(&sources, "max-depth", value::depth)?.unwrap_or(Limits::default().max_depth);
        let max_members =
            parsed(&sources, "max-members", value::members)?.unwrap_or(DEFAULT_MAX_MEMBERS);
        let echo = sources.is_on("echo")?;

        let name = own_name(&sources, host)?;
        let given_ip = sources.find("ip")?;
        let ip = own_ip(
            given_ip
                .as_ref()
                .map(|found| (found.text(), found.origin.clone())),
            &name,
            host,
        )?;
        let tls = tls::tls(&sources, true, &mut warnings)?;
        let listen = listen.unwrap_or_else(|| Listen {
            ip: default_address(name.host()),
            ports: 0..=0,
        });
        let cookie = find_cookie(&sources, &mut warnings)?;

        let off_loopback = !ip.is_loopback() || !listen.ip.is_loopback();
        if let (true, Some(warning)) = (off_loopback, cookie::doubts(&cookie)) {
            warnings.push(warning);
        }
        if listen.ip.is_loopback() && !ip.is_loopback() {
            warnings.push(format!(
                "the other members are told to reach this node at {ip}, but it listens on {} alone; \
                 give --listen 0.0.0.0:0 if they should",
                listen.ip
            ));
        }
        warn_of_open_file(&sources, &mut warnings);
        let config = Config {
            name,
            cookie,
            mesh,
            ip,
            meta,
            listen,
            epmd,
            connect,
            peers,
            tls,
            access,
            hidden,
            net_ticktime,
            max_frame,
            max_depth,
            max_members,
            echo,
            log,
        };
        Ok(Resolved { config, warnings })
    }
}

fn own_name(sources: &Sources, host: &dyn Host) -> Result<NodeName, ConfigError> {
    match sources.either("name", "sname")? {
        Some((flag, found)) => node_name(found.text(), style_of(flag), &found.origin, host),
        None => node_name(DEFAULT_NAME, NameStyle::Long, &Origin::Flag("name"), host),
    }
}

fn style_of(flag: &str) -> NameStyle {
    if flag == "sname" {
        NameStyle::Short
    } else {
        NameStyle::Long
    }
}

fn default_address(host: &str) -> IpAddr {
    match host.parse() {
        Ok(ip @ IpAddr::V6(_)) if is_loopback_host(host) => ip,
        _ if is_loopback_host(host) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn mesh(sources: &Sources) -> Result<MeshConfig, ConfigError> {
    let redis: Option<RedisUrl> = parsed(sources, "redis", str::parse)?;
    let text = |key| {
        Ok(sources
            .find(key)?
            .map(|found| found.text().to_owned())
            .unwrap_or_default())
    };
    Ok(MeshConfig {
        redis_named: redis.is_some(),
        redis: redis.unwrap_or_default(),
        domain: text("domain")?,
        version: text("mesh-version")?,
        any_version: sources.is_on("any-version")?,
    })
}

fn access(sources: &Sources) -> Result<Rules, ConfigError> {
    let add = |rules: Rules, key, add: fn(Rules, &str) -> Result<Rules, BadRule>| {
        let Some(Found { values, origin }) = sources.find(key)? else {
            return Ok(rules);
        };
        values
            .iter()
            .try_fold(rules, |rules, text| add(rules, text))
            .map_err(|bad| BadValue::new(bad.problem, bad.mend).at(origin))
    };
    let rules = add(Rules::default(), "allow", Rules::allow)?;
    add(rules, "deny", Rules::deny)
}

fn log(sources: &Sources, default: LogLevel) -> Result<LogConfig, ConfigError> {
    Ok(LogConfig {
        level: parsed(sources, "log-level", str::parse)?.unwrap_or(default),
        format: parsed(sources, "log-format", str::parse)?.unwrap_or(LogFormat::Text),
    })
}

fn epmd_port(sources: &Sources) -> Result<u16, ConfigError> {
    Ok(parsed(sources, "epmd-port", value::port)?.unwrap_or(DEFAULT_EPMD_PORT))
}

/// The cookie, made where there is none.
fn find_cookie(sources: &Sources, warnings: &mut Vec<String>) -> Result<Cookie, ConfigError> {
    if let Some(cookie) = existing_cookie(sources)? {
        return Ok(cookie);
    }
    let (cookie, made) = cookie::find_or_make(&cookie_places(sources)?)?;
    if let Some(path) = made {
        warnings.push(format!(
            "there was no cookie, so a new one was made in {}; every node of the cluster needs the same",
            path.display()
        ));
    }
    Ok(cookie)
}

/// The cookie, where there is one.
fn existing_cookie(sources: &Sources) -> Result<Option<Cookie>, ConfigError> {
    match sources.either("cookie", "cookie-file")? {
        Some(("cookie", found)) => Cookie::new(found.text()).map(Some).map_err(|bad| {
            BadValue::new(
                bad.to_string(),
                "write 1 to 255 printable ASCII characters, the same on every node",
            )
            .at(found.origin)
        }),
        Some((_, found)) => cookie::from_file(Path::new(found.text())).map(Some),
        None => cookie::find(&cookie_places(sources)?),
    }
}

fn cookie_places(sources: &Sources) -> Result<cookie::Places, ConfigError> {
    Ok(cookie::Places::new(
        sources.variable("HOME")?,
        sources.variable("XDG_CONFIG_HOME")?,
    ))
}

/// A configuration file with a secret in it that others can read. It is not
/// refused as a cookie file is, since most such files hold no secret.
fn warn_of_open_file(sources: &Sources, warnings: &mut Vec<String>) {
    let Some((path, table)) = sources.file() else {
        return;
    };
    let secret = ["cookie", "redis"].into_iter().find(|key| match *key {
        "redis" => table
            .get("redis")
            .and_then(toml::Value::as_str)
            .is_some_and(|url| url.contains('@') || url.contains("pass=")),
        key => table.contains_key(key),
    });
    let open = std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0);
    if let (Some(key), true) = (secret, open) {
        warnings.push(format!(
            "{} holds a secret (`{key}`) and others can read it: chmod 600 {}",
            path.display(),
            path.display()
        ));
    }
}

fn parsed<T>(
    sources: &Sources,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<Option<T>, ConfigError> {
    let Some(found) = sources.find(key)? else {
        return Ok(None);
    };
    parse(found.text())
        .map(Some)
        .map_err(|bad| bad.at(found.origin))
}

fn list<T>(
    sources: &Sources,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<Vec<T>, ConfigError> {
    let Some(Found { values, origin }) = sources.find(key)? else {
        return Ok(Vec::new());
    };
    values
        .iter()
        .map(|raw| parse(raw))
        .collect::<Result<_, _>>()
        .map_err(|bad| bad.at(origin))
}

#[cfg(test)]
mod tests;
