//! One parser per kind of value: text in, a value ready for use or a
//! [`BadValue`] out. None of them knows where the text came from.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::{BadValue, shown};
use crate::dist::{EpmdMode, Listen};
use crate::grid::Connect;

/// Where the node listens: `ADDR:PORT`, or `ADDR:FIRST-LAST` for the first free
/// port of a range; port 0 is any.
pub(super) fn listen(raw: &str) -> Result<Listen, BadValue> {
    let bad = |problem| {
        BadValue::new(
            problem,
            "write ADDR:PORT, like 0.0.0.0:0 (any port), 10.0.0.5:9100-9110 (the first free one) or [::]:9100",
        )
    };
    let Some((host, ports)) = raw.rsplit_once(':') else {
        return Err(bad(format!("{} has no port", shown(raw))));
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ip = match (bare, host.parse()) {
        (Some(bare), _) => bare.parse().ok().map(IpAddr::V6),
        (None, Ok(IpAddr::V4(ip))) => Some(IpAddr::V4(ip)),
        (None, _) => None,
    };
    let Some(ip) = ip else {
        return Err(bad(format!("{} is not an IP address", shown(host))));
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (number::<u16>(first), number::<u16>(last)) {
        (Some(first), Some(last)) if first == last || (first > 0 && first < last) => Ok(Listen {
            ip,
            ports: first..=last,
        }),
        _ => Err(bad(format!(
            "{} is neither a port nor a range of ports",
            shown(ports)
        ))),
    }
}

/// What the node does about epmd.
pub(super) fn epmd(raw: &str) -> Result<EpmdMode, BadValue> {
    match raw {
        "auto" => Ok(EpmdMode::Auto),
        "embedded" => Ok(EpmdMode::Embedded),
        "external" => Ok(EpmdMode::External),
        "none" => Ok(EpmdMode::Unregistered),
        _ => Err(BadValue::new(
            format!("{} is no way to use epmd", shown(raw)),
            "write auto, embedded, external or none",
        )),
    }
}

/// Which discovered nodes to connect to of our own accord.
pub(super) fn connect(raw: &str) -> Result<Connect, BadValue> {
    match raw {
        "all" => return Ok(Connect::All),
        "none" => return Ok(Connect::None),
        _ => {}
    }
    let pairs = raw.split(',').map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    });
    match pairs.collect() {
        Some(pairs) => Ok(Connect::Matching(pairs)),
        None => Err(BadValue::new(
            format!("{} does not say whom to connect to", shown(raw)),
            "write all, none or KEY=VALUE,... (nodes whose meta matches)",
        )),
    }
}

/// How much is logged: this and everything graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What each message and connection does (0).
    Debug,
    /// What an operator wants to know (1).
    Info,
    /// What may need a hand (2).
    Warning,
    /// What went wrong (3).
    Error,
    /// Nothing but the reason why the program ends (4).
    Fatal,
}

impl FromStr for LogLevel {
    type Err = BadValue;

