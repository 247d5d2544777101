//! `redgrid names`: what the epmd of a host knows.

use super::{NamesArgs, print, table};
use crate::{config::environment, dist::Epmd};
use anyhow::{anyhow, bail};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal, stdout},
    net::SocketAddr,
};

/// Runs the command.
///
/// # Errors
/// The host does not resolve, or no epmd answers there.
pub(crate) async fn run(args: &NamesArgs) -> anyhow::Result<()> {
    let port = crate::config::resolve_epmd_port(args.epmd.flags(), environment())?;
    let (at, mut names) = ask(&args.host, port).await?;
    names.sort();
    if args.json {
        let rows = names
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port}));
        return print(&serde_json::to_string_pretty(&Value::Array(
            rows.collect(),
        ))?);
    }
    if names.is_empty() {
        eprintln!("epmd at {at} knows no node");
        return Ok(());
    }
    if stdout().is_terminal() {
        let rows = names
            .iter()
            .map(|(name, port)| [name.clone(), port.to_string()]);
        return print(&table::aligned(["name", "port"], rows));
    }
    // For `read NAME PORT` in a script: no header and one space.
    let lines: Vec<String> = names
        .iter()
        .map(|(name, port)| format!("{name} {port}"))
        .collect();
    print(&lines.join("\n"))
}

/// Asks at one address of the host after the other, until an epmd answers.
async fn ask(host: &str, port: u16) -> anyhow::Result<(SocketAddr, Vec<(String, u16)>)> {
    let epmd = Epmd {
        port,
        ..Epmd::default()
    };
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|why| {
        anyhow!(
            "the host {host:?} does not resolve ({why}): check its spelling, or give its address"
        )
    })?;
    let mut at: Vec<SocketAddr> = found.collect();
    // That is where an epmd listens unless told otherwise.
    at.sort_by_key(|at| !at.is_ipv4());
    let mut last = None;
    for at in at {
        match epmd.names(at.ip()).await {
            Ok(names) => return Ok((at, names)),
            Err(why) => last = last.or(Some((at, why))),
        }
    }
    match last {
        Some((at, why)) => bail!(
            "epmd at {at} does not answer ({why}): it runs where a node runs; start one with `epmd -daemon`, \
             open the port on the way there, or name another with --epmd-port"
        ),
        None => bail!("the host {host:?} has no address: give its address"),
    }
}
