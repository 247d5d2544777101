//! Real servers as values, and waiting for what becomes true.

pub(crate) mod beam;
pub(crate) mod certs;
pub(crate) mod epmd;
pub(crate) mod host;
pub(crate) mod log;
pub(crate) mod program;
pub(crate) mod redis;
pub(crate) mod toy;

use std::time::{Duration, Instant};

/// What is promised at once has this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Waits until `look` gives something; fails with `what` when it never does.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
