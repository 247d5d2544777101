//! epmd's protocol, from its side: the bytes of a request become a [`Request`], answers become bytes. Pure.
//!
//! A request is `Length:16` and so many bytes; an answer has no length, its end is the end of the connection.
//!
//! ```text
//!  120 Port:16 Type Proto High:16 Low:16 NLen:16 Name ELen:16 Extra    register, for as long as the connection stands
//!      ─► 118 Result Creation:32, to those of High ≥ 6; else 121 Result Creation:16
//!  122 Name     where is it?
//!      ─► 119 0 Port:16 Type Proto High:16 Low:16 NLen:16 Name ELen:16 Extra, or 119 1
//!  110          which names? ─► epmd's own port:32, then a line for each
//!  100          the same with those that were ─► likewise, each line closed by a NUL
//!  107          end yourself ─► "OK" or "NO"
//! ```
//!
//! Where the manual ("EPMD Protocol") is silent, the rule is what OTP's epmd does; a request that it answers by closing
//! the connection is `None` here.

use erl_dist::epmd::NodeEntry;

/// A request with its length field may have fewer bytes than this, as at OTP's.
pub(crate) const MAX_REQUEST: usize = 3 * MAX_TEXT;

/// A name or an extra field: 255 characters of four bytes.
const MAX_TEXT: usize = 255 * 4;

/// A name has at most so many characters, as an atom.
const MAX_CHARACTERS: usize = 255;

/// The creation that comes with a refusal; it means nothing.
const NO_CREATION: u32 = 99;

/// Nodes that speak this version of the distribution protocol have creations of 32 bits.
const WIDE_CREATIONS: u16 = 6;

/// What somebody asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// To be registered.
    Register(NodeEntry),
    /// The same, but with a name or an extra field that nobody can have. The answer depends on the highest version.
    Unregistrable { highest_version: u16 },
    /// Where a node is.
    LookUp(&'a str),
    /// Who is registered.
    Names,
    /// Who is and was.
    Dump,
    /// That epmd ends.
    Kill,
}

impl<'a> Request<'a> {
    /// The request in these bytes, which are all but the length field; `None`: it is not worth an answer.
    pub(crate) fn parse(request: &'a [u8]) -> Option<Self> {
        let (tag, rest) = request.split_first()?;
        match tag {
            // One byte of a name, or of what stands behind it, at least.
            120 if request.len() > 13 => registration(rest),
            122 => look_up(rest),
            110 => Some(Self::Names),
            100 => Some(Self::Dump),
            107 => Some(Self::Kill),
            // 115, which takes a name from its node, is for an epmd that was told to be relaxed.
            _ => None,
        }
    }
}

/// How many bytes to wait for at most, after these; `None`: they cannot become a request.
///
/// More than one request is not taken, even where a second would be right: OTP's epmd closes such a connection, too.
pub(crate) fn missing(got: &[u8]) -> Option<usize> {
    let Some((length, _)) = u16_of(got) else {
        return Some(MAX_REQUEST - 1 - got.len());
    };
    let whole = usize::from(length) + 2;
    if !(3..MAX_REQUEST).contains(&whole) {
        return None;
    }
    whole.checked_sub(got.len())
}

fn registration(bytes: &[u8]) -> Option<Request<'static>> {
    let (port, bytes) = u16_of(bytes)?;
    let ([node_type, protocol], bytes) = bytes.split_first_chunk()?;
    let (highest_version, bytes) = u16_of(bytes)?;
    let (lowest_version, bytes) = u16_of(bytes)?;
    let (name, bytes) = text_of(bytes)?;
    let (extra, _ignored) = text_of(bytes)?;
    if name.contains(&0) {
        return None;
    }
    match as_name(name) {
        Some(name) if name.chars().count() <= MAX_CHARACTERS && extra.len() <= MAX_TEXT => {
            Some(Request::Register(NodeEntry {
                name: name.to_owned(),
                port,
                node_type: (*node_type).into(),
                protocol: (*protocol).into(),
                highest_version,
                lowest_version,
                extra: extra.to_vec(),
            }))
        }
        _ => Some(Request::Unregistrable { highest_version }),
    }
}

fn look_up(name: &[u8]) -> Option<Request<'_>> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    // OTP's epmd counts the NUL behind the name as well, so the longest names can be had but not found.
    let name = as_name(name).filter(|name| name.chars().count() < MAX_CHARACTERS)?;
    Some(Request::LookUp(name))
}

fn as_name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn u16_of(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Bytes behind their length.
fn text_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = u16_of(bytes)?;
    rest.split_at_checked(length.into())
}

/// The node is registered, and this is its creation; nodes of old get one of 1 to 3.
pub(crate) fn registered(highest_version: u16, creation: u32) -> Vec<u8> {
    if highest_version >= WIDE_CREATIONS {
        to_register(highest_version, 0, creation)
    } else {
        to_register(highest_version, 0, creation % 3 + 1)
    }
}

/// The name is taken, or cannot be had.
pub(crate) fn refused(highest_version: u16) -> Vec<u8> {
    to_register(highest_version, 1, NO_CREATION)
}

