//! What a member of the mesh writes about itself in Redis, and the names it is found under.
//!
//! ```text
//! redgrid:<domain>:<version>:<node>       hash, classic: `ip` and the meta as text; all that the 2013 dialect knows
//! redgrid:<domain>:<version>              channel, classic: `ping`, or the key of a node that has just registered
//! redgrid.info:<domain>:<version>:<node>  hash: what a reader of today wants beside it, the typed meta among it
//! redgrid.index:<domain>:<version>        sorted set: node name, unix ms at which its registration ends
//! redgrid.events:<domain>:<version>       channel: one message per change, with the whole registration inside
//! ```
//!
//! Whoever can write to Redis can write anything there, so everything read here is bounded and may be refused with
//! a reason in one line; nothing read here can end the process.

use super::meta::{MAX_ENTRIES, MAX_KEY, MAX_VALUE, Meta, MetaValue, RESERVED};
use super::typed;
use crate::dist::NodeName;
use std::{fmt, net::Ipv6Addr};

/// Fields of a hash, as Redis gives them.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The version of our own schema, field and map key `v`.
pub(crate) const SCHEMA: i64 = 1;
/// The longest `ip`: the longest host name that can be resolved.
const MAX_HOST: usize = 253;
/// The longest `impl` and `status`, in bytes.
const MAX_WORD: usize = 64;

/// The overlay that shares one key prefix and one channel: members of two scopes never meet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    domain: String,
    version: String,
    any_version: bool,
}

impl Scope {
    /// Both may be empty, which is the default.
    pub fn new(domain: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            domain: domain.into(),
            version: version.into(),
            any_version: false,
        }
    }

    /// Whether keys of every version of the domain name members. What we write ourselves stays in our own version.
    pub fn any_version(self, any_version: bool) -> Self {
        Self {
            any_version,
            ..self
        }
    }

    /// Whether keys of every version name members.
    pub fn takes_any_version(&self) -> bool {
        self.any_version
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The version of the mesh.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn named(&self, family: &str) -> String {
        format!("{family}:{}:{}", self.domain, self.version)
    }

    /// Key of the classic hash of a node.
    pub fn key(&self, node: &NodeName) -> String {
        format!("{}:{node}", self.named("redgrid"))
    }

    /// Key of the info hash of a node.
    pub fn info_key(&self, node: &NodeName) -> String {
        format!("{}:{node}", self.named("redgrid.info"))
    }

    /// The classic channel.
    pub fn channel(&self) -> String {
        self.named("redgrid")
    }

    /// The channel of the events.
    pub fn events(&self) -> String {
        self.named("redgrid.events")
    }

    /// The sorted set of all members of today.
    pub fn index(&self) -> String {
        self.named("redgrid.index")
    }

    /// The string that says who scans for the others.
    pub fn scan_lock(&self) -> String {
        self.named("redgrid.scan")
    }

    /// The stream of what happened in the mesh.
    pub fn log(&self) -> String {
        self.named("redgrid.log")
    }

    /// The glob pattern that `SCAN` finds all classic keys of this scope with, and no other key of ours.
    pub fn pattern(&self) -> String {
        match self.any_version {
            true => glob(&format!("redgrid:{}", self.domain)),
            false => glob(&self.named("redgrid")),
        }
    }

    /// The same for the info keys.
    pub(crate) fn info_pattern(&self) -> String {
        glob(&self.named("redgrid.info"))
    }

    /// The node whose classic key this is. `None` when the key is of another scope.
    ///
    /// # Errors
    /// Why the rest of a key of this scope is no node name.
    pub fn node_of(&self, key: &[u8]) -> Option<Result<NodeName, String>> {
        self.node_under("redgrid", key)
    }

    /// The same for an info key.
    pub(crate) fn node_of_info(&self, key: &[u8]) -> Option<Result<NodeName, String>> {
        self.node_under("redgrid.info", key)
    }

    /// The version in which a classic key stands, when it is not ours and every version is taken.
    pub(crate) fn other_version<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let ours = key.strip_prefix(self.named("redgrid").as_bytes());
        if !self.any_version || ours.is_some_and(|rest| rest.starts_with(b":")) {
            return None;
        }
        let rest = key.strip_prefix(format!("redgrid:{}:", self.domain).as_bytes())?;
        let rest = std::str::from_utf8(rest).ok()?;
        // The name part of a node name has no colon, so the last one before the `@` ends the version.
        let name = rest.rfind('@')?;
        Some(&rest[..rest[..name].rfind(':')?])
    }

    fn node_under(&self, family: &str, key: &[u8]) -> Option<Result<NodeName, String>> {
        if let Some(version) = self.other_version(key) {
            let other = Scope::new(&self.domain, version);
            return other.node_under(family, key);
        }
        // By byte lengths, as the original does it: domain and version may hold colons themselves.
        let rest = key.strip_prefix(self.named(family).as_bytes())?;
        Some(node_name(rest.strip_prefix(b":")?))
    }
}

