//! The events channel: `term_to_binary` of a map with binary keys, one message per change, the whole registration
//! inside.
//!
//! ```text
//! #{<<"v">> => 1, <<"event">> => <<"joined">>, <<"node">> => <<"a@10.0.0.1">>, <<"creation">> => 1700000001,
//!   <<"ip">> => <<"10.0.0.1">>, <<"port">> => 40123, <<"proto">> => <<"tcp">>, <<"hidden">> => <<"false">>,
//!   <<"status">> => <<"up">>, <<"meta">> => [{<<"weight">>, <<"i">>, <<"0">>}],
//!   <<"by">> => <<"a@10.0.0.1">>, <<"at">> => 1700000000000}
//! ```
//!
//! `by` is who says so, `at` the time of Redis. Unknown keys and keys of the wrong type are ignored, a higher `v` is
//! read as far as known.

use super::registration::{self, LeftOut, Registration, SCHEMA, Status, node_name};
use super::typed;
use crate::dist::NodeName;
use crate::term::{Raw, View, write};
use bytes::{Bytes, BytesMut};

/// What has happened to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    /// It has registered: for the first time, again, or because someone asked.
    Joined,
    /// Its meta has changed.
    Meta,
    /// It has gone for good.
    Left,
    /// It has withdrawn for a while.
    Suspended,
    /// It is back from that.
    Resumed,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Meta => "meta",
            Self::Left => "left",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
        }
    }

    fn read(word: &[u8]) -> Option<Self> {
        [
            Self::Joined,
            Self::Meta,
            Self::Left,
            Self::Suspended,
            Self::Resumed,
        ]
        .into_iter()
        .find(|kind| kind.as_str().as_bytes() == word)
    }
}

/// One message of the events channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// The member it is about. Without `ip` (empty) it tells who, not what.
    pub(crate) registration: Registration,
    pub(crate) by: NodeName,
    /// Unix milliseconds, of Redis.
    pub(crate) at: i64,
    pub(crate) left_out: Option<LeftOut>,
}

impl Event {
    /// The message.
    pub(crate) fn encode(&self) -> Bytes {
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
            ..
        } = &self.registration;
        let text: [(&str, &str); 8] = [
            ("event", self.kind.as_str()),
            ("node", node.as_str()),
            ("ip", ip),
            ("proto", self.registration.proto()),
            ("hidden", if *hidden { "true" } else { "false" }),
            ("status", status.as_str()),
            ("impl", implementation),
            ("by", self.by.as_str()),
        ];
        let numbers = [
            ("v", Some(SCHEMA)),
            ("creation", creation.map(i64::from)),
            ("port", port.map(i64::from)),
            ("started_at", *started_at),
            ("at", Some(self.at)),
        ];
        let numbers: Vec<_> = numbers
            .iter()
            .filter_map(|(key, value)| Some((key, (*value)?)))
            .collect();

        let mut buf = BytesMut::new();
        write::put_version(&mut buf);
        write::put_map(&mut buf, text.len() + numbers.len() + 1);
        for (key, value) in text {
            write::put_binary(&mut buf, key.as_bytes());
            write::put_binary(&mut buf, value.as_bytes());
        }
        for (key, value) in numbers {
            write::put_binary(&mut buf, key.as_bytes());
            write::put_int(&mut buf, value);
        }
        write::put_binary(&mut buf, b"meta");
        typed::put_typed(&mut buf, meta);
        buf.freeze()
    }

    /// Reads a message that anyone may have written.
    ///
    /// # Errors
    /// Why it is no event, in a few words. `Ok(None)` is an event of a kind that we do not know yet.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Option<Event>, String> {
        if bytes.len() > typed::MAX_TERM {
            return Err(format!("{} bytes are too many", bytes.len()));
        }
        let raw = Raw::from_versioned(bytes, &typed::limits()).map_err(|why| why.to_string())?;
        let map = Map::of(raw.view()).ok_or("it is no map")?;
        map.int("v").filter(|v| *v >= SCHEMA).ok_or("it has no v")?;
        let Some(kind) = EventKind::read(map.bytes("event").ok_or("it has no event")?) else {
            return Ok(None);
        };
        let named = |key| node_name(map.bytes(key).ok_or(format!("it has no {key}"))?);
        let node = named("node").map_err(|why| format!("its node: {why}"))?;
        let by = named("by").unwrap_or_else(|_| node.clone());

        let mut registration = Registration::new(node, "");
        registration.ip = map
            .bytes("ip")
            .and_then(registration::host)
            .unwrap_or_default();
        registration.port = map
            .int("port")
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        registration.tls = map.bytes("proto") == Some(b"tls");
        registration.creation = map.int("creation").and_then(|c| u32::try_from(c).ok());
        registration.implementation = map.word("impl").unwrap_or_default();
        registration.started_at = map.int("started_at");
        registration.hidden = map.bytes("hidden") == Some(b"true");
        registration.status = match map.word("status").as_deref() {
            None | Some("up") => Status::Up,
            Some("suspended") => Status::Suspended,
            Some(word) => Status::Other(word.to_owned()),
        };
        let mut left_out = None;
        if let Some((meta, rest)) = map.get("meta").and_then(typed::from_typed) {
            registration.meta = registration::shown_meta(meta);
            left_out = rest;
        }
        Ok(Some(Event {
            kind,
            registration,
            by,
            at: map.int("at").unwrap_or(0),
            left_out,
        }))
    }
}

