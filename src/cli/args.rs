//! Groups of flags that commands share. Everything stays text here: a flag, a
//! variable and a line in the file are read by the same code, in
//! [`crate::config`]. Each group hands itself over as [`Flags`].

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use clap::Args;

use crate::config::Flags;

/// Text that must not be printed: it is, or may hold, a password.
#[derive(Clone)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Secret, Infallible> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Flags that say where the mesh is.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Mesh")]
pub struct MeshArgs {
    /// The Redis server: redis://HOST:PORT/DB, redis://USER:PASSWORD@HOST or unix:///PATH
    /// [also: REDIS_URL] [default: redis://127.0.0.1:6379/]
    #[arg(long, value_name = "URL")]
    pub redis: Option<Secret>,
    /// First half of the scope: only nodes of the same scope see each other
    /// [also: DOMAIN] [default: empty]
    #[arg(long, value_name = "TEXT")]
    pub domain: Option<String>,
    /// Second half of the scope [also: VERSION] [default: empty]
    #[arg(long, value_name = "TEXT")]
    pub mesh_version: Option<String>,
    /// Take members of every version of the domain, for clusters of nodes that poll; they
    /// are found by scanning, every 30 s
    #[arg(long)]
    pub any_version: bool,
}

impl MeshArgs {
    fn put(&self, flags: &mut Flags) {
        let MeshArgs {
            redis,
            domain,
            mesh_version,
            any_version,
        } = self;
        flags.one("redis", redis.as_ref().map(|secret| secret.0.as_str()));
        flags.one("domain", domain.as_deref());
        flags.one("mesh-version", mesh_version.as_deref());
        flags.switch("any-version", *any_version);
    }
}

/// The port of epmd.
#[derive(Args, Debug, Clone, Default)]
pub struct EpmdPortArg {
    /// The port of epmd, here and on every other host [also: ERL_EPMD_PORT] [default: 4369]
    #[arg(long, value_name = "PORT", help_heading = "Distribution")]
    pub epmd_port: Option<String>,
}

impl EpmdPortArg {
    fn put(&self, flags: &mut Flags) {
        flags.one("epmd-port", self.epmd_port.as_deref());
    }

    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        self.put(&mut flags);
        flags
    }
}

/// Flags that put the connections inside TLS.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "TLS between nodes (any of these turns it on)")]
pub struct TlsArgs {
    /// Our certificate, and those between it and the authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Its key (PEM, no password, mode 0400) [default: the one in the file of --tls-cert]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// The authorities whose certificates are trusted (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<String>,
    /// full: every peer needs a certificate of such an authority for the host of its name; peer: for
    /// any name; none: encrypt only, without knowing for whom [default: full]
    #[arg(long, value_name = "HOW")]
    pub tls_verify: Option<String>,
}

impl TlsArgs {
    fn put(&self, flags: &mut Flags) {
        let TlsArgs {
            tls_cert,
            tls_key,
            tls_ca,
            tls_verify,
        } = self;
        flags.one("tls-cert", tls_cert.as_deref());
        flags.one("tls-key", tls_key.as_deref());
        flags.one("tls-ca", tls_ca.as_deref());
        flags.one("tls-verify", tls_verify.as_deref());
    }
}

/// Flags that say who the node is.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Identity")]
pub struct IdentityArgs {
    /// Long node name; without @HOST the full name of this host is added
    #[arg(long, value_name = "NAME[@HOST]", conflicts_with = "sname")]
    pub name: Option<String>,
    /// Short node name; without @HOST the short name of this host is added
    #[arg(long, value_name = "NAME[@HOST]")]
    pub sname: Option<String>,
    /// The secret of the cluster; better in a file, as every user of this machine
    /// can see it here [default: the one in ~/.erlang.cookie, made if need be]
    #[arg(long, value_name = "TEXT", conflicts_with = "cookie_file")]
    pub cookie: Option<Secret>,
    /// A file with that secret, which nobody else can read (mode 0400)
    #[arg(long, value_name = "FILE")]
    pub cookie_file: Option<String>,
}

impl IdentityArgs {
    fn put(&self, flags: &mut Flags) {
        let IdentityArgs {
            name,
            sname,
            cookie,
            cookie_file,
        } = self;
        flags.one("name", name.as_deref());
        flags.one("sname", sname.as_deref());
        flags.one("cookie", cookie.as_ref().map(|secret| secret.0.as_str()));
        flags.one("cookie-file", cookie_file.as_deref());
    }
}

/// The file that holds the settings nobody typed.
#[derive(Args, Debug, Clone, Default)]
pub struct ConfigArg {
    /// A TOML file whose keys are these flags, for what neither a flag nor the environment says
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
}

/// `redgrid node`.
#[derive(Args, Debug, Clone, Default)]
#[command(
    after_help = "Every flag can be set in the environment as well: REDGRID_NAME, REDGRID_MESH_VERSION, ...; \
    a switch by true or false.\n\
    What counts, in this order: the flag, REDGRID_<FLAG>, the variable named with [also: ...], the file, the default.\n\
    An empty variable counts as not set, except for the scope.\n\n\
    Examples:\n  \
    redgrid node --name web@127.0.0.1 --meta weight=0 --meta lang:=rust\n  \
    redgrid node --sname web --redis redis://10.0.0.9:6379/ --connect lang=rust\n  \
    redgrid node --name web@db.example --tls-cert web.pem --tls-key web.key --tls-ca ca.pem\n  \
    redgrid node --name web@127.0.0.1 --allow 'redgrid:nodes,admin@*=redgrid:*'\n  \
    redgrid node --config /etc/redgrid.toml"
)]
pub struct NodeArgs {
    /// Who the node is.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Where the mesh is.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// The IPv4 address the other members reach this node at [also: LOCAL_IP]
    /// [default: the one of the name's host]
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// What the node announces; a number or a string, or with KEY:=TERM any atom,
    /// binary, string or number; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub meta: Vec<String>,
    /// Which discovered nodes to connect to: all, none, or those whose meta has
    /// KEY=VALUE,... [default: all]
    #[arg(long, value_name = "WHICH")]
    pub connect: Option<String>,
    /// Connect only into these networks [default: any]
    #[arg(long, value_name = "CIDR,...")]
    pub peers: Vec<String>,
    /// The most members to know [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_members: Option<String>,