/// Every key that begins so: what means something in a pattern is escaped.
fn glob(prefix: &str) -> String {
    let mut pattern = String::new();
    for c in prefix.chars() {
        if "*?[]\\^-".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + ":*"
}

/// A node name as it may stand in a key: a colon before the `@` would belong to another scope.
pub(crate) fn node_name(text: &[u8]) -> Result<NodeName, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned())?;
    let name: NodeName = text.parse().map_err(|why| match why {
        crate::dist::NodeNameError::Form(_) => "it has not the form NAME@HOST".to_owned(),
        crate::dist::NodeNameError::TooLong(bytes) => format!("it has {bytes} bytes, 255 at most"),
        crate::dist::NodeNameError::Character { found, .. } => format!("it contains {found:?}"),
    })?;
    if name.short().contains(':') {
        return Err("it contains ':' before the '@'".into());
    }
    Ok(name)
}

/// Whether a member wants to be in the views of the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Status {
    /// It does.
    #[default]
    Up,
    /// It has withdrawn for a while.
    Suspended,
    /// A word of its program; it is in the views.
    Other(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {:?}, version {:?}", self.domain, self.version)
    }
}

impl Status {
    /// The word in Redis.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Up => "up",
            Self::Suspended => "suspended",
            Self::Other(word) => word,
        }
    }

    fn read(word: &str) -> Self {
        match word {
            "up" => Self::Up,
            "suspended" => Self::Suspended,
            word => Self::Other(word.to_owned()),
        }
    }
}

/// One member as it announces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Its name.
    pub node: NodeName,
    /// Where its host is reached: an address, or with classic members also a name that resolves to one. Empty
    /// only while the node is suspended and nobody remembers it.
    pub ip: String,
    /// The port of its distribution listener; without it epmd at `ip` knows.
    pub port: Option<u16>,
    /// Whether its distribution runs inside TLS.
    pub tls: bool,
    /// Which of its lives this is. Classic members do not say.
    pub creation: Option<u32>,
    /// What it runs on, for example `redgrid 0.1.0`; empty when it does not say.
    pub implementation: String,
    /// Unix milliseconds at which it started, by its own word.
    pub started_at: Option<i64>,
    /// Whether it is a hidden node.
    pub hidden: bool,
    /// Whether it wants to be seen.
    pub status: Status,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Its free fields. Those of a classic member are binaries, since their types are not known.
    pub meta: Meta,
    /// Whether it is a classic member: one without an info key.
    pub classic: bool,
}

impl Registration {
    /// A member of today of which nothing but name and ip is known.
    pub fn new(node: NodeName, ip: impl Into<String>) -> Self {
        Self {
            node,
            ip: ip.into(),
            port: None,
            tls: false,
            creation: None,
            implementation: String::new(),
            started_at: None,
            hidden: false,
            status: Status::Up,
            ip6: None,
            meta: Meta::default(),
            classic: false,
        }
    }

    /// The fields of the classic hash: `ip` and the meta, all text, nothing else.
    pub(crate) fn classic_fields(&self) -> Fields {
        let ip = (RESERVED.as_bytes().to_vec(), self.ip.clone().into_bytes());
        let meta = self.meta.iter();
        std::iter::once(ip)
            .chain(meta.map(|(key, value)| (key.as_bytes().to_vec(), value.text())))
            .collect()
    }

