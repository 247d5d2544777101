//! Settings of `redgrid doctor`: those of a node, where what this machine lacks is a finding and no end.

use super::error::ConfigError;
use super::name::{Host, own_ip};
use super::sources::{Environment, Flags, Sources};
use super::value::{self, LogLevel};
use super::{
    LogConfig, MeshConfig, cookie, epmd_port, existing_cookie, log, mesh, own_name, parsed, tls,
};
use crate::dist::{Cookie, Listen, NodeName, Tls};
use std::net::Ipv4Addr;
use std::time::Duration;

/// What `redgrid doctor` looks at. A part that is an error is one that a node could not start with.
#[derive(Debug)]
pub struct DoctorConfig {
    /// Redis and scope.
    pub mesh: MeshConfig,
    /// The port of epmd, here and on every other host.
    pub epmd_port: u16,
    /// The name that a node would have.
    pub name: Result<NodeName, ConfigError>,
    /// Whether a flag asks for that name: then it is for a node that is to be started, and must be free. Without one it
    /// is the name of the node that runs here, as the environment and the file have it.
    pub name_typed: bool,
    /// The address that the other members would be told; `None` without a name.
    pub ip: Option<Result<Ipv4Addr, ConfigError>>,
    /// Where it would listen; `None`: at any port.
    pub listen: Option<Listen>,
    /// The cookie; `None` when there is none yet. None is made.
    pub cookie: Result<Option<Cookie>, ConfigError>,
    /// Whether connections are inside TLS, and how.
    pub tls: Result<Option<Tls>, ConfigError>,
    /// What a node would warn of.
    pub warnings: Vec<String>,
    /// How long to wait for an answer; `None` when nobody said.
    pub timeout: Option<Duration>,
    /// How it logs.
    pub log: LogConfig,
}

impl DoctorConfig {
    /// Settings for the examination.
    ///
    /// # Errors
    /// A setting that can never hold, here or anywhere.
    pub fn resolve(
        flags: Flags,
        env: Environment,
        host: &dyn Host,
    ) -> Result<DoctorConfig, ConfigError> {
        let name_typed = flags.has("name") || flags.has("sname");
        let sources = Sources::new(flags, env)?;
        let mut warnings = Vec::new();
        let name = of_this_machine(own_name(&sources, host))?;
        let ip = match &name {
            Ok(name) => {
                let given = sources.find("ip")?;
                let given = given
                    .as_ref()
                    .map(|found| (found.text(), found.origin.clone()));
                Some(of_this_machine(own_ip(given, name, host))?)
            }
            Err(_) => None,
        };
        // A certificate is looked for where the node would listen with it, but those who only dial need none.
        let tls = of_this_machine(tls::tls(&sources, false, &mut warnings))?;
        let cookie = of_this_machine(existing_cookie(&sources))?;
        let off_loopback = matches!(&ip, Some(Ok(ip)) if !ip.is_loopback());
        if let (Ok(Some(cookie)), true) = (&cookie, off_loopback)
            && let Some(warning) = cookie::doubts(cookie)
        {
            warnings.push(warning);
        }
        super::warn_of_open_file(&sources, &mut warnings);
        Ok(DoctorConfig {
            mesh: mesh(&sources)?,
            epmd_port: epmd_port(&sources)?,
            name,
            name_typed,
            ip,
            listen: parsed(&sources, "listen", value::listen)?,
            cookie,
            tls,
            warnings,
            timeout: parsed(&sources, "timeout", value::timeout)?,
            log: log(&sources, LogLevel::Error)?,
        })
    }
}

/// Bad usage ends the command; what is missing on this machine is what it is to tell.
fn of_this_machine<T>(
    found: Result<T, ConfigError>,
) -> Result<Result<T, ConfigError>, ConfigError> {
    match found {
        Err(error) if error.exit_code() == 2 => Err(error),
        found => Ok(found),
    }
}
