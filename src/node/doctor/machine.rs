//! What is wrong on this machine: Redis as it is reached from here, the clock, epmd, our name and our port.

use super::{Check, Finding, Options, known::Source, peers::Meeting};
use crate::{
    dist::{Epmd, Listen, NodeName},
    grid::{Examined, GridError, Scope},
};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

/// Clocks this far apart are no longer those of machines that are set by the network.
const SKEW_WARNED: i64 = 2_000;

/// So far apart, times of two machines cannot be compared any more.
const SKEW_WRONG: i64 = 30_000;

pub(super) fn redis(examined: &Result<Examined, GridError>, scope: &Scope) -> Vec<Finding> {
    let examined = match examined {
        Ok(examined) => examined,
        Err(GridError::Redis(trouble)) => {
            let (what, mend) = (trouble.what.clone(), trouble.mend.clone());
            return vec![Finding::problem(Check::Redis, "redis_down", what, mend)];
        }
        Err(other) => {
            let mend = "correct --redis";
            return vec![Finding::problem(
                Check::Redis,
                "redis_url",
                other.to_string(),
                mend,
            )];
        }
    };
    let Examined {
        place,
        took,
        ahead_ms,
        members,
    } = examined;
    let took = took.as_secs_f64() * 1000.0;
    let count = match members.len() {
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let answers = format!("{place} answers ({took:.1} ms) and has {count} of {scope}");
    vec![Finding::ok(Check::Redis, answers), clock(*ahead_ms)]
}

fn clock(ahead_ms: i64) -> Finding {
    let off = ahead_ms.saturating_abs();
    let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
    let what = format!(
        "the clock here is {:.1} s {way} that of Redis",
        off as f64 / 1000.0
    );
    let mend = "have both machines set their clocks by the network (timedatectl set-ntp true); the mesh goes by the \
                clock of Redis, but certificates, logs and graphs do not";
    if off <= SKEW_WARNED {
        let within = SKEW_WARNED / 1000;
        let what = format!("the clocks here and of Redis agree within {within} s");
        Finding::ok(Check::Clock, what)
    } else if off <= SKEW_WRONG {
        Finding::warning(Check::Clock, "clock_skew", what, mend)
    } else {
        Finding::problem(Check::Clock, "clock_skew", what, mend)
    }
}

pub(super) fn epmd(epmd: &Epmd, names: &Result<Vec<(String, u16)>, String>) -> Finding {
    let at = SocketAddr::new(epmd.local, epmd.port);
    match names {
        Ok(names) if names.is_empty() => Finding::ok(
            Check::Epmd,
            format!("epmd at {at} answers and knows no node"),
        ),
        Ok(names) => {
            let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            let what = format!("epmd at {at} answers and knows {}", names.join(", "));
            Finding::ok(Check::Epmd, what)
        }
        Err(why) => Finding::problem(
            Check::Epmd,
            "epmd_down",
            format!("no epmd answers at {at} ({why})"),
            "start a node here, which serves one (redgrid node --epmd auto), or `epmd -daemon`; if it has another \
             port, give --epmd-port or ERL_EPMD_PORT",
        ),
    }
}

/// Whether the name can be had, or who has it.
pub(super) fn own_name(
    options: &Options,
    name: &NodeName,
    names: &[(String, u16)],
    met: &[Meeting],
) -> Finding {
    let short = name.short();
    let other_host = met.iter().find(|met| {
        let node = &met.known.node;
        let same = node.short() == short && node != name;
        same && met.known.source == Source::Epmd && met.answered
    });
    if let Some(other) = other_host {
        let other = &other.known.node;
        return Finding::problem(
            Check::Name,
            "duplicate_name",
            format!(
                "epmd here has {short:?} for {other} already, and takes no second one for {name}"
            ),
            "stop that node, or choose another --name: what stands before the @ can be had once on a host",
        );
    }
    let runs = met
        .iter()
        .find(|met| met.known.node == *name && met.answered);
    let registered = names.iter().find(|(known, _)| known == short);
    match (runs, registered) {
        (Some(met), _) if options.must_be_free => Finding::problem(
            Check::Name,
            "duplicate_name",
            format!("a node {name} runs already{}", met.place()),
            format!(
                "to start another one choose another --name, or stop that one first; to examine it, leave --name away: \
                 redgrid doctor {name}"
            ),
        ),
        (None, Some((_, port))) if options.must_be_free => Finding::problem(
            Check::Name,
            "duplicate_name",
            format!("epmd here has {short:?} at port {port} already, and takes no second one"),
            "stop what has that port, or choose another --name",
        ),
        (Some(_), _) => Finding::ok(Check::Name, format!("{name} runs")),
        (None, Some((_, port))) => Finding::ok(
            Check::Name,
            format!("{name} is registered with epmd here, at port {port}"),
        ),
        (None, None) => {
            let ip = options.ip.map_or(String::new(), |ip| {
                format!("; the others would reach it at {ip}")
            });
            Finding::ok(Check::Name, format!("{name} is free{ip}"))
        }
    }
}

/// Whether a node could listen. Where ours runs already the port is most likely its own.
pub(super) fn port(listen: Option<&Listen>, runs: bool) -> Finding {
    let Some(listen) = listen else {
        return Finding::ok(Check::Port, "the node listens at any free port");
    };
    let ports = &listen.ports;
    let shown = if ports.start() == ports.end() {
        format!("{}:{}", listen.ip, ports.start())
    } else {
        format!("{}:{}-{}", listen.ip, ports.start(), ports.end())
    };
    if runs {
        return Finding::ok(Check::Port, format!("{shown} is for the node that runs"));
    }
    let mut last = None;
    for port in ports.clone() {
        match TcpListener::bind((listen.ip, port)) {
            Ok(_) => return Finding::ok(Check::Port, format!("a node can listen at {shown}")),
            Err(why) => last = Some(why),
        }
    }
    let why = last.map_or("it has no port".to_owned(), |why| why.to_string());
    Finding::problem(
        Check::Port,
        "port_in_use",
        format!("no node can listen at {shown} ({why})"),
        "stop what listens there, or choose another --listen",
    )
}

/// Whether an address is one of this host: one that we could use ourselves.
pub(super) fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}
