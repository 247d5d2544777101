//! Authorities, certificates and keys, made anew for each test.

use super::epmd::EpmdServer;
use super::{beam::Beam, toy};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use redgrid::dist::{Options, Tls, TlsPem, TlsVerify};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// One that signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: TempDir,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// It ended long ago.
    Expired,
    /// It is for another host.
    Elsewhere,
    /// It may only be used by one who is dialled.
    ServerOnly,
}

/// A certificate for nodes on 127.0.0.1 and localhost, its key, and whom its owner trusts.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) ca: String,
    folder: PathBuf,
}

impl Authority {
    /// A new one, whose name is that of every other.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "the authority of the tests");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A sound certificate of its own, trusting it.
    pub(crate) fn issue(&self) -> Identity {
        self.issue_with(Flaw::None)
    }

    /// One with a flaw.
    pub(crate) fn issue_with(&self, flaw: Flaw) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "a node");
        params.subject_alt_names = if flaw == Flaw::Elsewhere {
            vec![name("elsewhere.example")]
        } else {
            // OTP looks for the text of an address among the names; everybody else among the addresses.
            let address = SanType::IpAddress([127, 0, 0, 1].into());
            vec![name("localhost"), name("127.0.0.1"), address]
        };
        if flaw == Flaw::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        if flaw == Flaw::ServerOnly {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            cert: cert.pem(),
            key: key.serialize_pem(),
            ca: self.pem.clone(),
            folder: self.folder.path().to_owned(),
        }
    }
}

fn name(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

impl Identity {
    /// The same, trusting another authority.
    pub(crate) fn trusting(mut self, other: &Authority) -> Self {
        self.ca = other.pem().to_owned();
        self
    }

    /// As a Rust node takes it.
    pub(crate) fn tls(&self, verify: TlsVerify) -> Tls {
        let pem = TlsPem {
            certificate: Some(self.cert.as_bytes()),
            key: Some(self.key.as_bytes()),
            authorities: Some(self.ca.as_bytes()),
            verify,
        };
        Tls::new(pem).expect("certificates of the test")
    }

    /// Options of a Rust node of this name with it.
    pub(crate) fn options(&self, epmd: &EpmdServer, name: &str, verify: TlsVerify) -> Options {
        let mut options = toy::options(epmd, name);
        options.tls = Some(self.tls(verify));
        options
    }

    /// A file with a text of this test; keys are for the owner only.
    pub(crate) fn file(&self, text: &str) -> String {
        let mut file = tempfile::Builder::new()
            .suffix(".pem")
            .disable_cleanup(true)
            .tempfile_in(&self.folder)
            .expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("a file");
        let path = file.path().to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).expect("its mode");
        path.display().to_string()
    }

    /// The flags of the command line.
    pub(crate) fn flags(&self) -> Vec<String> {
        let (cert, key, ca) = (
            self.file(&self.cert),
            self.file(&self.key),
            self.file(&self.ca),
        );
        ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca]
            .map(str::to_owned)
            .into()
    }

    /// The `ssl_dist_optfile` of a cluster that verifies in both directions.
    pub(crate) fn optfile(&self, versions: &str) -> String {
        let own = self.own();
        self.file(&format!(
            "[{{server, [{own}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}{versions}]}}, \
              {{client, [{own}, {{verify, verify_peer}}{versions}]}}]."
        ))
    }

    /// One whose client presents no certificate and checks nothing.
    pub(crate) fn optfile_of_a_stranger(&self) -> String {
        let own = self.own();
        self.file(&format!(
            "[{{server, [{own}, {{verify, verify_none}}]}}, {{client, [{{verify, verify_none}}]}}]."
        ))
    }

    fn own(&self) -> String {
        format!(
            "{{certfile, {:?}}}, {{keyfile, {:?}}}, {{cacertfile, {:?}}}",
            self.file(&self.cert),
            self.file(&self.key),
            self.file(&self.ca)
        )
    }
}

/// A real `erl` of this short name whose distribution is inside TLS.
pub(crate) async fn beam(epmd: &EpmdServer, name: &str, optfile: &str) -> Beam {
    let arguments = ["-proto_dist", "inet_tls", "-ssl_dist_optfile", optfile];
    Beam::start_with(epmd, name, &arguments).await
}