    /// Where to listen for other nodes; port 0 is any, FIRST-LAST a range
    /// [default: any port of all addresses, or of the loopback when the name's host is one]
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Distribution")]
    pub listen: Option<String>,
    /// auto: register with the epmd that runs, and serve one in this process while none does;
    /// embedded: serve one, or fail; external: never serve one; none: register nowhere, so that
    /// only members of the mesh, which know the port, find the node [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Distribution")]
    pub epmd: Option<String>,
    /// The port of epmd.
    #[command(flatten)]
    pub epmd_port: EpmdPortArg,
    /// Stay out of the other nodes' nodes()
    #[arg(long, help_heading = "Distribution")]
    pub hidden: bool,
    /// Seconds of silence after which a node is down, the same on every node [default: 60]
    #[arg(long, value_name = "SECONDS", help_heading = "Distribution")]
    pub net_ticktime: Option<String>,
    /// What other nodes may reach, and then nothing else: MODULE:FUNCTION/ARITY, MODULE:*, the name of a
    /// process, or *; behind NAME@HOST= for those nodes alone; repeatable [default: all that is exported]
    #[arg(long, value_name = "[PEER=]WHAT,...", help_heading = "Distribution")]
    pub allow: Vec<String>,
    /// What they may not, whatever is allowed; written alike, repeatable [default: nothing]
    #[arg(long, value_name = "[PEER=]WHAT,...", help_heading = "Distribution")]
    pub deny: Vec<String>,
    /// The largest message to take from a node [default: 512MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Distribution")]
    pub max_frame: Option<String>,
    /// How deep a term from a node may be nested; a deeper one is refused [default: 10000]
    #[arg(long, value_name = "LEVELS", help_heading = "Distribution")]
    pub max_depth: Option<String>,
    /// TLS between nodes.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Register the processes echo and sink, for tests and measurements
    #[arg(long, help_heading = "Running")]
    pub echo: bool,
    /// debug, info, warning, error or fatal, or 0 to 4 [also: LOGLEVEL] [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Running")]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub log_format: Option<String>,
    /// The file with the other settings.
    #[command(flatten, next_help_heading = "Running")]
    pub file: ConfigArg,
}

impl NodeArgs {
    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let NodeArgs {
            identity,
            mesh,
            ip,
            meta,
            connect,
            peers,
            max_members,
            listen,
            epmd,
            epmd_port,
            hidden,
            net_ticktime,
            allow,
            deny,
            max_frame,
            max_depth,
            tls,
            echo,
            log_level,
            log_format,
            file,
        } = self;
        let mut flags = Flags::default();
        identity.put(&mut flags);
        mesh.put(&mut flags);
        epmd_port.put(&mut flags);
        tls.put(&mut flags);
        flags.one("ip", ip.as_deref());
        flags.many("meta", meta);
        flags.one("connect", connect.as_deref());
        flags.many("peers", peers);
        flags.one("max-members", max_members.as_deref());
        flags.one("listen", listen.as_deref());
        flags.one("epmd", epmd.as_deref());
        flags.switch("hidden", *hidden);
        flags.one("net-ticktime", net_ticktime.as_deref());
        flags.many("allow", allow);
        flags.many("deny", deny);
        flags.one("max-frame", max_frame.as_deref());
        flags.one("max-depth", max_depth.as_deref());
        flags.switch("echo", *echo);
        flags.one("log-level", log_level.as_deref());
        flags.one("log-format", log_format.as_deref());
        flags.one("config", file.config.as_deref());
        flags
    }
}

/// Flags of the commands that only read Redis.
#[derive(Args, Debug, Clone, Default)]
pub struct ReaderArgs {
    /// Where the mesh is.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// The file with the other settings.
    #[command(flatten, next_help_heading = "Running")]
    pub file: ConfigArg,
}

impl ReaderArgs {
    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        self.mesh.put(&mut flags);
        flags.one("config", self.file.config.as_deref());
        flags
    }
}

/// Flags of the commands that talk to a node through a short-lived hidden one.
#[derive(Args, Debug, Clone, Default)]
pub struct CallerArgs {
    /// How long to wait, in seconds [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Who the short-lived node is.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// The port of epmd.
    #[command(flatten)]
    pub epmd_port: EpmdPortArg,
    /// Whether the node is talked to inside TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Where the node can be looked up.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// The file with the other settings.
    #[command(flatten, next_help_heading = "Running")]
    pub file: ConfigArg,
}

impl CallerArgs {
    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let CallerArgs {
            timeout,
            identity,
            epmd_port,
            tls,
            mesh,
            file,
        } = self;
        let mut flags = Flags::default();
        identity.put(&mut flags);
        epmd_port.put(&mut flags);
        tls.put(&mut flags);
        mesh.put(&mut flags);
        flags.one("timeout", timeout.as_deref());
        flags.one("config", file.config.as_deref());
        flags
    }
}
