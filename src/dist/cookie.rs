//! The cookie: the secret that two nodes prove to each other when they connect.
//!
//! It never crosses the wire itself (the handshake sends digests of it), and it
//! must not leave through a log either: `Debug` prints stars, there is no
//! `Display`, and comparing takes the same time however much of it is right.

use std::fmt;

use subtle::ConstantTimeEq;

/// The longest cookie, in bytes: Erlang keeps it as an atom.
pub(super) const MAX_COOKIE: usize = 255;

/// The secret shared by the nodes that may connect to each other: 1 to 255
/// characters from space to tilde, as `erl` reads them from its cookie file.
#[derive(Clone)]
pub struct Cookie(String);

/// Why a text is no cookie. The text itself is never part of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCookie {
    /// There is nothing in it.
    #[error("the cookie is empty")]
    Empty,
    /// It is longer than an Erlang atom; holds the length in bytes.
    #[error("the cookie is {0} bytes long and the most is 255")]
    TooLong(usize),
    /// It holds something else than printable ASCII; `erl` refuses that too.
    #[error("the cookie holds a character that is not printable ASCII")]
    NotPrintable,
}

impl Cookie {
    /// Takes the text as it is: nothing is trimmed here.
    ///
    /// # Errors
    /// When it is empty, too long, or holds other than printable ASCII.
    pub fn new(text: &str) -> Result<Cookie, BadCookie> {
        if text.is_empty() {
            return Err(BadCookie::Empty);
        }
        if text.len() > MAX_COOKIE {
            return Err(BadCookie::TooLong(text.len()));
        }
        if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(BadCookie::NotPrintable);
        }
        Ok(Cookie(text.to_owned()))
    }

    /// The secret itself, for the digests of the handshake. The name is a
    /// warning: what this returns must not be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its length in bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a cookie is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl TryFrom<&str> for Cookie {
    type Error = BadCookie;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Cookie::new(text)
    }
}

impl TryFrom<String> for Cookie {
    type Error = BadCookie;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Cookie::new(&text)
    }
}

/// So that a cookie that is one already can stand where a text may.
impl From<std::convert::Infallible> for BadCookie {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl PartialEq for Cookie {
    fn eq(&self, other: &Cookie) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Cookie {}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(***)")
    }
}

impl std::str::FromStr for Cookie {
    type Err = BadCookie;

    fn from_str(text: &str) -> Result<Cookie, BadCookie> {
        Cookie::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_stars() {
        let cookie = Cookie::new("MONSTER").unwrap();
        assert!(!format!("{cookie:?}").contains("MONSTER"));
    }

    #[test]
    fn cookies_are_equal_when_their_text_is() {
        let cookie = Cookie::new("MONSTER").unwrap();
        assert_eq!(cookie, Cookie::new("MONSTER").unwrap());
        assert_ne!(cookie, Cookie::new("MONSTEr").unwrap());
        assert_ne!(cookie, Cookie::new("MONSTERS").unwrap());
    }

    #[test]
    fn what_erl_would_not_read_is_refused() {
        assert_eq!(Cookie::new(""), Err(BadCookie::Empty));
        assert_eq!(Cookie::new("a\nb"), Err(BadCookie::NotPrintable));
        assert_eq!(Cookie::new("caf\u{e9}"), Err(BadCookie::NotPrintable));
        assert_eq!(Cookie::new(&"x".repeat(256)), Err(BadCookie::TooLong(256)));
        assert_eq!(Cookie::new(&"x".repeat(255)).map(|c| c.len()), Ok(255));
    }
}
