//! `redgrid node`: runs a node until it is told to stop.
//!
//! SIGINT and SIGTERM: leave the mesh, at most 3 s, exit 0. A second Ctrl-C: exit 130 at once. SIGHUP: ignored, with a
//! line in the log. systemd hears READY=1 and STOPPING=1 when it asks for it.

use super::{NodeArgs, logging::init_logging};
use crate::{
    config::{Config, ThisHost, environment},
    dist::Epmd,
    node::Node,
};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// How long a node that is told to stop before it has started may take to finish that, and to leave.
const HALF_STARTED: Duration = Duration::from_millis(2800);

/// Runs the command.
///
/// # Errors
/// A setting cannot be used, or the node does not start.
pub(crate) async fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let resolved = Config::resolve(args.flags(), environment(), &ThisHost)?;
    let config = resolved.config;
    init_logging(config.log.level, config.log.format);
    for warning in &resolved.warnings {
        warn!("{warning}");
    }

    // Before the node starts, so that no signal finds the process undecided.
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("SIGHUP is ignored: settings are read at the start only");
        }
    });
    let stop = super::interrupted();
    tokio::pin!(stop);

    let place = config.mesh.redis.to_string();
    let starting = start(config);
    tokio::pin!(starting);
    let node = tokio::select! {
        node = &mut starting => node?,
        () = &mut stop => {
            end_on_the_next_signal();
            // Half started it may be in Redis already, and would stay there until its keys expire.
            let leave = async {
                if let Ok(node) = starting.await {
                    node.leave().await;
                }
            };
            let _ = tokio::time::timeout(HALF_STARTED, leave).await;
            return Ok(());
        }
    };
    info!(
        name = %node.name(),
        port = node.dist().port(),
        redis = %place,
        "the node is up"
    );
    notify(NotifyState::Ready);
    tokio::select! {
        () = stop => info!("stopping"),
        reason = node.refused() => {
            node.leave().await;
            anyhow::bail!("{reason}");
        }
    }
    notify(NotifyState::Stopping);
    end_on_the_next_signal();
    node.leave().await;
    Ok(())
}

/// Whoever cannot wait for the leaving says so twice.
fn end_on_the_next_signal() {
    tokio::spawn(async {
        // Ctrl-C alone: who stops a service may well signal twice, and means it to leave in order.
        if let Ok(mut interrupt) = signal(SignalKind::interrupt()) {
            interrupt.recv().await;
            std::process::exit(130);
        }
    });
}

async fn start(config: Config) -> anyhow::Result<Node> {
    let epmd = Epmd {
        port: config.epmd.port,
        addresses: config.epmd.addresses,
        ..Epmd::default()
    };
    let node = Node::builder(config.name)
        .cookie(config.cookie)
        .redis(config.mesh.redis.expose())
        .scope(config.mesh.domain, config.mesh.version)
        .any_version(config.mesh.any_version)
        .typed_meta(config.meta)
        .ip(config.ip)
        .listen(config.listen)
        .epmd_mode(config.epmd.mode)
        .epmd(epmd)
        .connect(config.connect)
        .peers(config.peers)
        .access(config.access)
        .hidden(config.hidden)
        .tick_time(config.net_ticktime)
        .max_frame(config.max_frame)
        .max_depth(config.max_depth)
        .max_members(config.max_members)
        .echo(config.echo);
    let node = match config.tls {
        Some(tls) => node.tls(tls),
        None => node,
    };
    Ok(node.start().await?)
}

/// systemd is told when it asked for it; anywhere else nothing happens.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("systemd could not be told: {error}");
    }
}
