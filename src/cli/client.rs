//! The commands that talk to one node: `ping`, `call`, `cast`, `send`, `suspend`, `resume`.
//!
//! They run a short-lived hidden node, in neither epmd nor Redis, that connects, asks, and goes. Where the target is, is
//! what the mesh says when Redis was named, else what its host part resolves to.

use super::{CallArgs, CallerArgs, CastArgs, FunctionArgs, PingArgs, SendArgs, TargetArgs};
use crate::{
    config::{CallerConfig, ThisHost, environment},
    dist::{
        self, Address, CallError, ConnectError, Epmd, EpmdMode, Located, NodeName, Options, Service,
    },
    grid::{self, Scope},
    term::{
        Raw, Term, atom, list, text, to_json, tuple,
        write::{put_list, put_nil, put_raw},
    },
};
use anyhow::{Context, bail};
use bytes::BytesMut;
use std::{sync::Arc, time::Duration};

/// How long a node may take to answer unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// A short-lived node and whom it talks to.
struct Client {
    node: dist::Node,
    target: NodeName,
    patience: Duration,
}

/// Knows where the one target is.
struct Known(Option<Address>);

impl Service for Known {
    fn locate(&self, _: &NodeName) -> Located {
        self.0.map_or(Located::Unknown, Located::At)
    }
}

impl Client {
    async fn start(target: &NodeName, args: &CallerArgs) -> anyhow::Result<Self> {
        let resolved = CallerConfig::resolve(args.flags(), environment(), &ThisHost)?;
        let config = resolved.config;
        super::logging::init_logging(config.log.level, config.log.format);
        for warning in &resolved.warnings {
            tracing::warn!("{warning}");
        }
        let target = target.clone();
        let name = config.name_for(&target, &ThisHost)?;
        let known = if config.mesh.redis_named {
            registered(&config, &target).await?
        } else {
            None
        };
        let options = Options {
            hidden: true,
            tls: config.tls.clone(),
            listen: None,
            epmd_mode: EpmdMode::Unregistered,
            epmd: Epmd {
                port: config.epmd_port,
                ..Epmd::default()
            },
            ..Options::new(name, config.cookie.clone())
        };
        Ok(Self {
            node: dist::Node::start(options, Arc::new(Known(known))).await?,
            target,
            patience: config.timeout.unwrap_or(PATIENCE),
        })
    }

    async fn call(&self, module: &str, function: &str, args: &Term) -> Result<Raw, CallError> {
        let args = Raw::encode(args);
        self.node
            .call(&self.target, module, function, args, self.patience)
            .await
    }
}

/// Where Redis says that a node is; nothing when it is no member.
async fn registered(config: &CallerConfig, target: &NodeName) -> anyhow::Result<Option<Address>> {
    let scope =
        Scope::new(&config.mesh.domain, &config.mesh.version).any_version(config.mesh.any_version);
    let members = grid::list(config.mesh.redis.expose(), &scope, true).await?;
    let member = members
        .into_iter()
        .find(|member| member.registration.node == *target);
    if let Some(member) = &member
        && !member.registration.classic
        && member.registration.tls != config.tls.is_some()
    {
        match member.registration.tls {
            true => bail!("{target} speaks TLS: give --tls-cert, --tls-key and --tls-ca here, too"),
            false => bail!(
                "{target} speaks no TLS: leave --tls-cert and the like away here (REDGRID_TLS_CERT, too)"
            ),
        }
    }
    // An address is dialled as it stands; a name, which only classic members give, is resolved like a host part.
    Ok(member.and_then(|member| {
        let ip = member.registration.ip.parse().ok()?;
        let port = member.registration.port.filter(|port| *port != 0);
        Some(Address { ip, port })
    }))
}

