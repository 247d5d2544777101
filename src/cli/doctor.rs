//! `redgrid doctor`: says what is wrong here and on the way to every known node, one line each.
//!
//! Exit code 0: there is no problem (warnings do not count). 1: there is one. 2: bad usage, as everywhere.

use super::{DoctorArgs, logging::init_logging, print};
use crate::{
    config::{ConfigError, DoctorConfig, ThisHost, environment},
    dist::Epmd,
    grid::Scope,
    node::doctor::{Check, Finding, Options, State, examine},
};
use serde_json::{Value, json};
use std::{net::IpAddr, time::Duration};

/// How long a connected node may take to answer unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// Something is wrong; or a setting can never hold.
pub(crate) async fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let config = DoctorConfig::resolve(args.flags(), environment(), &ThisHost)?;
    init_logging(config.log.level, config.log.format);
    let mut findings = of_settings(&config);
    findings.extend(examine(&options(config, args)).await);
    findings.sort_by_key(|finding| finding.check);

    let shown = if args.json {
        let rows = findings.iter().map(to_json).collect();
        serde_json::to_string_pretty(&Value::Array(rows))?
    } else {
        let lines: Vec<String> = findings.iter().map(line).collect();
        lines.join("\n")
    };
    print(&shown)?;
    let problems = findings
        .iter()
        .filter(|finding| finding.state == State::Problem)
        .count();
    match problems {
        0 => Ok(()),
        1 => anyhow::bail!("there is a problem"),
        count => anyhow::bail!("there are {count} problems"),
    }
}

fn options(config: DoctorConfig, args: &DoctorArgs) -> Options {
    let ip = config.ip.and_then(Result::ok).map(IpAddr::V4);
    Options {
        redis: config.mesh.redis.expose().to_owned(),
        scope: Scope::new(&config.mesh.domain, &config.mesh.version)
            .any_version(config.mesh.any_version),
        epmd: Epmd {
            port: config.epmd_port,
            ..Epmd::default()
        },
        name: config.name.ok(),
        ip,
        must_be_free: config.name_typed,
        listen: config.listen,
        voice: match (config.cookie, config.tls) {
            (Ok(Some(cookie)), Ok(tls)) => Some((cookie, tls)),
            _ => None,
        },
        nodes: args.nodes.clone(),
        patience: config.timeout.unwrap_or(PATIENCE),
    }
}

/// What can be said before anything is asked. The texts of these errors end with the mend.
fn of_settings(config: &DoctorConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = config.name.as_ref().err();
    let ip = config.ip.as_ref().and_then(|ip| ip.as_ref().err());
    if let Some(error) = name.or(ip) {
        let fault = match error {
            ConfigError::LoopbackIp { .. } => "name_on_loopback",
            _ => "name_unresolvable",
        };
        findings.push(broken(Check::Name, fault, error));
    }
    findings.push(match &config.cookie {
        Ok(Some(_)) => Finding::ok(Check::Cookie, "there is one"),
        Ok(None) => Finding::warning(
            Check::Cookie,
            "no_cookie",
            "there is none, so no node was talked to",
            "copy ~/.erlang.cookie from a host of the cluster (mode 0400); the first node of one makes it",
        ),
        Err(error) => broken(Check::Cookie, "cookie_file", error),
    });
    match &config.tls {
        Ok(None) => {}
        Ok(Some(tls)) => {
            let doubts = config.name.as_ref().ok().and_then(|name| tls.doubts(name));
            findings.push(match doubts {
                Some(doubt) => Finding::problem(
                    Check::Tls,
                    "certificate",
                    format!("other nodes will most likely refuse this one: {doubt}"),
                    "have the authority of the cluster issue another certificate for the host of its name",
                ),
                None => Finding::ok(Check::Tls, "the certificate and its authority are sound"),
            });
        }
        Err(error) => findings.push(broken(Check::Tls, "certificate", error)),
    }
    findings.extend(config.warnings.iter().map(|warning| {
        let (what, mend) = halves(warning);
        Finding::warning(Check::Settings, "settings", what, mend)
    }));
    findings
}

fn broken(check: Check, fault: &'static str, error: &ConfigError) -> Finding {
    let text = error.to_string();
    let (what, mend) = halves(&text);
    Finding::problem(check, fault, what, mend)
}

/// What is said of a setting has its mend at the end.
fn halves(text: &str) -> (&str, &str) {
    let halves = text.rsplit_once("; ").or_else(|| text.rsplit_once(": "));
    halves.unwrap_or((text, "correct it"))
}

fn line(finding: &Finding) -> String {
    let node = match &finding.node {
        Some(node) => format!("{node}: "),
        None => String::new(),
    };
    let mend = match &finding.mend {
        Some(mend) => format!("; {mend}"),
        None => String::new(),
    };
    let (state, check) = (finding.state, finding.check.as_str());
    format!("{state:<7}  {check:<8}  {node}{}{mend}", finding.what)
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "check": finding.check.as_str(),
        "state": finding.state.to_string(),
        "fault": finding.fault,
        "node": finding.node.as_ref().map(|node| node.as_str()),
        "what": finding.what,
        "mend": finding.mend,
    })
}
