//! Node names: `short@host`, as the distribution protocol and epmd know them.

use std::{convert::Infallible, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// The full name of a node, for example `rust@127.0.0.1`. Cheap to clone; ordered by code point, which is the order
/// that decides who wins when two nodes connect to each other at the same time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

/// Why a text is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// There is no `@`, more than one, or nothing on one side of it.
    #[error("{0:?} is no node name: it must have the form NAME@HOST, with one `@`")]
    Form(String),
    /// An atom, and so a node name, has at most 255 characters; epmd's names have at most 255 bytes.
    #[error("a node name of {0} bytes is too long: at most 255 are allowed")]
    TooLong(usize),
    /// White space, control characters, and the letters that separate things elsewhere are refused.
    #[error("{name:?} is no node name: it contains {found:?}")]
    Character {
        /// The whole text.
        name: String,
        /// The first character that does not belong there.
        found: char,
    },
}

/// How long a host a node name has. OTP nodes of one style never dial nodes of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameStyle {
    /// The host has a dot or is an address (`erl -name`).
    Long,
    /// The host is one word (`erl -sname`).
    Short,
}

impl NodeName {
    /// The part before the `@`: the name that epmd knows.
    pub fn short(&self) -> &str {
        self.split().0
    }

    /// The part after the `@`.
    pub fn host(&self) -> &str {
        self.split().1
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a name of `erl -name` or of `erl -sname`.
    pub fn style(&self) -> NameStyle {
        let host = self.host();
        if host.contains('.') || host.contains(':') {
            NameStyle::Long
        } else {
            NameStyle::Short
        }
    }

    /// The host as an address, when it is written as one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once('@').unwrap_or((&self.0, ""))
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 255 {
            return Err(NodeNameError::TooLong(text.len()));
        }
        if let Some(found) = text
            .chars()
            .find(|c| c.is_control() || c.is_whitespace() || "\"'\\/,;{}()<>".contains(*c))
        {
            return Err(NodeNameError::Character {
                name: text.into(),
                found,
            });
        }
        match text.split_once('@') {
            // A colon separates the parts of a key in Redis; only an address may have some.
            Some((short, _)) if short.contains(':') => Err(NodeNameError::Character {
                name: text.into(),
                found: ':',
            }),
            Some((short, host)) if !short.is_empty() && !host.is_empty() && !host.contains('@') => {
                Ok(Self(text.into()))
            }
            _ => Err(NodeNameError::Form(text.into())),
        }
    }
}

impl TryFrom<&str> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// So that a name that is one already can stand where a text may.
impl From<Infallible> for NodeNameError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_short_part_and_a_host() {
        let name: NodeName = "rust@10.0.0.1".parse().unwrap();
        assert_eq!(
            (name.short(), name.host(), name.style()),
            ("rust", "10.0.0.1", NameStyle::Long)
        );
        assert_eq!(name.host_ip(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(
            "rust@box".parse::<NodeName>().unwrap().style(),
            NameStyle::Short
        );
    }

    #[test]
    fn what_is_no_node_name_is_refused_with_the_reason() {
        for text in [
            "",
            "rust",
            "@h",
            "rust@",
            "a@b@c",
            "a b@c",
            "a\n@b",
            "a@b'",
            &format!("{}@h", "x".repeat(255)),
        ] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?} passed");
        }
        let text = "a\u{7}@b".parse::<NodeName>().unwrap_err().to_string();
        assert!(text.contains("\\u{7}"), "{text}");
    }
}