    fn from_str(raw: &str) -> Result<LogLevel, BadValue> {
        match raw.to_ascii_lowercase().as_str() {
            "debug" | "0" => Ok(LogLevel::Debug),
            "info" | "1" => Ok(LogLevel::Info),
            "warning" | "warn" | "2" => Ok(LogLevel::Warning),
            "error" | "3" => Ok(LogLevel::Error),
            "fatal" | "4" => Ok(LogLevel::Fatal),
            _ => Err(BadValue::new(
                format!("{} is not a log level", shown(raw)),
                "write debug, info, warning, error or fatal (or 0 to 4)",
            )),
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = BadValue;

    fn from_str(raw: &str) -> Result<LogFormat, BadValue> {
        match raw {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(BadValue::new(
                format!("{} is not a log format", shown(raw)),
                "write text or json",
            )),
        }
    }
}

/// A port that something is reached at.
pub(super) fn port(raw: &str) -> Result<u16, BadValue> {
    match number(raw) {
        Some(port) if port > 0 => Ok(port),
        _ => Err(BadValue::new(
            format!("{} is not a port", shown(raw)),
            "write a number from 1 to 65535",
        )),
    }
}

/// The shortest silence that means down, in whole seconds: 1 to a day.
pub(super) fn ticktime(raw: &str) -> Result<Duration, BadValue> {
    match number(raw) {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(BadValue::new(
            format!("{} is not a tick time", shown(raw)),
            "write whole seconds from 1 to 86400; every node of a cluster should have the same",
        )),
    }
}

/// How long to wait, in seconds with or without a fraction: up to a year.
pub(super) fn timeout(raw: &str) -> Result<Duration, BadValue> {
    match raw.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 31_536_000.0 => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(BadValue::new(
            format!("{} is not a time to wait", shown(raw)),
            "write seconds, like 5 or 0.5",
        )),
    }
}

/// The largest frame: what the 4-byte length in front of a frame can name.
const LARGEST_FRAME: u64 = u32::MAX as u64;
/// The smallest limit under which two nodes can still introduce themselves.
const SMALLEST_FRAME: u64 = 64 * 1024;

/// A size in bytes, with a unit or without.
pub(super) fn frame_size(raw: &str) -> Result<usize, BadValue> {
    let digits = raw.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match raw[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(1024),
        "m" | "mb" | "mib" => Some(1024 * 1024),
        "g" | "gb" | "gib" => Some(1024 * 1024 * 1024),
        _ => None,
    };
    let bytes = number::<u64>(digits)
        .zip(unit)
        .and_then(|(count, unit)| count.checked_mul(unit));
    match bytes {
        Some(bytes @ SMALLEST_FRAME..=LARGEST_FRAME) => usize::try_from(bytes).ok(),
        _ => None,
    }
    .ok_or_else(|| {
        BadValue::new(
            format!("{} is not a frame size", shown(raw)),
            "write bytes or a size like 64MiB, from 64KiB to just under 4GiB",
        )
    })
}

/// How many members a view holds.
pub(super) fn members(raw: &str) -> Result<usize, BadValue> {
    match number(raw) {
        Some(count @ 1..=10_000_000) => Ok(count),
        _ => Err(BadValue::new(
            format!("{} is not a number of members", shown(raw)),
            "write a number from 1 to 10000000",
        )),
    }
}

/// How many containers may stand inside each other: a list of lists of lists needs three.
pub(super) fn depth(raw: &str) -> Result<usize, BadValue> {
    match number(raw) {
        Some(levels @ 16..=10_000_000) => Ok(levels),
        _ => Err(BadValue::new(
            format!("{} is not a depth", shown(raw)),
            "write a number from 16 to 10000000",
        )),
    }
}

/// One network that may be dialled: a CIDR, or an address for itself alone.
pub(super) fn network(raw: &str) -> Result<IpNet, BadValue> {
    raw.parse()
        .or_else(|_| raw.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            BadValue::new(
                format!("{} is not a network", shown(raw)),
                "write CIDRs separated by commas, like 10.0.0.0/8,192.168.1.7",
            )
        })
}

/// One address for epmd to listen on.
pub(super) fn address(raw: &str) -> Result<IpAddr, BadValue> {
    raw.parse().map_err(|_| {
        BadValue::new(
            format!("{} is not an IP address", shown(raw)),
            "write IP addresses separated by commas",
        )
    })
}

/// An IPv4 address that others can be told to reach a node at.
pub(super) fn reachable(ip: Ipv4Addr) -> Result<Ipv4Addr, BadValue> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local() {
        return Err(BadValue::new(
            format!("{ip} is no address that other nodes can reach a node at"),
            "write the address of this machine that they use",
        ));
    }
    Ok(ip)
}

