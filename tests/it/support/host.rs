//! A host of its own for one test: a HOME with a cookie, an epmd, a Redis, and programs that know of nothing else.

use super::beam::{Beam, COOKIE};
use super::epmd::EpmdServer;
use super::program::{Ended, Program};
use super::redis::Redis;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The host.
pub(crate) struct Host {
    /// Its Redis, without password.
    pub(crate) redis: Redis,
    /// Its epmd.
    pub(crate) epmd: EpmdServer,
    home: TempDir,
}

impl Host {
    /// Starts epmd and Redis.
    pub(crate) fn start() -> Self {
        Self::with_redis(Redis::start())
    }

    /// The same with a Redis that was made already.
    pub(crate) fn with_redis(redis: Redis) -> Self {
        Self::with(redis, EpmdServer::start())
    }

    /// One on which no epmd runs.
    pub(crate) fn without_epmd() -> Self {
        Self::with(Redis::start(), EpmdServer::absent())
    }

    fn with(redis: Redis, epmd: EpmdServer) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        secret_file(&home.path().join(".erlang.cookie"), COOKIE, 0o400);
        Self { redis, epmd, home }
    }

    /// A file of this test.
    pub(crate) fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.home.path().join(name);
        secret_file(&path, text, mode);
        path.display().to_string()
    }

    /// HOME.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A program in this host's environment and no other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("ERL_EPMD_PORT", self.epmd.port().to_string())
            .env("REDIS_URL", self.redis.url())
            .current_dir(self.home());
        command
    }

    /// `redgrid` with these arguments, not started yet.
    pub(crate) fn redgrid(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_redgrid"));
        command.args(arguments);
        command
    }

    /// Runs `redgrid` to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        Program::start(&mut self.redgrid(arguments)).ended().await
    }

    /// Runs `redgrid node` of this name; it is in the mesh when this returns.
    pub(crate) async fn node(&self, name: &str, arguments: &[&str]) -> Program {
        let mut command = self.redgrid(&["node", "--name", name]);
        let node = Program::start(command.args(arguments));
        node.log_line("the node is up").await;
        node
    }

    /// A real `erl` of this short name, with the cookie of this host.
    pub(crate) async fn beam(&self, name: &str) -> Beam {
        Beam::start(&self.epmd, name).await
    }
}

/// Writes a file with this mode.
fn secret_file(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("a file in a temporary directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}
