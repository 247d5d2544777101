//! `redgrid meta`: reads what a node announces from Redis, and has the node itself change it.

use super::{MetaAction, MetaArgs, MetaTarget, client, print, table};
use crate::{
    config::{CallerConfig, ThisHost, environment, meta_entry},
    grid::{self, Listed, Meta, MetaValue, Scope, typed},
    term::{
        Raw,
        write::{put_list, put_nil},
    },
};
use anyhow::{Context, bail};
use bytes::BytesMut;
use std::net::IpAddr;

/// Runs the command.
///
/// # Errors
/// The node is no member or does not answer, or the meta is refused.
pub(crate) async fn run(args: &MetaArgs) -> anyhow::Result<()> {
    match &args.action {
        MetaAction::Get { target } => {
            let member = find(target).await?;
            let lines: Vec<String> = table::meta_lines(&member.registration.meta).collect();
            print(&lines.join("\n"))
        }
        MetaAction::Set { entries, target } => {
            let new = parse(entries)?;
            change(target, |old| {
                let kept = old
                    .iter()
                    .filter(|(key, _)| !new.iter().any(|(named, _)| named == key));
                kept.map(|(key, value)| (key.to_owned(), value.clone()))
                    .chain(new.iter().cloned())
                    .collect()
            })
            .await
        }
        MetaAction::Replace { entries, target } => {
            let new = parse(entries)?;
            change(target, |_| new.clone()).await
        }
        MetaAction::Unset { keys, target } => {
            change(target, |old| {
                let kept = old.iter().filter(|(key, _)| !keys.iter().any(|k| k == key));
                kept.map(|(key, value)| (key.to_owned(), value.clone()))
                    .collect()
            })
            .await
        }
    }
}

type Entries = Vec<(String, MetaValue)>;

fn parse(entries: &[String]) -> anyhow::Result<Entries> {
    entries
        .iter()
        .map(|entry| {
            meta_entry(entry).map_err(|bad| anyhow::anyhow!("{}; {}", bad.problem, bad.mend))
        })
        .collect()
}

/// Reads the meta, and has the node replace it by what is made of it.
async fn change(target: &MetaTarget, new: impl FnOnce(&Meta) -> Entries) -> anyhow::Result<()> {
    let member = find(target).await?;
    let meta = Meta::new(new(&member.registration.meta))?;
    let mut proplist = BytesMut::new();
    put_list(&mut proplist, meta.len());
    for (key, value) in meta.iter() {
        typed::put_native(&mut proplist, key, value, true);
    }
    put_nil(&mut proplist);
    let answer = client::member_call(
        &member.registration.node,
        &target.caller,
        "update_meta",
        Raw::own(proplist),
    )
    .await?;
    if !answer.view().is_atom("ok") {
        bail!("{} answered {answer:?}", member.registration.node);
    }
    Ok(())
}

/// The member that is meant: the one named, or the only one on this host.
async fn find(target: &MetaTarget) -> anyhow::Result<Listed> {
    let config = CallerConfig::resolve(target.caller.flags(), environment(), &ThisHost)?.config;
    let scope =
        Scope::new(&config.mesh.domain, &config.mesh.version).any_version(config.mesh.any_version);
    let members = grid::list(config.mesh.redis.expose(), &scope, true).await?;
    match &target.node {
        Some(node) => members
            .into_iter()
            .find(|member| member.registration.node == *node)
            .with_context(|| format!("{node} is no member of the mesh with {scope}")),
        None => only(members.into_iter().filter(here).collect()),
    }
}

fn only(mut members: Vec<Listed>) -> anyhow::Result<Listed> {
    match (members.len(), members.pop()) {
        (1, Some(member)) => Ok(member),
        (0, _) => bail!("no member runs on this host: say which one with --node"),
        (count, _) => bail!("{count} members run on this host: say which one with --node"),
    }
}

/// Whether a member is on this host: its address is one that we could listen on.
fn here(member: &Listed) -> bool {
    let ip: Option<IpAddr> = member.registration.ip.parse().ok();
    ip.is_some_and(|ip| std::net::UdpSocket::bind((ip, 0)).is_ok())
}