fn to_register(highest_version: u16, result: u8, creation: u32) -> Vec<u8> {
    let creation = creation.to_be_bytes();
    if highest_version >= WIDE_CREATIONS {
        [&[118, result], &creation[..]].concat()
    } else {
        [&[121, result], &creation[2..]].concat()
    }
}

/// Where a node is; `None`: no such name.
pub(crate) fn found(entry: Option<&NodeEntry>) -> Vec<u8> {
    let Some(entry) = entry else {
        return vec![119, 1];
    };
    let mut bytes = vec![119, 0];
    bytes.extend(entry.port.to_be_bytes());
    bytes.push(entry.node_type.into());
    bytes.push(entry.protocol.into());
    bytes.extend(entry.highest_version.to_be_bytes());
    bytes.extend(entry.lowest_version.to_be_bytes());
    for text in [entry.name.as_bytes(), &entry.extra] {
        // Neither is longer than MAX_TEXT: it came out of a request.
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text);
    }
    bytes
}

/// The beginning of both lists.
pub(crate) fn list(port: u16) -> Vec<u8> {
    u32::from(port).to_be_bytes().to_vec()
}

/// A line of the names. Erlang nodes read it: not a byte may change.
pub(crate) fn name_line(name: &str, port: u16) -> String {
    format!("name {name} at port {port}\n")
}

/// A line of the dump for a name that is registered.
pub(crate) fn live_line(name: &str, port: u16, connection: u64) -> String {
    format!("active name     <{name}> at port {port}, fd = {connection}\n\0")
}

/// A line of the dump for a name that was.
pub(crate) fn old_line(name: &str, port: u16, connection: u64) -> String {
    format!("old/unused name <{name}>, port = {port}, fd = {connection} \n\0")
}

/// There are nodes alive.
pub(crate) fn not_killed() -> Vec<u8> {
    b"NO".to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_are_a_problem(bytes in prop::collection::vec(any::<u8>(), 0..3100)) {
            let _ = Request::parse(&bytes);
            let _ = missing(&bytes);
        }

        #[test]
        fn a_registration_is_read_as_it_was_meant(
            name in "[^\0]{0,255}",
            numbers in any::<(u16, u8, u8, u16, u16)>(),
            extra in prop::collection::vec(any::<u8>(), 1..1020),
            rest in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let (port, node_type, protocol, highest_version, lowest_version) = numbers;
            let mut bytes = vec![120];
            bytes.extend(port.to_be_bytes());
            bytes.extend([node_type, protocol]);
            bytes.extend(highest_version.to_be_bytes());
            bytes.extend(lowest_version.to_be_bytes());
            bytes.extend((name.len() as u16).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend((extra.len() as u16).to_be_bytes());
            bytes.extend(&extra);
            let whole = bytes.len();
            bytes.extend(rest);
            let entry = NodeEntry {
                name,
                port,
                node_type: node_type.into(),
                protocol: protocol.into(),
                highest_version,
                lowest_version,
                extra,
            };
            prop_assert_eq!(Request::parse(&bytes), Some(Request::Register(entry)));
            // No end is missed.
            for end in 0..whole {
                prop_assert_eq!(Request::parse(&bytes[..end]), None);
            }
        }

        #[test]
        fn a_request_is_waited_for_to_its_last_byte_and_no_further(
            length in 1..(MAX_REQUEST as u16 - 2),
            parts in prop::collection::vec(1..700_usize, 1..20),
        ) {
            let whole = usize::from(length) + 2;
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(whole, 7);
            let mut got = 0;
            for part in parts {
                let missing = missing(&bytes[..got]);
                prop_assert!(missing.is_some_and(|missing| missing >= whole - got));
                got = (got + part).min(whole);
            }
            prop_assert_eq!(missing(&bytes[..got]), Some(if got < 2 { MAX_REQUEST - 1 - got } else { whole - got }));
            bytes.push(7);
            prop_assert_eq!(missing(&bytes), None);
        }
    }

    #[test]
    fn a_request_of_no_bytes_or_too_many_is_none() {
        assert_eq!(missing(&[0, 0]), None);
        assert_eq!(missing(&[0, 1]), Some(1));
        assert_eq!(missing(&3057_u16.to_be_bytes()), Some(3057));
        assert_eq!(missing(&3058_u16.to_be_bytes()), None);
    }

    #[test]
    fn a_name_may_end_in_one_nul_when_it_is_looked_up() {
        assert_eq!(Request::parse(b"zfoo"), Some(Request::LookUp("foo")));
        assert_eq!(Request::parse(b"zfoo\0"), Some(Request::LookUp("foo")));
        for none in [
            &b"z"[..],
            b"z\0",
            b"zfoo\0\0",
            b"zf\0o",
            b"z\xff",
            b"",
            b"x",
            b"sfoo",
        ] {
            assert_eq!(Request::parse(none), None, "{none:?}");
        }
    }

    #[test]
    fn creations_of_old_nodes_are_small() {
        assert_eq!(registered(6, 0x0102_0304), [118, 0, 1, 2, 3, 4]);
        assert_eq!(registered(5, 4), [121, 0, 0, 2]);
        assert_eq!(refused(6), [118, 1, 0, 0, 0, 99]);
        assert_eq!(refused(5), [121, 1, 0, 99]);
    }
}
