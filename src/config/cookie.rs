//! Where the cookie comes from when it is not given itself, as `erl` does it:
//! `~/.erlang.cookie`, then `$XDG_CONFIG_HOME/erlang/.erlang.cookie`; where
//! neither is there, the first is made: 20 random capital letters, for its
//! owner's eyes only. A file that others can read is refused, as they could then
//! run anything on every node of the cluster.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::error::ConfigError;
use super::file;
use crate::dist::{BadCookie, Cookie};

/// Below this many characters a cookie can be guessed by trying.
const SAFE_LENGTH: usize = 16;

/// The length of one that is made here.
const MADE_LENGTH: usize = 20;

/// More than this is never read of a cookie file.
const MAX_FILE: u64 = 4096;

/// The places where the cookie lies when none is given.
pub(super) struct Places {
    /// `~/.erlang.cookie`, which is also made.
    pub(super) home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME/erlang/.erlang.cookie`.
    pub(super) xdg: Option<PathBuf>,
}

impl Places {
    /// From the two variables; empty ones count as not set.
    pub(super) fn new(home: Option<String>, xdg: Option<String>) -> Places {
        let home = home.filter(|home| !home.is_empty()).map(PathBuf::from);
        let xdg = xdg
            .filter(|xdg| !xdg.is_empty())
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".config")));
        Places {
            home: home.map(|home| home.join(".erlang.cookie")),
            xdg: xdg.map(|xdg| xdg.join("erlang").join(".erlang.cookie")),
        }
    }
}

/// Finds the cookie; `None` where there is none.
pub(super) fn find(places: &Places) -> Result<Option<Cookie>, ConfigError> {
    for path in [&places.home, &places.xdg].into_iter().flatten() {
        match read(path) {
            Err(Unread::File(file::Unread::Absent)) => {}
            found => return found.map(Some).map_err(|unread| unread.at(path)),
        }
    }
    Ok(None)
}

/// What is to be said of a cookie on a node that other machines reach.
pub(super) fn doubts(cookie: &Cookie) -> Option<String> {
    (cookie.len() < SAFE_LENGTH).then(|| {
        format!(
            "the cookie has {} characters, and this node can be reached from other machines: whoever guesses it \
             controls the cluster; use at least {SAFE_LENGTH} random ones",
            cookie.len()
        )
    })
}

/// Finds the cookie, or makes one. The second value is the file that was made,
/// so that the user is told.
pub(super) fn find_or_make(places: &Places) -> Result<(Cookie, Option<PathBuf>), ConfigError> {
    if let Some(cookie) = find(places)? {
        return Ok((cookie, None));
    }
    let path = places.home.as_ref().ok_or(ConfigError::NoHome)?;
    match make(path) {
        Ok(cookie) => Ok((cookie, Some(path.clone()))),
        // Another program made it in the meantime: that one counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path)
            .map(|cookie| (cookie, None))
            .map_err(|unread| unread.at(path)),
        Err(error) => Err(ConfigError::CookieFile {
            path: path.clone(),
            reason: format!(
                "cannot be made ({error}); give --cookie-file FILE, or make this directory writable"
            ),
        }),
    }
}

/// Reads the file that the user named.
pub(super) fn from_file(path: &Path) -> Result<Cookie, ConfigError> {
    read(path).map_err(|unread| unread.at(path))
}

enum Unread {
    File(file::Unread),
    Bad(BadCookie),
}

impl Unread {
    fn at(self, path: &Path) -> ConfigError {
        let shown = path.display();
        let reason = match self {
            Unread::File(file::Unread::Absent) => {
                "there is no such file; write the cookie of your cluster into it, mode 0400"
                    .to_owned()
            }
            Unread::File(file::Unread::NoFile) => {
                "is not a regular file; name one that holds the cookie".to_owned()
            }
            Unread::File(file::Unread::Io(error)) => {
                format!("{error}; it must be readable by the user that runs this")
            }
            Unread::File(file::Unread::Open(mode)) => {
                format!(
                    "others can read or write it (mode {mode:04o}); make it yours alone: chmod 400 {shown}"
                )
            }
            Unread::File(file::Unread::TooLong) => {
                "is far too long for a cookie; write the cookie alone into it".to_owned()
            }
            Unread::Bad(bad) => {
                format!(
                    "{bad}; write 1 to 255 printable ASCII characters into it, the same on every node"
                )
            }
        };
        ConfigError::CookieFile {
            path: path.to_owned(),
            reason,
        }
    }
}

fn read(path: &Path) -> Result<Cookie, Unread> {
    let bytes = file::read(path, MAX_FILE, true).map_err(Unread::File)?;
    cookie_in(&bytes).map_err(Unread::Bad)
}

/// The cookie in the bytes of a file, as `erl` reads it: up to the first line
/// end, after which only line ends and spaces may follow.
fn cookie_in(bytes: &[u8]) -> Result<Cookie, BadCookie> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadCookie::NotPrintable)?;
    let end = text.find(['\n', '\r']).unwrap_or(text.len());
    let (line, rest) = text.split_at(end);
    if !rest.trim_matches(['\n', '\r', ' ']).is_empty() {
        return Err(BadCookie::NotPrintable);
    }
    Cookie::new(line)
}

/// Makes the file under another name first and then links it, so that nobody
/// ever reads a half-written cookie and an existing one is never overwritten.
fn make(path: &Path) -> io::Result<Cookie> {
    let mut random = rand::rng();
    let text: String = (0..MADE_LENGTH)
        .map(|_| char::from(random.random_range(b'A'..=b'Z')))
        .collect();
    let cookie = Cookie::new(&text).map_err(io::Error::other)?;
    let draft = path.with_extension(format!(
        "cookie.{}.{:08x}",
        std::process::id(),
        random.random::<u32>()
    ));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&draft)?;
    let placed = file
        .write_all(text.as_bytes())
        .and_then(|()| fs::hard_link(&draft, path));
    // Best effort: what is left is a cookie that nobody uses.
    let _ = fs::remove_file(&draft);
    placed.map(|()| cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn places(dir: &tempfile::TempDir) -> Places {
        Places::new(dir.path().to_str().map(str::to_owned), None)
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A read-only one cannot be written over, except by root.
        let _ = fs::remove_file(path);
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_home_file_comes_before_the_one_in_the_config_directory() {
        let dir = home();
        write(
            &dir.path().join(".config/erlang/.erlang.cookie"),
            "SECOND",
            0o600,
        );
        let (cookie, made) = find_or_make(&places(&dir)).unwrap();
        assert_eq!((cookie.expose(), made), ("SECOND", None));

        write(&dir.path().join(".erlang.cookie"), "FIRST\n", 0o400);
        let (cookie, made) = find_or_make(&places(&dir)).unwrap();
        assert_eq!((cookie.expose(), made), ("FIRST", None));
    }

    #[test]
    fn the_config_directory_can_be_named() {
        let dir = home();
        let xdg = dir.path().join("elsewhere");
        write(&xdg.join("erlang/.erlang.cookie"), "THERE", 0o400);
        let places = Places::new(
            dir.path().to_str().map(str::to_owned),
            xdg.to_str().map(str::to_owned),
        );
        assert_eq!(find_or_make(&places).unwrap().0.expose(), "THERE");
    }

    #[test]
    fn where_there_is_none_one_is_made_as_erl_makes_it() {
        let dir = home();
        let path = dir.path().join(".erlang.cookie");
        let (cookie, made) = find_or_make(&places(&dir)).unwrap();
        assert_eq!(made.as_deref(), Some(path.as_path()));
        assert_eq!(cookie.len(), 20);
        assert!(
            cookie
                .expose()
                .bytes()
                .all(|byte| byte.is_ascii_uppercase())
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o400
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), cookie.expose());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing else is left behind"
        );

        let (again, made) = find_or_make(&places(&dir)).unwrap();
        assert_eq!((again, made), (cookie, None));
    }

    #[test]
    fn making_one_never_overwrites_one_that_is_there() {
        let dir = home();
        let path = dir.path().join(".erlang.cookie");
        write(&path, "MINE", 0o400);
        assert_eq!(
            make(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "MINE");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_mend() {
        let dir = home();
        let path = dir.path().join(".erlang.cookie");
        for mode in [0o440, 0o404, 0o644, 0o620, 0o601] {
            write(&path, "SECRET", mode);
            let error = find_or_make(&places(&dir)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("chmod 400 {}", path.display())),
                "{error}"
            );
            assert!(!error.contains("SECRET"));
            assert!(from_file(&path).is_err());
        }
        for mode in [0o400, 0o600, 0o700] {
            write(&path, "SECRET", mode);
            assert_eq!(from_file(&path).unwrap().expose(), "SECRET");
        }
    }

    #[test]
    fn only_line_ends_and_spaces_may_follow_the_cookie() {
        for (text, cookie) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n\n ", "abc"),
            ("a b \n", "a b "),
        ] {
            assert_eq!(cookie_in(text.as_bytes()).unwrap().expose(), cookie);
        }
        for (bytes, bad) in [
            (&b""[..], BadCookie::Empty),
            (b"\n", BadCookie::Empty),
            (b"abc\ndef", BadCookie::NotPrintable),
            (b"a\tb", BadCookie::NotPrintable),
            (b"\xff", BadCookie::NotPrintable),
        ] {
            assert_eq!(cookie_in(bytes), Err(bad));
        }
    }

    #[test]
    fn a_named_file_that_cannot_serve_is_told_by_its_name() {
        let dir = home();
        let path = dir.path().join("cookie");
        for (prepare, words) in [
            (None, "no such file"),
            (Some(String::new()), "the cookie is empty"),
            (Some("x".repeat(256)), "256 bytes long"),
            (Some("x".repeat(5000)), "far too long"),
        ] {
            if let Some(text) = prepare {
                write(&path, &text, 0o600);
            }
            let error = from_file(&path).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains(&path.display().to_string()),
                "{error}"
            );
        }
        assert!(
            from_file(dir.path())
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }

    #[test]
    fn without_a_home_the_mend_is_to_give_one() {
        let error = find_or_make(&Places::new(Some(String::new()), None)).unwrap_err();
        assert!(error.to_string().contains("--cookie-file"), "{error}");
    }
}