    /// The fields of the info hash.
    pub(crate) fn info_fields(&self) -> Fields {
        let mut fields = vec![
            ("v", SCHEMA.to_string().into_bytes()),
            ("proto", self.proto().into()),
            ("impl", self.implementation.clone().into_bytes()),
            ("hidden", self.hidden.to_string().into_bytes()),
            ("status", self.status.as_str().into()),
            ("meta", typed::to_binary(&self.meta).to_vec()),
        ];
        let mut number = |name, value: Option<i64>| {
            if let Some(value) = value {
                fields.push((name, value.to_string().into_bytes()));
            }
        };
        number("port", self.port.map(i64::from));
        number("creation", self.creation.map(i64::from));
        number("started_at", self.started_at);
        if let Some(ip6) = self.ip6 {
            fields.push(("ip6", ip6.to_string().into_bytes()));
        }
        fields
            .into_iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value))
            .collect()
    }

    /// `tcp` or `tls`.
    pub fn proto(&self) -> &'static str {
        if self.tls { "tls" } else { "tcp" }
    }

    /// Reads a member from its two hashes; an empty one is a key that is not there.
    ///
    /// # Errors
    /// Why there is no member to be seen in them.
    pub(crate) fn read(
        node: &NodeName,
        classic: &Fields,
        info: &Fields,
    ) -> Result<Reading, Refusal> {
        let mut registration = Self::new(node.clone(), "");
        let mut left_out = None;
        if !info.is_empty() {
            registration.read_info(info, &mut left_out);
        }
        registration.classic = info.is_empty();
        if classic.is_empty() {
            // A suspended node has no classic hash, and all others have one.
            return match registration.status {
                Status::Suspended => Ok(Reading {
                    registration,
                    left_out,
                }),
                _ => Err(Refusal::Missing),
            };
        }
        registration.ip = match field(classic, RESERVED) {
            Some(ip) => host(ip).ok_or(Refusal::BadIp(shown(ip)))?,
            None => return Err(Refusal::NoIp),
        };
        // A typed meta that cannot be read leaves the text that stands in the classic hash.
        if field(info, "meta").is_none_or(|bytes| typed::from_binary(bytes).is_err()) {
            let (meta, rest) = text_meta(classic);
            registration.meta = meta;
            left_out = left_out.or(rest);
        }
        Ok(Reading {
            registration,
            left_out,
        })
    }

    fn read_info(&mut self, info: &Fields, left_out: &mut Option<LeftOut>) {
        let text = |name| field(info, name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        self.port = text("port")
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0);
        self.tls = text("proto") == Some("tls");
        self.creation = text("creation").and_then(|number| number.parse().ok());
        self.implementation = text("impl").map(word).unwrap_or_default();
        self.started_at = text("started_at").and_then(|number| number.parse().ok());
        self.hidden = text("hidden") == Some("true");
        self.status = text("status")
            .map(|status| Status::read(&word(status)))
            .unwrap_or_default();
        self.ip6 = text("ip6").and_then(|ip| ip.parse().ok());
        if let Some(Ok((meta, rest))) = field(info, "meta").map(typed::from_binary) {
            self.meta = shown_meta(meta);
            *left_out = rest;
        }
    }
}

/// A member that was read, and what of it was not taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) registration: Registration,
    pub(crate) left_out: Option<LeftOut>,
}

/// Meta entries beyond the bounds: how many, and what was wrong with the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) count: usize,
    pub(crate) first: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, first } = self;
        write!(
            f,
            "{count} of its meta entries are left out: {first} (at most {MAX_ENTRIES} entries, \
             {MAX_KEY} bytes a key, {MAX_VALUE} bytes a value)"
        )
    }
}

/// Why there is no member where one was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No hash: it has left, or its registration has ended.
    Missing,
    /// A hash without `ip`.
    NoIp,
    /// An `ip` that is neither address nor host name.
    BadIp(String),
    /// The key holds something that is no hash.
    NotAHash,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is not registered"),
            Self::NoIp => f.write_str(
                "its hash has no field `ip`, where nodes are reached: set it, or delete the key",
            ),
            Self::BadIp(ip) => write!(
                f,
                "its ip {ip} is neither an address nor a host name: correct it"
            ),
            Self::NotAHash => f.write_str("the key holds something that is no hash: delete it"),
        }
    }
}

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    fields
        .iter()
        .find(|(key, _)| key == name.as_bytes())
        .map(|(_, value)| value.as_slice())
}

