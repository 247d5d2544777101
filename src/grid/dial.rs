//! Whom this node connects to of its own accord, and which addresses it dials at all.

use super::registration::{Registration, Status};
use crate::dist::{NameStyle, NodeName};
use ipnet::IpNet;
use std::net::IpAddr;

/// Which discovered members are connected to without anyone asking for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Connect {
    /// Every member that is not hidden.
    #[default]
    All,
    /// None: a member is connected when someone first sends to it.
    None,
    /// Those whose meta has all of these keys with these texts.
    Matching(Vec<(String, String)>),
}

/// The rules for dialling.
#[derive(Debug, Clone, Default)]
pub struct Dialling {
    /// Whom to connect to.
    pub connect: Connect,
    /// When not empty, only addresses inside one of these are dialled.
    pub peers: Vec<IpNet>,
    /// Whether our own connections are inside TLS; the mesh sets it to what its options say.
    pub tls: bool,
}

/// Why a member is not dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undialled {
    /// Nobody asked for it: `--connect`, a hidden or suspended member. Nothing is wrong.
    NotWanted,
    /// It could not work or is not allowed; says why.
    Never(String),
}

impl Dialling {
    /// Whether `own` connects to `member` of its own accord, as far as that can be told before its host is
    /// resolved.
    pub(crate) fn check(&self, own: &NodeName, member: &Registration) -> Result<(), Undialled> {
        self.reachable(own, member).map_err(Undialled::Never)?;
        let wanted = match &self.connect {
            Connect::All => true,
            Connect::None => false,
            Connect::Matching(pairs) => pairs.iter().all(|(key, text)| {
                member.meta.get(key).map(|v| v.text()) == Some(text.clone().into_bytes())
            }),
        };
        // A hidden node connects to whom it wants; nobody bothers it.
        if !wanted || member.hidden || member.status == Status::Suspended {
            return Err(Undialled::NotWanted);
        }
        Ok(())
    }

    /// Whether `member` can be dialled at all, when someone asks for it.
    pub(crate) fn reachable(&self, own: &NodeName, member: &Registration) -> Result<(), String> {
        if own.style() != member.node.style() {
            let style = |name: &NodeName| match name.style() {
                NameStyle::Long => "long",
                NameStyle::Short => "short",
            };
            return Err(format!(
                "it has a {} name and this node a {} one: nodes of two name styles cannot connect",
                style(&member.node),
                style(own)
            ));
        }
        // A classic member does not say.
        if !member.classic && member.tls != self.tls {
            return Err(if self.tls {
                "it speaks no TLS and this node does: nodes with TLS and nodes without cannot connect".into()
            } else {
                "it speaks TLS and this node does not: give this node --tls-cert, as its cluster has it".into()
            });
        }
        match member.ip.parse() {
            Ok(ip) => self.permits(ip),
            Err(_) if member.ip.is_empty() => Err("its ip is not known".into()),
            Err(_) => Ok(()),
        }
    }

    /// Whether this address may be dialled.
    pub(crate) fn permits(&self, ip: IpAddr) -> Result<(), String> {
        let ip = ip.to_canonical();
        let refused = match ip {
            IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
            IpAddr::V4(v4) if v4.is_broadcast() => Some("a broadcast address"),
            ip if ip.is_multicast() => Some("multicast"),
            ip if ip.is_unspecified() => Some("no address of a host"),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(format!("its ip {ip} is {what}, which is never dialled"));
        }
        if !self.peers.is_empty() && !self.peers.iter().any(|net| net.contains(&ip)) {
            return Err(format!("its ip {ip} is outside of --peers"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::meta::Meta;

    fn member(node: &str, ip: &str) -> Registration {
        Registration::new(node.parse().unwrap(), ip)
    }

    fn own() -> NodeName {
        "me@10.0.0.1".parse().unwrap()
    }

    #[test]
    fn addresses_that_are_no_host_are_never_dialled() {
        let rules = Dialling::default();
        for ip in [
            "224.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.1.1",
        ] {
            assert!(rules.permits(ip.parse().unwrap()).is_err(), "{ip}");
        }
        for ip in ["10.0.0.1", "127.0.0.1", "8.8.8.8", "::1"] {
            assert_eq!(rules.permits(ip.parse().unwrap()), Ok(()), "{ip}");
        }
    }

    #[test]
    fn peers_narrows_what_is_dialled() {
        let rules = Dialling {
            peers: vec!["10.1.0.0/16".parse().unwrap()],
            ..Dialling::default()
        };
        assert_eq!(rules.permits("10.1.2.3".parse().unwrap()), Ok(()));
        assert!(
            rules
                .permits("10.2.0.1".parse().unwrap())
                .unwrap_err()
                .contains("--peers")
        );
    }

    #[test]
    fn the_other_name_style_is_never_dialled_and_says_so() {
        let why = Dialling::default().check(&own(), &member("a@box", "10.0.0.2"));
        assert!(matches!(why, Err(Undialled::Never(text)) if text.contains("short")));
    }

    #[test]
    fn who_speaks_tls_and_who_does_not_are_never_dialled_by_each_other() {
        let (plain, mut sealed) = (
            member("a@10.0.0.2", "10.0.0.2"),
            member("b@10.0.0.2", "10.0.0.2"),
        );
        sealed.tls = true;
        for (tls, fine, other) in [(false, &plain, &sealed), (true, &sealed, &plain)] {
            let rules = Dialling {
                tls,
                ..Dialling::default()
            };
            assert_eq!(rules.check(&own(), fine), Ok(()));
            let why = rules.check(&own(), other);
            assert!(matches!(why, Err(Undialled::Never(text)) if text.contains("TLS")));
            let mut classic = plain.clone();
            classic.classic = true;
            assert_eq!(rules.check(&own(), &classic), Ok(()), "it does not say");
        }
    }

    #[test]
    fn whom_to_connect_to_is_told_by_meta() {
        let mut web = member("a@10.0.0.2", "10.0.0.2");
        web.meta = Meta::new([("role", "web")]).unwrap();
        let rules = |connect| Dialling {
            connect,
            ..Dialling::default()
        };
        let matching = rules(Connect::Matching(vec![("role".into(), "web".into())]));
        let other = member("b@10.0.0.2", "10.0.0.2");
        assert_eq!(matching.check(&own(), &web), Ok(()));
        assert_eq!(matching.check(&own(), &other), Err(Undialled::NotWanted));
        assert_eq!(
            rules(Connect::None).check(&own(), &web),
            Err(Undialled::NotWanted)
        );
        web.hidden = true;
        assert_eq!(
            rules(Connect::All).check(&own(), &web),
            Err(Undialled::NotWanted)
        );
    }
}
