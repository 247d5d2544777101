//! The log of one test, to be asserted on.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use tracing::{Dispatch, subscriber::NoSubscriber};

/// As long as there is one subscriber only, `tracing` asks whichever thread comes by a place first whether anybody wants to
/// know of it, and remembers the answer: a test that collects nothing could silence the one that does. So there are two.
static ANOTHER: OnceLock<Dispatch> = OnceLock::new();

/// Collects what this thread logs from `warn` on; with the single-threaded runtime of a test that is all of it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects until the guard is dropped.
    pub(crate) fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        ANOTHER.get_or_init(|| Dispatch::new(NoSubscriber::default()));
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that contain `text`.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        let all = String::from_utf8_lossy(&bytes).into_owned();
        all.lines()
            .filter(|line| line.contains(text))
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
