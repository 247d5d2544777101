//! A real `epmd` as a value, on a port of its own so that runs do not meet; killed and reaped when dropped.

use redgrid::dist::Epmd;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running epmd, or a port where one may be started.
pub(crate) struct EpmdServer {
    child: Option<Child>,
    port: u16,
}

impl EpmdServer {
    /// A running one.
    pub(crate) fn start() -> Self {
        // Between finding a free port and taking it someone else may have.
        for _ in 0..5 {
            let mut server = Self::absent();
            if server.try_start() {
                return server;
            }
        }
        panic!("epmd did not start");
    }

    /// Only the port, at which a node may serve one.
    ///
    /// It is none that the system gives to anybody by itself, so it stays free while nobody serves there for a moment.
    pub(crate) fn absent() -> Self {
        for _ in 0..1000 {
            let port = rand::random_range(12_000..32_000);
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Self { child: None, port };
            }
        }
        panic!("no port is free");
    }

    /// Kills it: every name is forgotten.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, without names.
    pub(crate) fn restart(&mut self) {
        self.stop();
        assert!(self.try_start(), "epmd did not start again");
    }

    /// Whether one that is started now ends at once, as it does where somebody has the port.
    pub(crate) async fn gives_way(&self) -> bool {
        let mut child = tokio::process::Command::new("epmd")
            .args(["-port", &self.port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Erlang must be installed for these tests (make test does it)");
        let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
        ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
    }

    /// Runs the program `epmd` as a user would who asks this one something, and gives what it printed.
    pub(crate) async fn ask(&self, argument: &str) -> String {
        let output = tokio::process::Command::new("epmd")
            .arg(argument)
            .env("ERL_EPMD_PORT", self.port.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("Erlang must be installed for these tests (make test does it)");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Where it is, as a node is told.
    pub(crate) fn address(&self) -> Epmd {
        Epmd {
            port: self.port,
            ..Epmd::default()
        }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The names registered there.
    pub(crate) async fn names(&self) -> Vec<(String, u16)> {
        let names = self.address().names(Ipv4Addr::LOCALHOST.into()).await;
        names.unwrap_or_default()
    }

    fn try_start(&mut self) -> bool {
        let child = Command::new("epmd")
            .args(["-port", &self.port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Erlang must be installed for these tests (make test does it)");
        let child = self.child.insert(child);
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for EpmdServer {
    fn drop(&mut self) {
        self.stop();
    }
}
