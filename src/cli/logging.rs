//! The log: to stderr, one line per event, colours only on a terminal that wants
//! them. Results never go through here.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

/// Starts the log of this process. A second call changes nothing.
pub fn init_logging(level: LogLevel, format: LogFormat) {
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let _ = tracing::dispatcher::set_global_default(log_to(io::stderr, level, format, colours));
}

fn log_to<W>(writer: W, level: LogLevel, format: LogFormat, colours: bool) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(level)))
        .with_ansi(colours)
        // A closed stderr is no reason to stop, nor to complain on stderr.
        .log_internal_errors(false)
        .with_writer(writer);
    match format {
        LogFormat::Text => lines.finish().into(),
        LogFormat::Json => lines.json().flatten_event(true).finish().into(),
    }
}

/// Our own events from the level on; from the crates below us only warnings,
/// since their debug lines describe their insides.
fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "warn,redgrid=debug",
        LogLevel::Info => "warn,redgrid=info",
        LogLevel::Warning => "warn",
        LogLevel::Error => "error",
        LogLevel::Fatal => "off",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let dispatch = log_to(move || writer.clone(), level, format, false);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::debug!("one");
            tracing::info!(node = "a@b.c", "two");
            tracing::warn!("three");
            tracing::error!("four");
            tracing::info!(target: "redis", "five");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_level_lets_itself_and_everything_graver_through() {
        for (level, expected) in [
            (LogLevel::Debug, vec!["one", "two", "three", "four"]),
            (LogLevel::Info, vec!["two", "three", "four"]),
            (LogLevel::Warning, vec!["three", "four"]),
            (LogLevel::Error, vec!["four"]),
            (LogLevel::Fatal, vec![]),
        ] {
            let text = logged(level, LogFormat::Text);
            let found: Vec<&str> = ["one", "two", "three", "four", "five"]
                .into_iter()
                .filter(|word| text.contains(word))
                .collect();
            assert_eq!(found, expected, "{level:?}");
            assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text:?}");
        }
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_in_it() {
        let text = logged(LogLevel::Info, LogFormat::Json);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["node"], "a@b.c");
        assert_eq!(lines[0]["message"], "two");
        assert_eq!(lines[0]["level"], "INFO");
    }
}
