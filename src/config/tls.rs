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
        Err(Unread::Absent) => "there is no such file; check the path".to_owned(),
        Err(Unread::NoFile) => "is not a regular file; name a PEM file".to_owned(),
        Err(Unread::Io(error)) => {
            format!("{error}; it must be readable by the user that runs this")
        }
        Err(Unread::Open(mode)) => format!(
            "holds a private key, and others can read or write it (mode {mode:04o}); make it yours alone: chmod 400 {}",
            path.display()
        ),
        Err(Unread::TooLong) => {
            "is far too long for a PEM file; name one with certificates alone".to_owned()
        }
    };
    Err(ConfigError::TlsFile {
        origin: found.origin.clone(),
        path: path.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::{Environment, Flags};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Flags that name files with a sound certificate, its key and its authority, which is itself.
    struct User {
        folder: tempfile::TempDir,
        certificate: String,
        key: String,
        flags: Flags,
    }

    impl User {
        fn new() -> User {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            User {
                folder: tempfile::tempdir().unwrap(),
                certificate: params.self_signed(&key).unwrap().pem(),
                key: key.serialize_pem(),
                flags: Flags::default(),
            }
        }

        /// With all three files.
        fn complete() -> User {
            let mut user = User::new();
            let (certificate, key) = (user.certificate.clone(), user.key.clone());
            user.file("tls-cert", &certificate, 0o444);
            user.file("tls-key", &key, 0o400);
            user.file("tls-ca", &certificate, 0o444);
            user
        }

        fn file(&mut self, flag: &'static str, text: &str, mode: u32) -> PathBuf {
            let path = self.folder.path().join(flag);
            // A read-only one cannot be written over, except by root.
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            self.flags.one(flag, path.to_str());
            path
        }

        fn without(mut self, flag: &str) -> User {
            self.flags = self.flags.without(flag);
            self
        }

        fn with(mut self, flag: &'static str, value: &str) -> User {
            self.flags.one(flag, Some(value));
            self
        }

        /// What comes of it for a node, or for a command; with the warnings.
        fn resolve(&self, listens: bool) -> Result<(Option<Tls>, Vec<String>), ConfigError> {
            let sources = Sources::new(self.flags.clone(), Environment::new())?;
            let mut warnings = Vec::new();
            let tls = tls(&sources, listens, &mut warnings)?;
            Ok((tls, warnings))
        }

        /// The error for a node, which never shows a key.
        fn error(&self) -> String {
            let error = self.resolve(true).unwrap_err().to_string();
            let secret = self.key.lines().nth(1).unwrap();
            assert!(!error.contains(secret), "{error}");
            error
        }
    }

    #[test]
    fn without_a_flag_there_is_no_tls_and_with_all_it_verifies_fully() {
        assert!(User::new().resolve(true).unwrap().0.is_none());
        let (tls, warnings) = User::complete().resolve(true).unwrap();
        assert_eq!(tls.unwrap().verify(), TlsVerify::Full);
        assert!(warnings.is_empty());
    }

    #[test]
    fn the_key_is_looked_for_in_the_file_of_the_certificate() {
        let mut user = User::complete().without("tls-key");
        let error = user.error();
        assert!(error.contains("holds no private key"), "{error}");
        assert!(error.contains("--tls-key FILE"), "{error}");

        let both = format!("{}{}", user.certificate, user.key);
        user.file("tls-cert", &both, 0o400);
        assert!(user.resolve(true).unwrap().0.is_some());
        let path = user.file("tls-cert", &both, 0o444);
        let error = user.error();
        assert!(
            error.contains(&format!("chmod 400 {}", path.display())),
            "{error}"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_mend() {
        let mut user = User::complete();
        let key = user.key.clone();
        for mode in [0o440, 0o404, 0o644, 0o620] {
            let path = user.file("tls-key", &key, mode);
            let error = user.error();
            assert!(
                error.contains(&format!("chmod 400 {}", path.display())),
                "{error}"
            );
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
        }
        for mode in [0o400, 0o600] {
            user.file("tls-key", &key, mode);
            assert!(user.resolve(true).is_ok());
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let error = User::complete().without("tls-ca").error();
        assert!(error.contains("--tls-ca FILE"), "{error}");
        let error = User::complete().without("tls-cert").error();
        assert!(error.contains("--tls-cert FILE"), "{error}");
        let error = User::complete().with("tls-key", "/no/such/file").error();
        assert!(
            error.contains("--tls-key: the file /no/such/file: there is no such file"),
            "{error}"
        );
        let error = User::new().with("tls-verify", "verify_peer").error();
        assert!(error.contains("write full"), "{error}");
    }

    #[test]
    fn a_command_does_without_a_certificate_of_its_own_but_not_without_whom_to_trust() {
        let only_ca = User::complete().without("tls-cert").without("tls-key");
        assert!(only_ca.resolve(false).unwrap().0.is_some());
        assert!(only_ca.error().contains("TLS needs a certificate"));
        let nothing = User::new().with("tls-verify", "full");
        assert!(
            nothing
                .resolve(false)
                .unwrap_err()
                .to_string()
                .contains("--tls-ca")
        );
    }

    #[test]
    fn to_verify_nothing_is_possible_and_warned_of() {
        let user = User::complete()
            .without("tls-ca")
            .with("tls-verify", "none");
        let (tls, warnings) = user.resolve(true).unwrap();
        assert_eq!(tls.unwrap().verify(), TlsVerify::None);
        assert!(warnings[0].contains("can pose as either"), "{warnings:?}");
    }

    #[test]
    fn files_that_are_something_else_are_told_by_their_flag() {
        let (mut user, other) = (User::complete(), User::new());
        let (certificate, key) = (user.certificate.clone(), user.key.clone());
        user.file("tls-key", &other.key, 0o400);
        let error = user.error();
        assert!(
            error.contains("--tls-key") && error.contains("not the one of the certificate"),
            "{error}"
        );

        user.file("tls-key", &certificate, 0o400);
        let error = user.error();
        assert!(error.contains("BEGIN PRIVATE KEY"), "{error}");

        let locked =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        user.file("tls-key", locked, 0o400);
        let error = user.error();
        assert!(error.contains("has a password"), "{error}");

        user.file("tls-key", &key, 0o400);
        user.file("tls-ca", &key, 0o400);
        let error = user.error();
        assert!(
            error.contains("--tls-ca") && error.contains("BEGIN CERTIFICATE"),
            "{error}"
        );

        let torn = &certificate[..certificate.len() / 2];
        user.file("tls-ca", torn, 0o444);
        let error = user.error();
        assert!(error.contains("broken PEM"), "{error}");

        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        user.file("tls-ca", garbage, 0o444);
        let error = user.error();
        assert!(error.contains("cannot be read"), "{error}");
        user.file("tls-ca", &certificate, 0o444);
        user.file("tls-cert", garbage, 0o444);
        let error = user.error();
        assert!(error.contains("--tls-cert"), "{error}");
    }
}
