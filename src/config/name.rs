//! The node's name and the address that goes with it.
//!
//! A name is `NAME@HOST`. Its style is the host's ([`NameStyle`]): a long name has a host with a
//! dot (or an IPv6 address), a short one has none. The two styles never connect
//! to each other, so the flag says which is meant, and a host that does not fit
//! is refused at once instead of making a node that nobody can reach.

use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

use super::error::{BadValue, ConfigError, Origin, shown};
use super::value::reachable;
use crate::dist::{NameStyle, NodeName, NodeNameError};

/// What the machine knows about hosts. A trait, so that tests need no DNS.
pub trait Host {
    /// The host's name as the kernel has it.
    fn name(&self) -> io::Result<String>;
    /// The host's fully qualified name, as the resolver gives it.
    fn full_name(&self) -> io::Result<String>;
    /// The addresses of a host. May wait for DNS.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// This machine. Its methods block: they are for the time before the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn name(&self) -> io::Result<String> {
        hostname::get()?
            .into_string()
            .map_err(|_| io::Error::other("it is not valid UTF-8"))
    }

    fn full_name(&self) -> io::Result<String> {
        let name = self.name()?;
        if name.contains('.') {
            return Ok(name);
        }
        // AI_CANONNAME has the same value wherever this program runs.
        let hints = dns_lookup::AddrInfoHints {
            flags: 0x0002,
            ..Default::default()
        };
        let answers =
            dns_lookup::getaddrinfo(Some(&name), None, Some(hints)).map_err(io::Error::from)?;
        let canonical = answers.flatten().find_map(|answer| answer.canonname);
        canonical.filter(|full| full.contains('.')).ok_or_else(|| {
            io::Error::other(format!("the host calls itself {name}, without a domain"))
        })
    }

    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0)
            .to_socket_addrs()?
            .map(|address| address.ip())
            .collect())
    }
}

/// Whether a host part means this machine and no other.
pub fn is_loopback_host(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            ["localhost", "localhost.localdomain", "ip6-localhost"].contains(&host.as_str())
                || host.ends_with(".localhost")
        }
    }
}

/// Makes the whole name of what `--name` or `--sname` said: without an `@` the
/// name of this host is added.
pub(super) fn node_name(
    raw: &str,
    style: NameStyle,
    origin: &Origin,
    host: &dyn Host,
) -> Result<NodeName, ConfigError> {
    let at = |bad: BadValue| bad.at(origin.clone());
    if raw.contains('@') {
        let name = whole_name(raw).map_err(at)?;
        let (local, part) = (name.short(), name.host());
        return match (style, name.style()) {
            (NameStyle::Long, NameStyle::Short) => Err(at(BadValue::new(
                format!(
                    "{} needs a host with a dot in it for a long name",
                    shown(raw)
                ),
                format!("write a full host name or an IP address, or use --sname {local}@{part}"),
            ))),
            (NameStyle::Short, NameStyle::Long) => Err(at(BadValue::new(
                format!(
                    "{} has a dot (or an address) in its host, and a short name has none",
                    shown(raw)
                ),
                format!("use --name {local}@{part}, or leave the domain away"),
            ))),
            _ => Ok(name),
        };
    }
    // Before asking the resolver: a bad name stays bad with any host.
    whole_name(&format!("{raw}@host")).map_err(at)?;
    let unknown = |kind, error: io::Error| ConfigError::HostName {
        origin: origin.clone(),
        kind,
        reason: error.to_string(),
        mend: match kind {
            "full" => format!("write {raw}@HOST.DOMAIN or {raw}@ADDRESS, or use --sname {raw}"),
            _ => format!("write {raw}@HOST"),
        },
    };
    let part = match style {
        NameStyle::Long => host.full_name().map_err(|error| unknown("full", error))?,
        NameStyle::Short => short(host).map_err(|error| unknown("short", error))?,
    };
    whole_name(&format!("{raw}@{part}")).map_err(at)
}

/// The first part of this host's name.
pub(super) fn short(host: &dyn Host) -> io::Result<String> {
    let name = host.name()?;
    match name.split('.').next() {
        Some(short) if !short.is_empty() => Ok(short.to_owned()),
        _ => Err(io::Error::other("it is empty")),
    }
}