/// A map whose keys are binaries. The first of two equal keys counts.
struct Map<'a>(View<'a>);

impl<'a> Map<'a> {
    fn of(view: View<'a>) -> Option<Self> {
        view.map().is_some().then_some(Self(view))
    }

    fn get(&self, key: &str) -> Option<View<'a>> {
        let mut pairs = self.0.map()?.take(64);
        pairs
            .find(|(k, _)| k.as_binary() == Some(key.as_bytes()))
            .map(|(_, value)| value)
    }

    fn bytes(&self, key: &str) -> Option<&'a [u8]> {
        self.get(key)?.as_binary()
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_i64()
    }

    fn word(&self, key: &str) -> Option<String> {
        let text = std::str::from_utf8(self.bytes(key)?).ok()?;
        Some(registration::word(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::meta::{Meta, MetaValue};
    use crate::term::{Term, atom, binary, int, map};
    use proptest::prelude::*;

    fn event() -> Event {
        let mut registration = Registration::new("a@10.0.0.1".parse().unwrap(), "10.0.0.1");
        registration.port = Some(4711);
        registration.creation = Some(7);
        registration.implementation = "redgrid 0.1.0".into();
        registration.meta = Meta::new([("weight", 0)]).unwrap();
        Event {
            kind: EventKind::Meta,
            by: registration.node.clone(),
            registration,
            at: 1_700_000_000_000,
            left_out: None,
        }
    }

    fn message(pairs: Vec<(&str, Term)>) -> Bytes {
        let pairs = pairs.into_iter().map(|(k, v)| (binary(k), v));
        Raw::encode(&map(pairs)).to_versioned()
    }

    #[test]
    fn an_event_reads_back() {
        assert_eq!(Event::decode(&event().encode()), Ok(Some(event())));
    }

    #[test]
    fn an_event_of_a_later_schema_is_read_as_far_as_known() {
        let read = Event::decode(&message(vec![
            ("v", int(9)),
            ("event", binary("joined")),
            ("node", binary("a@b")),
            ("ip", binary("10.0.0.9")),
            ("port", binary("4711")),
            ("meta", atom("later")),
            ("zebra", int(1)),
        ]));
        let event = read.unwrap().unwrap();
        assert_eq!(event.registration.ip, "10.0.0.9");
        assert_eq!((event.registration.port, event.at), (None, 0));
        assert_eq!(event.by, event.registration.node);
    }

    #[test]
    fn an_unknown_kind_is_no_error_and_rubbish_is() {
        let unknown = message(vec![
            ("v", int(1)),
            ("event", binary("danced")),
            ("node", binary("a@b")),
        ]);
        assert_eq!(Event::decode(&unknown), Ok(None));
        let bad_node = message(vec![
            ("v", int(1)),
            ("event", binary("joined")),
            ("node", binary("a\nb@c")),
        ]);
        for bytes in [
            Bytes::from_static(b"hello"),
            Bytes::from_static(b""),
            Bytes::from_static(&[131, 97, 1]),
            // Compressed: 80 zlib bytes that would unfold to more.
            Bytes::from_static(&[131, 80, 0xff, 0xff, 0xff, 0xff, 0x78, 0x9c]),
            Bytes::from(vec![131; typed::MAX_TERM + 1]),
            message(vec![("event", binary("joined")), ("node", binary("a@b"))]),
            bad_node,
        ] {
            assert!(Event::decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_meta_of_another_type_keeps_its_text() {
        let mut wire = event();
        wire.registration.meta = Meta::new([("when", MetaValue::Float(0.5))]).unwrap();
        let read = Event::decode(&wire.encode()).unwrap().unwrap();
        assert_eq!(
            read.registration.meta.get("when"),
            Some(&MetaValue::Float(0.5))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_however_hostile_panic(mut bytes in any::<Vec<u8>>(), at in any::<usize>(), flip: u8) {
            let _ = Event::decode(&Bytes::from(bytes.clone()));
            bytes = event().encode().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let _ = Event::decode(&Bytes::from(bytes));
        }
    }
}
