//! What can be wrong with the settings. Every message is one line: where the
//! value stood, what is wrong with it, and the mend. Secrets are never in it.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where a value came from, in the order in which they count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A flag of the command line, without its dashes.
    Flag(&'static str),
    /// The environment variable made from the flag's name: `REDGRID_...`.
    Variable(String),
    /// The variable that other programs use for it.
    Heritage(&'static str),
    /// A key of the file given with `--config`.
    File(PathBuf, &'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "--{flag}"),
            Origin::Variable(name) => f.write_str(name),
            Origin::Heritage(name) => f.write_str(name),
            Origin::File(path, key) => write!(f, "`{key}` in {}", path.display()),
        }
    }
}

/// Why a text is not a value of its setting, before it is known where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub mend: String,
}

impl BadValue {
    pub(super) fn new(problem: impl Into<String>, mend: impl Into<String>) -> BadValue {
        BadValue {
            problem: problem.into(),
            mend: mend.into(),
        }
    }

    pub(super) fn at(self, origin: Origin) -> ConfigError {
        ConfigError::Value {
            origin,
            problem: self.problem,
            mend: self.mend,
        }
    }
}

/// Text from outside as it may stand in a one-line message: quoted, control
/// characters escaped, cut when long.
pub(super) fn shown(raw: &str) -> String {
    const LONGEST: usize = 80;
    let mut cut: String = raw.chars().take(LONGEST).collect();
    if cut.len() < raw.len() {
        cut.push_str("...");
    }
    format!("{cut:?}")
}

/// Why the settings give no configuration. Nothing has been started then; the
/// one thing that may have been made is the cookie file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting holds what it cannot hold. The user mends it.
    #[error("{origin}: {problem}; {mend}")]
    Value {
        /// Where the value stood.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
        /// What to write instead.
        mend: String,
    },
    /// Two settings of which only one can hold came from the same place.
    #[error("{0} and {1} exclude each other; give one of them")]
    Both(Origin, Origin),
    /// The file given with `--config` cannot be used.
    #[error("the configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the mend.
        reason: String,
    },
    /// An environment variable that is ours holds bytes that are no text.
    #[error("the environment variable {0} is not valid UTF-8; set it to plain text or unset it")]
    NotText(String),
    /// The name of this host is not known, so no node name can be made of it.
    #[error("{origin}: the {kind} name of this host is not known ({reason}); {mend}")]
    HostName {
        /// Where the name without a host stood.
        origin: Origin,
        /// `full` or `short`.
        kind: &'static str,
        /// What the system said.
        reason: String,
        /// What to write instead.
        mend: String,
    },
    /// No IPv4 address could be found for a host.
    #[error(
        "no IPv4 address for host {} ({reason}); give this node's own address with --ip ADDRESS",
        shown(host)
    )]
    NoAddress {
        /// The host part of the name, or the host given with `--ip`.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The other members would be told a loopback address, where each of them
    /// would find only itself.
    #[error(
        "{ip} is a loopback address, and host {} is not: other machines could not reach this node; \
         give its address with --ip ADDRESS, or keep it on this machine with {alone}",
        shown(host)
    )]
    LoopbackIp {
        /// The address.
        ip: Ipv4Addr,
        /// The host part of the node's name.
        host: String,
        /// The flag that makes it a node of this machine alone, for the mend.
        alone: String,
    },
    /// The cookie file cannot be used; the reason names the mend.
    #[error("the cookie file {}: {reason}", path.display())]
    CookieFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// A file for TLS cannot be used; the reason names the mend.
    #[error("{origin}: the file {}: {reason}", path.display())]
    TlsFile {
        /// Where it was named.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// There is neither a cookie nor a home to keep one in.
    #[error(
        "no cookie: HOME is not set, so there is no ~/.erlang.cookie; give --cookie-file FILE or set REDGRID_COOKIE"
    )]
    NoHome,
}

impl ConfigError {
    /// The exit code that the contract names for it: 2 for settings that can
    /// never hold, 1 for what this machine does not have or allow just now.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Value { .. }
            | ConfigError::Both(..)
            | ConfigError::File { .. }
            | ConfigError::NotText(_) => 2,
            ConfigError::HostName { .. }
            | ConfigError::NoAddress { .. }
            | ConfigError::LoopbackIp { .. }
            | ConfigError::CookieFile { .. }
            | ConfigError::TlsFile { .. }
            | ConfigError::NoHome => 1,
        }
    }
}