/// A plain number: digits only, where Rust itself would also read `+1`.
fn number<T: FromStr>(raw: &str) -> Option<T> {
    raw.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| raw.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_takes_a_port_any_port_and_a_range() {
        for (raw, ip, ports) in [
            ("0.0.0.0:0", "0.0.0.0", 0..=0),
            ("127.0.0.1:9100", "127.0.0.1", 9100..=9100),
            ("10.0.0.5:9100-9110", "10.0.0.5", 9100..=9110),
            ("[::]:0", "::", 0..=0),
            ("[::1]:65535", "::1", 65535..=65535),
        ] {
            let listen = listen(raw).unwrap();
            assert_eq!(
                listen,
                Listen {
                    ip: ip.parse().unwrap(),
                    ports
                }
            );
        }
    }

    #[test]
    fn listen_refuses_what_cannot_be_bound() {
        for raw in [
            "",
            "9100",
            ":9100",
            "localhost:9100",
            "::1:9100",
            "[127.0.0.1]:1",
            "0.0.0.0:",
            "0.0.0.0:65536",
            "0.0.0.0:+1",
            "0.0.0.0:9110-9100",
            "0.0.0.0:0-10",
            "0.0.0.0:1-2-3",
        ] {
            let bad = listen(raw).unwrap_err();
            assert!(bad.mend.contains("ADDR:PORT"), "{raw}: {bad:?}");
        }
    }

    #[test]
    fn connect_is_all_none_or_what_the_meta_must_say() {
        assert_eq!(connect("all"), Ok(Connect::All));
        assert_eq!(connect("none"), Ok(Connect::None));
        let pairs = vec![
            ("lang".to_owned(), "rust".to_owned()),
            ("zone".to_owned(), String::new()),
        ];
        assert_eq!(connect("lang=rust, zone="), Ok(Connect::Matching(pairs)));
        for raw in ["", "some", "=1", "a=1,", "all,none"] {
            assert!(connect(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn log_levels_are_named_or_numbered_as_the_original_does() {
        for (word, digit, level) in [
            ("debug", "0", LogLevel::Debug),
            ("INFO", "1", LogLevel::Info),
            ("warning", "2", LogLevel::Warning),
            ("error", "3", LogLevel::Error),
            ("fatal", "4", LogLevel::Fatal),
        ] {
            assert_eq!(word.parse(), Ok(level));
            assert_eq!(digit.parse(), Ok(level));
        }
        for raw in ["5", "-1", "loud", ""] {
            assert!(raw.parse::<LogLevel>().is_err(), "{raw}");
        }
    }

    #[test]
    fn a_frame_size_has_a_unit_or_is_in_bytes() {
        assert_eq!(frame_size("65536"), Ok(65536));
        assert_eq!(frame_size("64KiB"), Ok(65536));
        assert_eq!(frame_size("512 MiB"), Ok(512 << 20));
        assert_eq!(frame_size("1g"), Ok(1 << 30));
        for raw in [
            "",
            "MiB",
            "65535",
            "4GiB",
            "1TiB",
            "1.5MiB",
            "-1M",
            "99999999999999999999",
            "18446744073709551615g",
        ] {
            assert!(frame_size(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn a_network_may_be_a_single_address() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        for raw in ["", "10.0.0.0/33", "host", "10.0.0/8"] {
            assert!(network(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn times_are_seconds_within_reason() {
        assert_eq!(ticktime("60"), Ok(Duration::from_secs(60)));
        assert_eq!(timeout("0.5"), Ok(Duration::from_millis(500)));
        for raw in ["0", "-1", "1.5", "86401", "x", ""] {
            assert!(ticktime(raw).is_err(), "{raw}");
        }
        for raw in ["0", "-1", "inf", "nan", "1e300", "5s", ""] {
            assert!(timeout(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn what_no_peer_may_dial_is_not_announced() {
        for raw in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"] {
            assert!(reachable(raw.parse().unwrap()).is_err(), "{raw}");
        }
        assert!(reachable(Ipv4Addr::LOCALHOST).is_ok());
    }
}