/// `redgrid ping`.
pub(crate) async fn ping(args: &PingArgs) -> anyhow::Result<()> {
    let client = Client::start(&args.node, &args.caller).await?;
    let request = tuple([atom("is_auth"), atom(client.node.name().as_str())]);
    let started = std::time::Instant::now();
    let answer = client
        .node
        .gen_call(
            &client.target,
            "net_kernel",
            Raw::encode(&request),
            client.patience,
        )
        .await;
    client.node.stop().await;
    answer.map_err(explained)?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    super::print(&format!("pong ({took:.1} ms)"))
}

/// `redgrid call`.
pub(crate) async fn call(args: &CallArgs) -> anyhow::Result<()> {
    let arguments = arguments(&args.function)?;
    let client = Client::start(&args.function.node, &args.caller).await?;
    let FunctionArgs {
        module, function, ..
    } = &args.function;
    let answer = client.call(module, function, &arguments).await;
    client.node.stop().await;
    let value = answer.map_err(explained)?.decode()?;
    let shown = if args.json {
        serde_json::to_string_pretty(&to_json(&value))?
    } else {
        match super::table::columns() {
            Some(columns) => text::print_wrapped(&value, columns),
            None => text::print(&value),
        }
    };
    super::print(&shown)
}

/// `redgrid cast`: the node is asked to run the function and nobody waits for it.
pub(crate) async fn cast(args: &CastArgs) -> anyhow::Result<()> {
    let arguments = arguments(&args.function)?;
    let client = Client::start(&args.function.node, &args.caller).await?;
    let FunctionArgs {
        module, function, ..
    } = &args.function;
    let sent = client
        .node
        .cast(&client.target, module, function, Raw::encode(&arguments))
        .await;
    client.node.stop().await;
    sent.map_err(explained)
}

/// `redgrid send`.
pub(crate) async fn send(args: &SendArgs) -> anyhow::Result<()> {
    let message = text::parse(&args.term).with_context(|| format!("the message {}", args.term))?;
    let client = Client::start(&args.node, &args.caller).await?;
    let sent = client
        .node
        .send(&client.target, &args.process, Raw::encode(&message))
        .await;
    client.node.stop().await;
    sent.map_err(explained)
}

/// `redgrid suspend` and `redgrid resume`: functions of the mesh on every member.
pub(crate) async fn redgrid(args: &TargetArgs, function: &str) -> anyhow::Result<()> {
    let client = Client::start(&args.node, &args.caller).await?;
    let answer = client.call("redgrid", function, &list([])).await;
    client.node.stop().await;
    let value = answer.map_err(explained)?.decode()?;
    super::print(&text::print(&value))
}

/// Calls a function of the mesh on a member, with one argument.
pub(crate) async fn member_call(
    node: &NodeName,
    args: &CallerArgs,
    function: &str,
    argument: Raw,
) -> anyhow::Result<Raw> {
    let client = Client::start(node, args).await?;
    let mut arguments = BytesMut::new();
    put_list(&mut arguments, 1);
    put_raw(&mut arguments, &argument);
    put_nil(&mut arguments);
    let answer = client
        .node
        .call(
            &client.target,
            "redgrid",
            function,
            Raw::own(arguments),
            client.patience,
        )
        .await;
    client.node.stop().await;
    answer.map_err(explained)
}

fn arguments(function: &FunctionArgs) -> anyhow::Result<Term> {
    let parsed: anyhow::Result<Vec<Term>> = function
        .args
        .iter()
        .enumerate()
        .map(|(index, arg)| {
            text::parse(arg).with_context(|| format!("argument {}: {arg}", index + 1))
        })
        .collect();
    Ok(list(parsed?))
}

/// What a user can do about it, where there is something.
fn explained(error: CallError) -> anyhow::Error {
    let mend = match &error {
        CallError::Connect(ConnectError::NotRegistered { .. }) => {
            Some("`redgrid names HOST` shows what runs there")
        }
        CallError::Refused { reason, .. } if reason == "notsup" => {
            Some("that node does not let others run functions on it")
        }
        CallError::Timeout { .. } => Some("--timeout SECONDS waits longer"),
        _ => None,
    };
    match mend {
        Some(mend) => anyhow::anyhow!("{error}; {mend}"),
        None => error.into(),
    }
}
