//! TLS between nodes: four flags, three PEM files. Any of the flags turns it on.
//!
//! | Flag | In an `ssl_dist_optfile` |
//! |---|---|
//! | `--tls-cert` | `certfile`, of server and client |
//! | `--tls-key` | `keyfile`; without it the key is looked for in the certificate's file, as there |
//! | `--tls-ca` | `cacertfile` |
//! | `--tls-verify` | `verify`, `fail_if_no_peer_cert`, and whether the host name is checked |

use std::path::{Path, PathBuf};

use super::error::{BadValue, ConfigError, Origin, shown};
use super::file::{self, Unread};
use super::parsed;
use super::sources::Sources;
use crate::dist::{Tls, TlsError, TlsPem, TlsVerify};

/// More than this is never read of a file: enough for the authorities of all browsers.
const MAX_FILE: u64 = 1024 * 1024;

/// A file that a flag names.
struct File {
    origin: Origin,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl File {
    fn cannot_serve(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::TlsFile {
            origin: self.origin.clone(),
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

/// What the flags say; `None` when none of them is given. A node that `listens` needs a certificate.
pub(super) fn tls(
    sources: &Sources,
    listens: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Tls>, ConfigError> {
    let mut first = None;
    for key in ["tls-cert", "tls-key", "tls-ca", "tls-verify"] {
        first = first.or(sources.find(key)?.map(|found| found.origin));
    }
    let Some(first) = first else {
        return Ok(None);
    };
    let verify = parsed(sources, "tls-verify", verify)?.unwrap_or_default();
    let certificate = read(sources, "tls-cert", false)?;
    let key = match (read(sources, "tls-key", true)?, &certificate) {
        (None, Some(certificate)) if holds_a_key(&certificate.bytes) => {
            read(sources, "tls-cert", true)?
        }
        (None, Some(certificate)) => {
            return Err(certificate.cannot_serve(
                "holds no private key; name the file that does with --tls-key FILE",
            ));
        }
        (key, _) => key,
    };
    let missing = |problem: &str, mend: &str| BadValue::new(problem, mend).at(first.clone());
    if certificate.is_none() && (listens || key.is_some()) {
        return Err(missing(
            "TLS needs a certificate",
            "give --tls-cert FILE (PEM) and --tls-key FILE too",
        ));
    }
    let authorities = read(sources, "tls-ca", false)?;
    if authorities.is_none() && verify != TlsVerify::None {
        return Err(missing(
            "peers cannot be verified without the certificates of the authorities that are trusted",
            "give --tls-ca FILE (PEM), or --tls-verify none, which encrypts without knowing for whom",
        ));
    }
    if verify == TlsVerify::None {
        warnings.push(
            "TLS without verification: whoever is between two nodes can pose as either; --tls-verify full checks them"
                .to_owned(),
        );
    }
    let bytes = |file: &Option<File>| file.as_ref().map(|file| file.bytes.clone());
    let (own, secret, trusted) = (bytes(&certificate), bytes(&key), bytes(&authorities));
    let made = Tls::new(TlsPem {
        certificate: own.as_deref(),
        key: secret.as_deref(),
        authorities: trusted.as_deref(),
        verify,
    });
    made.map(Some).map_err(|error| {
        let whose = match error {
            TlsError::Certificate(_) => &certificate,
            TlsError::Key(_) => &key,
            TlsError::Authorities(_) => &authorities,
            TlsError::Half | TlsError::NoAuthorities => &None,
        };
        match whose {
            Some(file) => file.cannot_serve(error.to_string()),
            None => missing(
                &error.to_string(),
                "give --tls-cert, --tls-key and --tls-ca",
            ),
        }
    })
}

fn verify(raw: &str) -> Result<TlsVerify, BadValue> {
    match raw {
        "full" => Ok(TlsVerify::Full),
        "peer" => Ok(TlsVerify::Peer),
        "none" => Ok(TlsVerify::None),
        _ => Err(BadValue::new(
            format!("{} is no way to verify peers", shown(raw)),
            "write full (certificate and host name), peer (certificate only) or none",
        )),
    }
}

fn holds_a_key(pem: &[u8]) -> bool {
    String::from_utf8_lossy(pem).contains("PRIVATE KEY-----")
}

fn read(sources: &Sources, key: &'static str, secret: bool) -> Result<Option<File>, ConfigError> {
    let Some(found) = sources.find(key)? else {
        return Ok(None);
    };
    let path = Path::new(found.text());
    let reason = match file::read(path, MAX_FILE, secret) {
        Ok(bytes) => {
            return Ok(Some(File {
                origin: found.origin.clone(),
                path: path.to_owned(),
                bytes,
            }));
        }
        Err(Unread::Absent) => "there is no such file".to_owned(),
        Err(Unread::NoFile) => "is not a regular file; name a PEM file".to_owned(),
        Err(Unread::Io(error)) => {
            format!("{error}; it must be readable by the user that runs this")
        }
        Err(Unread::Open(mode)) => format!(
            "holds a private key, and others can read or write it (mode {mode:04o}); make it yours alone: chmod 400 {}",
            path.display()
        ),
        Err(Unread::TooLong) => "is far too long for a PEM file".to_owned(),
    };
    Err(ConfigError::TlsFile {
        origin: found.origin.clone(),
        path: path.to_owned(),
        reason,
    })
}