/// An address or a host name; nothing that could confuse a resolver or a reader.
pub(crate) fn host(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = !text.is_empty() && text.len() <= MAX_HOST;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    (fits && text.chars().all(plain)).then(|| text.to_owned())
}

/// At most 64 printable bytes.
pub(crate) fn word(text: &str) -> String {
    let mut word = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if word.len() + c.len_utf8() > MAX_WORD {
            break;
        }
        word.push(c);
    }
    word
}

/// Bytes from Redis in a log line: quoted, escaped and short.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    let dots = if bytes.len() > 80 { "..." } else { "" };
    format!("{text:?}{dots}")
}

/// The meta of a classic hash: every field but `ip`, by key, as binaries.
fn text_meta(fields: &Fields) -> (Meta, Option<LeftOut>) {
    let mut entries: Vec<(String, MetaValue)> = Vec::new();
    let mut left_out = Leaving::default();
    for (key, value) in fields {
        if key == RESERVED.as_bytes() {
            continue;
        }
        if key.len() > MAX_KEY || value.len() > MAX_VALUE || entries.len() == MAX_ENTRIES {
            left_out.more(key);
            continue;
        }
        let key = String::from_utf8_lossy(key).into_owned();
        entries.push((key, starred(MetaValue::Binary(value.clone()))));
    }
    // Redis keeps no order of fields: with one of ours, equal registrations are equal.
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    collect(entries, left_out)
}

/// Makes a meta of entries that a stranger wrote: what is out of bounds is left out and counted.
pub(crate) fn collect(
    entries: Vec<(String, MetaValue)>,
    mut left_out: Leaving,
) -> (Meta, Option<LeftOut>) {
    let fits = |(key, value): &(String, MetaValue)| {
        Meta::new([(key.clone(), value.clone())]).is_ok() || {
            left_out.more(key.as_bytes());
            false
        }
    };
    let kept: Vec<_> = entries.into_iter().filter(fits).collect();
    for (key, _) in kept.iter().skip(MAX_ENTRIES) {
        left_out.more(key.as_bytes());
    }
    let meta = Meta::new(kept.into_iter().take(MAX_ENTRIES)).unwrap_or_default();
    (meta, left_out.0)
}

/// Counts what is left out, and remembers the first.
#[derive(Debug, Default)]
pub(crate) struct Leaving(Option<LeftOut>);

impl Leaving {
    pub(crate) fn more(&mut self, key: &[u8]) {
        let first = || LeftOut {
            count: 0,
            first: format!("the first is {}", shown(key)),
        };
        self.0.get_or_insert_with(first).count += 1;
    }
}

pub(crate) fn shown_meta(meta: Meta) -> Meta {
    let starred = meta.into_iter().map(|(key, value)| (key, starred(value)));
    Meta::new(starred).unwrap_or_default()
}

/// A URL with a password in it is shown with stars there: classic members publish their own Redis URL.
fn starred(value: MetaValue) -> MetaValue {
    match value {
        MetaValue::Binary(bytes) => MetaValue::Binary(
            std::str::from_utf8(&bytes)
                .ok()
                .and_then(star_password)
                .map_or(bytes, String::into_bytes),
        ),
        MetaValue::String(text) => MetaValue::String(star_password(&text).unwrap_or(text)),
        MetaValue::Atom(text) => MetaValue::Atom(star_password(&text).unwrap_or(text)),
        value => value,
    }
}

