//! The commands that read the mesh in Redis and need no node: `nodes`, `await`.

use super::{AwaitArgs, NodesArgs, logging::init_logging, print, table};
use crate::{
    config::{ReaderConfig, environment},
    grid::{self, Listed, MetaValue, Registration, Scope},
};
use serde_json::{Value, json};
use std::time::Duration;

/// How often `--watch` looks.
const ROUND: Duration = Duration::from_secs(1);

/// How long `await` waits unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

fn configure(resolved: crate::config::Resolved<ReaderConfig>) -> (ReaderConfig, Scope) {
    let config = resolved.config;
    init_logging(config.log.level, config.log.format);
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    let scope =
        Scope::new(&config.mesh.domain, &config.mesh.version).any_version(config.mesh.any_version);
    (config, scope)
}

/// `redgrid nodes`.
pub(crate) async fn nodes(args: &NodesArgs) -> anyhow::Result<()> {
    let resolved = ReaderConfig::resolve(args.reader.flags(), environment())?;
    let (config, scope) = configure(resolved);
    let mut last = None;
    loop {
        let members = grid::list(config.mesh.redis.expose(), &scope, args.all).await?;
        let text = if args.json {
            serde_json::to_string_pretty(&Value::Array(members.iter().map(to_json).collect()))?
        } else {
            as_table(&members)
        };
        if last.as_ref() != Some(&text) {
            print(&text)?;
            if members.is_empty() && !args.json {
                eprintln!("no node is in {scope} at {}", config.mesh.redis);
            }
        }
        if !args.watch {
            return Ok(());
        }
        last = Some(text);
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = super::interrupted() => return Ok(()),
        }
    }
}

/// `redgrid await`.
pub(crate) async fn wait(args: &AwaitArgs) -> anyhow::Result<()> {
    let resolved = ReaderConfig::resolve(args.flags(), environment())?;
    let (config, scope) = configure(resolved);
    let with: Vec<(String, String)> = args.matching.iter().cloned().collect();
    let patience = config.timeout.unwrap_or(PATIENCE);
    let url = config.mesh.redis.expose();
    let members = grid::await_members(url, &scope, args.nodes, &with, patience).await?;
    let names: Vec<&str> = members
        .iter()
        .map(|member| member.registration.node.as_str())
        .collect();
    print(&names.join("\n"))
}

fn as_table(members: &[Listed]) -> String {
    let rows = members.iter().map(|member| {
        let state = match &member.note {
            Some(note) => format!("{} ({note})", member.registration.status),
            None => member.registration.status.to_string(),
        };
        (&member.registration, state)
    });
    table::registrations(rows)
}

fn to_json(member: &Listed) -> Value {
    let Registration {
        node,
        ip,
        port,
        creation,
        implementation,
        started_at,
        hidden,
        status,
        meta,
        classic,
        ..
    } = &member.registration;
    let meta: serde_json::Map<String, Value> = meta
        .iter()
        .map(|(key, value)| (key.to_owned(), meta_json(value)))
        .collect();
    json!({
        "node": node.as_str(),
        "ip": ip,
        "port": port,
        "creation": creation,
        "impl": implementation,
        "started_at": started_at,
        "hidden": hidden,
        "status": status.as_str(),
        "classic": classic,
        "ends_in_ms": member.ends_in.map(|left| left.as_millis() as u64),
        "note": member.note,
        "meta": meta,
    })
}

/// Numbers as numbers, everything else as its text.
fn meta_json(value: &MetaValue) -> Value {
    match value {
        MetaValue::Integer(number) => json!(number),
        MetaValue::Float(number) => json!(number),
        other => Value::String(String::from_utf8_lossy(&other.text()).into_owned()),
    }
}
