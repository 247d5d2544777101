//! What the demonstration runs beside the nodes: a Redis of its own, an epmd of its own, the Erlang library compiled.

use anyhow::{Context, bail};
use include_dir::{Dir, include_dir};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// The Erlang library, carried inside the binary so that the demonstration works wherever it is.
static LIBRARY: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rebar_fixture/src");

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a server, and ends it when its own input is closed: so it ends with us even when we are killed.
const WATCHED: &str = r#"exec 3<&0
"$0" "$@" 3<&- </dev/null &
server=$!
{ read -r _ <&3; kill "$server" 2>/dev/null; } &
wait "$server""#;

/// A server on a port of its own, which ends with us.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
}

impl Server {
    /// A redis-server that keeps nothing.
    pub(super) async fn redis(dir: &Path) -> anyhow::Result<Self> {
        Self::start("redis-server", "redis-server", |command, port| {
            command
                .args(["--port", port, "--bind", "127.0.0.1", "--save", ""])
                .args(["--appendonly", "no", "--daemonize", "no"])
                .args(["--logfile", "redis.log"])
                .current_dir(dir);
        })
        .await
    }

    /// An epmd.
    pub(super) async fn epmd() -> anyhow::Result<Self> {
        Self::start("epmd", "erlang-base", |command, port| {
            command.args(["-port", port, "-address", "127.0.0.1"]);
        })
        .await
    }

    async fn start(
        program: &str,
        package: &str,
        arguments: impl Fn(&mut Command, &str),
    ) -> anyhow::Result<Self> {
        // Between the look for a free port and the start somebody else may take it.
        installed(program, package)?;
        for _ in 0..5 {
            let port = free_port()?;
            let mut command = Command::new("sh");
            command.args(["-c", WATCHED, program]);
            arguments(&mut command, &port.to_string());
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C is for us: we end them in their order.
                .process_group(0)
                .spawn()
                .context("cannot start `sh`")?;
            if listens(port, &mut child).await {
                return Ok(Self { child, port });
            }
        }
        bail!("`{program}` was started five times and never listened on its port")
    }

    pub(super) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            eprintln!("what listens on port {} does not end", self.port);
        }
    }
}

/// Whether a program is there to be started; the shell that starts it could only say so to nobody.
fn installed(program: &str, package: &str) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Ok(());
    }
    bail!("cannot start `{program}`: install it (Debian: {package})")
}

/// A port that nobody listens on at this moment.
fn free_port() -> anyhow::Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on the loopback")?;
    Ok(listener.local_addr()?.port())
}

async fn listens(port: u16, child: &mut Child) -> bool {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        if TcpStream::connect(at).await.is_ok() {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Compiles the Erlang library and returns where it is.
pub(super) async fn compile_library(dir: &Path) -> anyhow::Result<PathBuf> {
    let (source, ebin) = (dir.join("src"), dir.join("ebin"));
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&ebin)?;
    let mut modules = Vec::new();
    for file in LIBRARY.files() {
        let name = file.path().display().to_string();
        match name.strip_suffix(".app.src") {
            Some(app) => fs::write(ebin.join(format!("{app}.app")), file.contents())?,
            None => {
                let path = source.join(&name);
                fs::write(&path, file.contents())?;
                modules.push(path);
            }
        }
    }
    let output = Command::new("erlc")
        .arg("-o")
        .arg(&ebin)
        .args(modules)
        .output()
        .await
        .context("cannot start `erlc`: install Erlang (Debian: erlang-base, erlang-dev)")?;
    if !output.status.success() {
        bail!(
            "the Erlang library does not compile:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(ebin)
}