/// Checks a name of our own that has its host. Before the `@` it is stricter than
/// [`NodeName`], which must take what others are called: `erl` itself starts only
/// under letters, digits, `_` and `-`.
fn whole_name(raw: &str) -> Result<NodeName, BadValue> {
    let bad = |problem: String| {
        BadValue::new(
            problem,
            "write NAME@HOST, like web1@10.0.0.5 or web1@myhost; NAME is of letters, digits, _ and -",
        )
    };
    let name: NodeName = raw
        .parse()
        .map_err(|error: NodeNameError| bad(error.to_string()))?;
    if !name
        .short()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    {
        return Err(bad(format!(
            "a character before the @ of {} cannot stand there",
            shown(raw)
        )));
    }
    Ok(name)
}

/// The address that the other members are told: the one given, else the one the
/// host part of the name has.
pub(super) fn own_ip(
    given: Option<(&str, Origin)>,
    name: &NodeName,
    host: &dyn Host,
) -> Result<Ipv4Addr, ConfigError> {
    let (local, part) = (name.short(), name.host());
    let local_only = is_loopback_host(part);
    let ip = match &given {
        Some((raw, origin)) => {
            let ip = match raw.parse() {
                Ok(ip) => ip,
                Err(_) => resolve(raw, host)?,
            };
            reachable(ip).map_err(|bad| bad.at(origin.clone()))?
        }
        None => {
            match part.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => ip,
                Ok(IpAddr::V6(ip)) if !ip.is_loopback() => {
                    return Err(ConfigError::NoAddress {
                    host: part.to_owned(),
                    reason: "it is an IPv6 address, and the members of a mesh reach each other by IPv4".to_owned(),
                });
                }
                _ if local_only => Ipv4Addr::LOCALHOST,
                _ => resolve(part, host)?,
            }
        }
    };
    if ip.is_loopback() && !local_only {
        let alone = match name.style() {
            NameStyle::Long => format!("--name {local}@127.0.0.1"),
            NameStyle::Short => format!("--sname {local}@localhost"),
        };
        return Err(ConfigError::LoopbackIp {
            ip,
            host: part.to_owned(),
            alone,
        });
    }
    Ok(ip)
}

