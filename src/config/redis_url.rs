//! The URL of the Redis server. It may hold a password, so nothing that is
//! printed shows it: `Display` and `Debug` put stars in its place.

use std::fmt;
use std::str::FromStr;

use redis::IntoConnectionInfo;

use super::error::BadValue;

/// A URL that the Redis client understands: `redis://[USER:PASSWORD@]HOST:PORT/DB`
/// or `unix:///path?db=N&user=U&pass=P`.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The URL with its password, for the client. It must not be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Default for RedisUrl {
    fn default() -> RedisUrl {
        RedisUrl("redis://127.0.0.1:6379/".to_owned())
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&starred(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", starred(&self.0))
    }
}

impl FromStr for RedisUrl {
    type Err = BadValue;

    fn from_str(raw: &str) -> Result<RedisUrl, BadValue> {
        let bad = |reason: &str, mend: &str| {
            let shown = starred(raw).escape_debug().to_string();
            Err(BadValue::new(
                format!("{shown} is not a Redis URL this program can use: {reason}"),
                mend,
            ))
        };
        const MEND: &str =
            "write redis://HOST:PORT/, redis://USER:PASSWORD@HOST:PORT/DB or unix:///PATH";
        match raw.split_once("://").map(|(scheme, _)| scheme) {
            Some("redis" | "unix") => {}
            Some(_) => return bad("its scheme is not known here", MEND),
            None => return bad("it does not begin with a scheme", MEND),
        }
        match raw.into_connection_info() {
            Ok(_) => Ok(RedisUrl(raw.to_owned())),
            // What the client says is not repeated: it was given the password.
            Err(_) if raw.contains('@') => bad(
                "its host, port or database is wrong",
                "write redis://USER:PASSWORD@HOST:PORT/DB, where / ? # and @ in the password are %2F %3F %23 and %40",
            ),
            Err(_) => bad("its host, port, database or path is wrong", MEND),
        }
    }
}

/// The text with stars for every place where a password can stand. It must hold
/// for texts that are no URL too, as those are the ones shown in errors: so all
/// from the first `:` of what precedes the last `@` goes, whatever else is there.
fn starred(raw: &str) -> String {
    let (scheme, rest) = match raw.find("://") {
        Some(at) => raw.split_at(at + 3),
        None => ("", raw),
    };
    let mut text = String::from(scheme);
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => {
            match user.split_once(':') {
                Some((name, _)) => text.push_str(&format!("{name}:***@")),
                // A lone name may be a password whose colon was forgotten.
                None => text.push_str("***@"),
            }
            host
        }
        None => rest,
    };
    // `redis://:PASSWORD` with the host forgotten: where a port should stand.
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let rest = match authority.split_once(':') {
        Some((host, port))
            if !host.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            text.push_str(&format!("{host}:***"));
            &rest[authority.len()..]
        }
        _ => rest,
    };
    let Some((path, query)) = rest.split_once('?') else {
        text.push_str(rest);
        return text;
    };
    text.push_str(path);
    for (index, pair) in query.split('&').enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            // Only what is known to be harmless is shown.
            Some(("db" | "user" | "protocol", _)) | None => text.push_str(pair),
            Some((key, _)) => text.push_str(&format!("{key}=***")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_about_the_url_shows_the_password() {
        for (raw, shown) in [
            ("redis://127.0.0.1:6379/", "redis://127.0.0.1:6379/"),
            ("redis://:s3cret@host:1/2", "redis://:***@host:1/2"),
            ("redis://ann:s3cret@host/", "redis://ann:***@host/"),
            ("redis://ann:x@s3cret@host/", "redis://ann:***@host/"),
            ("redis://s3cret@host/", "redis://***@host/"),
            ("redis://[::1]:6379/", "redis://[::1]:6379/"),
            (
                "unix:///run/redis.sock?db=1&pass=s3cret&user=ann",
                "unix:///run/redis.sock?db=1&pass=***&user=ann",
            ),
        ] {
            let url: RedisUrl = raw.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.expose(), raw);
            assert!(!format!("{url:?}").contains("s3cret"));
        }
    }

    #[test]
    fn an_error_about_the_url_does_not_show_the_password_either() {
        for raw in [
            "redis://ann:s3cret/with#strange?signs@host:6379/",
            "redis://ann:s3cret@host:port/",
            "redis://ann:s3cret@host/notadb",
            "http://ann:s3cret@host/",
            "ann:s3cret@host",
            "redis://:s3cret",
            "redis://ann:s3cret/2",
            "unix://?pass=s3cret",
        ] {
            let bad = raw.parse::<RedisUrl>().unwrap_err();
            assert!(!bad.problem.contains("s3cret"), "{}", bad.problem);
            assert!(bad.mend.contains("redis://"), "{}", bad.mend);
        }
    }

    #[test]
    fn what_the_client_could_not_use_is_refused() {
        for raw in [
            "",
            "localhost:6379",
            "rediss://host/",
            "redis+sentinel://h/",
            "redis://",
            "redis://h:99999/",
        ] {
            assert!(raw.parse::<RedisUrl>().is_err(), "{raw}");
        }
    }
}
