//! A real `redis-server` as a value: a free port, a directory of its own, killed and reaped when dropped.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running server, or one that was stopped and can be started again on its port.
pub(crate) struct Redis {
    child: Option<Child>,
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl Redis {
    /// An empty server without persistence.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments, for example `--requirepass`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut redis = Self::stopped();
        redis.arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        redis.start_somewhere()
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_in(environment: &[(&'static str, String)]) -> Self {
        let mut redis = Self::stopped();
        redis.environment = environment.to_vec();
        redis.start_somewhere()
    }

    fn start_somewhere(mut self) -> Self {
        // Between finding a free port and taking it someone else may have.
        for _ in 0..5 {
            if self.try_start() {
                return self;
            }
            self.port = free_port();
        }
        panic!("redis-server did not start: {}", self.log());
    }

    /// A server that does not run yet.
    pub(crate) fn stopped() -> Self {
        Self {
            child: None,
            directory: tempfile::tempdir().expect("a temporary directory"),
            port: free_port(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Starts it again, empty.
    pub(crate) fn restart(&mut self) {
        assert!(
            self.try_start(),
            "redis-server did not start again: {}",
            self.log()
        );
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops and continues the process, as a machine that hangs would.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self
            .child
            .as_ref()
            .expect("a running server")
            .id()
            .to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "kill {signal} {pid}"
        );
    }

    /// Its URL without a password.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Its URL with a user and a password.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}/", self.port)
    }

    /// A connection for the test itself.
    pub(crate) async fn connection(&self) -> ::redis::aio::MultiplexedConnection {
        let client = ::redis::Client::open(self.url()).expect("a URL");
        client
            .get_multiplexed_async_connection()
            .await
            .expect("a connection to the test's Redis")
    }

    /// Runs one command, given as words.
    pub(crate) async fn cmd<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = ::redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command
            .query_async(&mut self.connection().await)
            .await
            .expect("an answer of the test's Redis")
    }

    fn try_start(&mut self) -> bool {
        self.stop();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(["--logfile", "redis.log"])
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for these tests (make test does it)");
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

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}