/// The first IPv4 address of a host that is not a loopback one; a loopback one
/// when there is no other.
fn resolve(name: &str, host: &dyn Host) -> Result<Ipv4Addr, ConfigError> {
    let none = |reason: String| ConfigError::NoAddress {
        host: name.to_owned(),
        reason,
    };
    let addresses = host
        .resolve(name)
        .map_err(|error| none(error.to_string()))?;
    let v4: Vec<Ipv4Addr> = addresses
        .into_iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    v4.iter()
        .find(|ip| !ip.is_loopback())
        .or(v4.first())
        .copied()
        .ok_or_else(|| none("it has only IPv6 addresses, or none".to_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine as a test wants it.
    pub(crate) struct FakeHost {
        pub(crate) name: &'static str,
        pub(crate) full: Option<&'static str>,
        pub(crate) ips: &'static [(&'static str, &'static [&'static str])],
    }

    impl Host for FakeHost {
        fn name(&self) -> io::Result<String> {
            Ok(self.name.to_owned())
        }

        fn full_name(&self) -> io::Result<String> {
            self.full
                .map(str::to_owned)
                .ok_or_else(|| io::Error::other("no domain"))
        }

        fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            match self.ips.iter().find(|(name, _)| *name == host) {
                Some((_, ips)) => Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect()),
                None => Err(io::Error::other("not known")),
            }
        }
    }

    pub(crate) const BOX: FakeHost = FakeHost {
        name: "box",
        full: Some("box.example.com"),
        ips: &[
            ("box", &["127.0.1.1"]),
            (
                "box.example.com",
                &["::1", "127.0.1.1", "10.0.0.5", "10.0.0.6"],
            ),
            ("six.example.com", &["2001:db8::1"]),
        ],
    };

    fn named(raw: &str, style: NameStyle) -> Result<String, String> {
        let flag = if style == NameStyle::Long {
            "name"
        } else {
            "sname"
        };
        node_name(raw, style, &Origin::Flag(flag), &BOX)
            .map(|name| name.to_string())
            .map_err(|error| error.to_string())
    }

    fn ip_of(name: &str, given: Option<&str>) -> Result<String, String> {
        own_ip(
            given.map(|raw| (raw, Origin::Flag("ip"))),
            &name.parse().unwrap(),
            &BOX,
        )
        .map(|ip| ip.to_string())
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_without_a_host_gets_the_one_of_this_machine() {
        assert_eq!(
            named("web", NameStyle::Long).unwrap(),
            "web@box.example.com"
        );
        assert_eq!(named("web", NameStyle::Short).unwrap(), "web@box");
    }

    #[test]
    fn a_name_with_a_host_stays_as_it_is() {
        for name in ["web@127.0.0.1", "web@a.b", "web@::1", "we_b-1@10.0.0.5"] {
            assert_eq!(named(name, NameStyle::Long).unwrap(), name);
        }
        assert_eq!(
            named("web@localhost", NameStyle::Short).unwrap(),
            "web@localhost"
        );
    }

    #[test]
    fn a_host_of_the_other_style_is_refused_with_the_flag_to_use() {
        let error = named("web@box", NameStyle::Long).unwrap_err();
        assert!(
            error.starts_with("--name: \"web@box\"") && error.contains("--sname web@box"),
            "{error}"
        );
        let error = named("web@box.example.com", NameStyle::Short).unwrap_err();
        assert!(
            error.starts_with("--sname:") && error.contains("--name web@box.example.com"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_name_is_refused_in_one_line() {
        let long = format!("{}@10.0.0.1", "x".repeat(250));
        for raw in [
            "",
            "@",
            "a@",
            "@b.c",
            "a@b@c.d",
            "a b@c.d",
            "a.b@c.d",
            "a@c. d",
            "a@c.d\n",
            "\u{e9}@c.d",
            &long,
        ] {
            let error = named(raw, NameStyle::Long).unwrap_err();
            assert!(error.contains("NAME@HOST"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn an_unknown_full_host_name_is_told_with_two_ways_out() {
        let host = FakeHost { full: None, ..BOX };
        let error = node_name("web", NameStyle::Long, &Origin::Flag("name"), &host)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("web@HOST.DOMAIN") && error.contains("--sname web"),
            "{error}"
        );
    }

    #[test]
    fn the_ip_is_the_one_given_or_the_one_of_the_host_part() {
        assert_eq!(ip_of("a@10.1.2.3", None).unwrap(), "10.1.2.3");
        assert_eq!(ip_of("a@127.0.0.1", None).unwrap(), "127.0.0.1");
        assert_eq!(ip_of("a@localhost", None).unwrap(), "127.0.0.1");
        assert_eq!(ip_of("a@::1", None).unwrap(), "127.0.0.1");
        assert_eq!(ip_of("a@box.example.com", None).unwrap(), "10.0.0.5");
        assert_eq!(
            ip_of("a@nowhere.example.com", Some("10.0.0.7")).unwrap(),
            "10.0.0.7"
        );
        assert_eq!(
            ip_of("a@nowhere.example.com", Some("box.example.com")).unwrap(),
            "10.0.0.5"
        );
        assert_eq!(ip_of("a@localhost", Some("10.0.0.7")).unwrap(), "10.0.0.7");
    }

    #[test]
    fn a_loopback_ip_under_another_host_is_refused_with_the_mend() {
        for (name, given, alone) in [
            ("a@box", None, "--sname a@localhost"),
            ("a@10.1.2.3", Some("127.0.0.1"), "--name a@127.0.0.1"),
            ("a@box.example.com", Some("box"), "--name a@127.0.0.1"),
        ] {
            let error = ip_of(name, given).unwrap_err();
            assert!(
                error.contains("loopback") && error.contains("--ip ADDRESS"),
                "{error}"
            );
            assert!(error.contains(alone), "{error}");
        }
    }

    #[test]
    fn a_host_without_an_ipv4_address_is_refused_with_the_mend() {
        for (name, given) in [
            ("a@six.example.com", None),
            ("a@2001:db8::1", None),
            ("a@nowhere.example.com", None),
            ("a@10.1.2.3", Some("2001:db8::1")),
        ] {
            let error = ip_of(name, given).unwrap_err();
            assert!(
                error.contains("no IPv4 address") && error.contains("--ip ADDRESS"),
                "{error}"
            );
        }
        let error = ip_of("a@10.1.2.3", Some("0.0.0.0")).unwrap_err();
        assert!(error.starts_with("--ip: 0.0.0.0"), "{error}");
    }
}
