//! Which nodes are known: those that were named, the members of the mesh, and whom the epmd here knows.

use super::{Options, machine::is_here};
use crate::{
    dist::{Address, NodeName},
    grid::{Listed, Status},
};
use std::net::{IpAddr, SocketAddr};

/// How it is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was named.
    Asked,
    /// It is a member of the mesh.
    Member,
    /// The epmd here knows it. Its host part is a guess.
    Epmd,
}

/// A node to talk to.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) node: NodeName,
    pub(super) source: Source,
    /// Where it is, or why that cannot be said.
    pub(super) address: Result<Address, String>,
    /// Whether it says that it speaks TLS.
    pub(super) tls: Option<bool>,
}

/// All nodes that are to be talked to: each once, those that count most first.
pub(super) async fn known(
    options: &Options,
    members: &[Listed],
    names: &[(String, u16)],
) -> Vec<Known> {
    let mut known: Vec<Known> = Vec::new();
    let listed = |node: &NodeName| {
        let mut all = members.iter();
        all.find(|member| member.registration.node == *node)
    };
    for node in &options.nodes {
        if known.iter().any(|known| known.node == *node) {
            continue;
        }
        known.push(match listed(node) {
            Some(member) => Known {
                source: Source::Asked,
                ..of_member(member).await
            },
            None => Known {
                node: node.clone(),
                source: Source::Asked,
                address: resolve(node.host())
                    .await
                    .map(|ip| Address { ip, port: None }),
                tls: None,
            },
        });
    }
    for member in members {
        let node = &member.registration.node;
        // Who has withdrawn may have gone away as well.
        let withdrawn = member.registration.status == Status::Suspended;
        if !withdrawn && !known.iter().any(|known| known.node == *node) {
            known.push(of_member(member).await);
        }
    }
    let host = options.name.as_ref().map_or("127.0.0.1", NodeName::host);
    for (short, port) in names {
        let same = |known: &Known| {
            let here = || matches!(known.address, Ok(Address { ip, .. }) if is_here(ip));
            known.node.short() == short && here()
        };
        let Ok(node) = format!("{short}@{host}").parse() else {
            continue;
        };
        if !known.iter().any(same) {
            known.push(Known {
                node,
                source: Source::Epmd,
                address: Ok(Address {
                    ip: options.epmd.local,
                    port: Some(*port),
                }),
                tls: None,
            });
        }
    }
    known
}

async fn of_member(member: &Listed) -> Known {
    let registration = &member.registration;
    let ip = match registration.ip.parse() {
        Ok(ip) => Ok(ip),
        // Only classic members give a name.
        Err(_) => resolve(&registration.ip).await,
    };
    Known {
        node: registration.node.clone(),
        source: Source::Member,
        address: ip.map(|ip| Address {
            ip,
            port: registration.port.filter(|port| *port != 0),
        }),
        tls: (!registration.classic).then_some(registration.tls),
    }
}

async fn resolve(host: &str) -> Result<IpAddr, String> {
    let found = tokio::net::lookup_host((host, 0)).await;
    let found: Vec<SocketAddr> = found.map_err(|why| why.to_string())?.collect();
    // Erlang nodes listen on IPv4 unless told otherwise.
    let first = found.iter().find(|at| at.is_ipv4()).or(found.first());
    first
        .map(SocketAddr::ip)
        .ok_or_else(|| "it has no address".to_owned())
}