/// The URL with its password starred; `None` when the text is no URL with a password.
pub(crate) fn star_password(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(plain) {
        return None;
    }
    // The password of a careless URL may hold an `@` or `/` itself: the last `@` before a query ends it.
    let (authority, _) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let (login, _) = authority.rsplit_once('@')?;
    let (user, password) = login.split_once(':')?;
    if password.is_empty() {
        return None;
    }
    Some(format!("{scheme}://{user}:***{}", &rest[login.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let bytes = |text: &str| text.as_bytes().to_vec();
        pairs.iter().map(|(k, v)| (bytes(k), bytes(v))).collect()
    }

    fn full() -> Registration {
        Registration {
            port: Some(4711),
            tls: true,
            creation: Some(u32::MAX),
            implementation: "redgrid 0.1.0".into(),
            started_at: Some(1_700_000_000_000),
            hidden: true,
            status: Status::Other("draining".into()),
            ip6: Some("fe80::1".parse().unwrap()),
            meta: Meta::new([
                ("weight", MetaValue::Integer(0)),
                ("lang", MetaValue::Atom("rust".into())),
                ("zone", MetaValue::String("b".into())),
            ])
            .unwrap(),
            ..Registration::new(name("a@10.0.0.1"), "10.0.0.1")
        }
    }

    #[test]
    fn the_names_are_those_of_the_contract() {
        let scope = Scope::new("logs", "2");
        let node = name("a@b");
        assert_eq!(scope.key(&node), "redgrid:logs:2:a@b");
        assert_eq!(scope.channel(), "redgrid:logs:2");
        assert_eq!(scope.info_key(&node), "redgrid.info:logs:2:a@b");
        assert_eq!(scope.index(), "redgrid.index:logs:2");
        assert_eq!(scope.events(), "redgrid.events:logs:2");
        assert_eq!(scope.scan_lock(), "redgrid.scan:logs:2");
        assert_eq!(scope.log(), "redgrid.log:logs:2");
        assert_eq!(Scope::default().key(&node), "redgrid:::a@b");
        assert_eq!(Scope::default().pattern(), "redgrid:::*");
        assert_eq!(
            Scope::new("a*[b]?", "\\").pattern(),
            "redgrid:a\\*\\[b\\]\\?:\\\\:*"
        );
    }

    #[test]
    fn only_a_key_of_the_very_scope_names_a_node() {
        let scope = Scope::new("a", "1");
        assert_eq!(scope.node_of(b"redgrid:a:1:x@y"), Some(Ok(name("x@y"))));
        let foreign: [&[u8]; 7] = [
            b"redgrid:a:2:x@y",
            b"redgrid:a:11:x@y",
            b"redgrid:::x@y",
            b"redgrid.info:a:1:x@y",
            b"redgrid.index:a:1",
            b"redgrid:a:1",
            b"ping",
        ];
        for key in foreign {
            assert_eq!(scope.node_of(key), None, "{key:?}");
        }
        let broken: [&[u8]; 5] = [
            b"redgrid:a:1:",
            b"redgrid:a:1:x",
            b"redgrid:a:1:b:x@y",
            b"redgrid:a:1:x@y\x07",
            b"redgrid:a:1:\xff@y",
        ];
        for key in broken {
            assert!(matches!(scope.node_of(key), Some(Err(_))), "{key:?}");
        }
    }

    #[test]
    fn keys_of_every_version_name_nodes_when_that_is_wanted() {
        let scope = Scope::new("a", "1").any_version(true);
        assert_eq!(scope.pattern(), "redgrid:a:*");
        for (key, version) in [
            ("redgrid:a:1:x@y", None),
            ("redgrid:a:2:x@y", Some("2")),
            ("redgrid:a::x@y", Some("")),
            ("redgrid:a:b:c:x@::1", Some("b:c")),
        ] {
            assert_eq!(scope.other_version(key.as_bytes()), version, "{key}");
            let host = key.split_once('@').unwrap().1;
            let node = name(&format!("x@{host}"));
            assert_eq!(scope.node_of(key.as_bytes()), Some(Ok(node)), "{key}");
        }
        assert_eq!(scope.node_of(b"redgrid:b:1:x@y"), None);
        assert_eq!(scope.node_of(b"redgrid:a:x@y"), None);
        assert_eq!(scope.node_of(b"redgrid.info:a:2:x@y"), None);
    }

    #[test]
    fn the_classic_hash_holds_the_ip_and_the_meta_and_nothing_else() {
        assert_eq!(
            full().classic_fields(),
            fields(&[
                ("ip", "10.0.0.1"),
                ("weight", "0"),
                ("lang", "rust"),
                ("zone", "b")
            ])
        );
    }

    #[test]
    fn a_member_reads_back_from_its_two_hashes() {
        let ours = full();
        let read =
            Registration::read(&ours.node, &ours.classic_fields(), &ours.info_fields()).unwrap();
        assert_eq!(read.registration, ours);
        assert_eq!(read.left_out, None);
    }

    #[test]
    fn a_classic_member_is_an_ip_and_text() {
        let hash = fields(&[("zone", "b"), ("ip", "box.internal"), ("lang", "erlang")]);
        let read = Registration::read(&name("x@y"), &hash, &Vec::new()).unwrap();
        assert_eq!(read.registration.ip, "box.internal");
        assert!(read.registration.classic);
        let meta: Vec<_> = read.registration.meta.into_iter().collect();
        let binary = |text: &str| MetaValue::Binary(text.into());
        assert_eq!(
            meta,
            [
                ("lang".to_owned(), binary("erlang")),
                ("zone".to_owned(), binary("b"))
            ]
        );
    }

    #[test]
    fn a_hash_without_a_usable_ip_is_refused_with_the_reason() {
        let read =
            |pairs: &[_]| Registration::read(&name("x@y"), &fields(pairs), &Vec::new()).map(|_| ());
        assert_eq!(read(&[("zone", "b")]), Err(Refusal::NoIp));
        assert_eq!(read(&[]), Err(Refusal::Missing));
        for ip in ["", "10.0.0.1; rm", "a b", "\u{7}", &"x".repeat(254)] {
            assert!(
                matches!(read(&[("ip", ip)]), Err(Refusal::BadIp(_))),
                "{ip:?}"
            );
        }
    }

    #[test]
    fn a_suspended_member_needs_no_classic_hash() {
        let ours = Registration {
            status: Status::Suspended,
            ..full()
        };
        let read = Registration::read(&ours.node, &Vec::new(), &ours.info_fields()).unwrap();
        assert_eq!(read.registration.status, Status::Suspended);
    }

    #[test]
    fn what_is_beyond_the_bounds_is_left_out_and_counted() {
        let mut hash = fields(&[("ip", "10.0.0.1")]);
        hash.push((vec![b'k'; 256], b"v".to_vec()));
        hash.push((b"big".to_vec(), vec![0; 1 << 20]));
        hash.extend((0..10_000).map(|n| (format!("f{n}").into_bytes(), b"1".to_vec())));
        let read = Registration::read(&name("x@y"), &hash, &Vec::new()).unwrap();
        assert_eq!(read.registration.meta.len(), MAX_ENTRIES);
        let left_out = read.left_out.unwrap();
        assert_eq!(left_out.count, 10_002 - MAX_ENTRIES);
        assert!(left_out.to_string().len() < 400);
    }

    #[test]
    fn info_of_the_wrong_kind_is_ignored_field_by_field() {
        let info = fields(&[
            ("v", "99"),
            ("port", "0"),
            ("creation", "-1"),
            ("started_at", "x"),
            ("hidden", "yes"),
            ("ip6", "10.0.0.1"),
            ("meta", "rubbish"),
            ("new_in_v99", "1"),
        ]);
        let hash = fields(&[("ip", "10.0.0.1"), ("zone", "b")]);
        let read = Registration::read(&name("x@y"), &hash, &info)
            .unwrap()
            .registration;
        let expected = Registration {
            meta: Meta::new([("zone", MetaValue::Binary(b"b".to_vec()))]).unwrap(),
            ..Registration::new(name("x@y"), "10.0.0.1")
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn the_password_of_a_url_is_starred() {
        for (text, shown) in [
            ("redis://:secret@h:6379/", "redis://:***@h:6379/"),
            ("redis://u:s@c/r@h/0?x=a@b", "redis://u:***@h/0?x=a@b"),
            ("rediss://u:p@h", "rediss://u:***@h"),
        ] {
            assert_eq!(star_password(text).as_deref(), Some(shown));
        }
        for text in [
            "redis://h:6379/",
            "redis://u@h",
            "a:b@c",
            "://:x@h",
            "u:p@h://",
        ] {
            assert_eq!(star_password(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_hash_however_hostile_panics(
            classic in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8),
            info in proptest::collection::vec(
                ("v|port|proto|creation|meta|status|ip6|impl".prop_map(String::into_bytes), any::<Vec<u8>>()), 0..8),
        ) {
            let _ = Registration::read(&name("x@y"), &classic, &info);
        }

        #[test]
        fn keys_made_by_a_scope_name_their_node(domain in "[a-z:*]{0,4}", version in "[0-9:]{0,3}") {
            let scope = Scope::new(domain, version);
            let node = name("a@b:c");
            prop_assert_eq!(scope.node_of(scope.key(&node).as_bytes()), Some(Ok(node.clone())));
            prop_assert_eq!(scope.node_of(scope.info_key(&node).as_bytes()), None);
        }
    }
}
