//! Logs, which a daemon writes to standard error.

use std::{io, io::IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::words::plain;
use limit::{Limited, OncePerMinute};

mod limit;

/// Removes the kernel's error numbers from log lines. It relies on receiving each line in one call of `write`.
struct Plain<W>(W);

/// The flags about logs.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// The format of log lines; by default text on a terminal and JSON elsewhere
    #[arg(long, value_enum, env = "CLUSTERMESH_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// The level of log lines to write, for example `info` or `info,mesh_follow=debug`
    #[arg(long, default_value = "info", env = "CLUSTERMESH_LOG_LEVEL")]
    pub log_level: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `--log-level` cannot be parsed.
    #[error("--log-level: {0}")]
    Level(#[from] ParseError),
    /// It was started already.
    #[error(transparent)]
    Again(#[from] TryInitError),
    /// The thread that reports repeated warnings cannot be started.
    #[error("the thread that reports repeated warnings: {0}")]
    Thread(io::Error),
}

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for Plain<W> {
    type Writer = Plain<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        Plain(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for Plain<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match str::from_utf8(line) {
            Ok(text) => self.0.write_all(plain(text).as_bytes()).map(|()| line.len()),
            Err(_) => self.0.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging to standard error. Call it once, before anything else.
///
/// Each kind of warning is written once a minute. Warnings are of one kind if they come from the same line of code and have
/// the same fields `peer`, `cluster` and `kind`. After that minute, one more line reports how many were suppressed, with the
/// first of them as an example. So a peer that sends a million bad records cannot fill the disk.
///
/// # Errors
/// If the level cannot be parsed, logging was started already, or there is no thread for the reports.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    let terminal = io::stderr().is_terminal();
    let format =
        args.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let limit = OncePerMinute::default();
    subscriber(&args.log_level, format, terminal, limit.clone(), io::stderr)?.try_init()?;
    limit.report_in_a_thread().map_err(LogError::Thread)
}

fn subscriber<W>(
    level: &str,
    format: LogFormat,
    colours: bool,
    limit: OncePerMinute,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, ParseError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(Plain(writer)).with_ansi(colours);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(true).boxed(),
    };
    let layer = Limited::new(layer, limit).with_filter(EnvFilter::try_new(level)?);
    Ok(tracing_subscriber::registry().with(layer))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::level_filters::LevelFilter;

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_lines_below_the_level_are_disabled_at_their_call_sites() {
        let limit = OncePerMinute::default();
        let subscriber = subscriber("info", LogFormat::Text, false, limit, io::sink).unwrap();
        // This hint disables the call sites of lower levels, also those of libraries.
        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::INFO));
    }

    #[test]
    fn log_lines_have_no_kernel_error_numbers() {
        let (log, limit) = (Log::default(), OncePerMinute::default());
        let writer = {
            let log = log.clone();
            move || log.clone()
        };
        let subscriber = subscriber("info", LogFormat::Json, false, limit, writer).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let error = io::Error::from_raw_os_error(13);
            tracing::warn!(%error, "the folder cannot be read");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains(r#""error":"Permission denied""#), "{text}");
    }

    #[test]
    fn repeated_warnings_are_one_line_and_a_count() {
        let (log, limit) = (Log::default(), OncePerMinute::default());
        let writer = {
            let log = log.clone();
            move || log.clone()
        };
        let subscriber = subscriber("info", LogFormat::Text, false, limit.clone(), writer).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..100_000 {
                let peer = if n % 10 == 0 { "c" } else { "b" };
                tracing::warn!(peer, error = format!("10.1.{n} is ours"), "a record is rejected");
            }
            tracing::info!("something else");
            limit.report(std::time::Instant::now() + limit::REPEAT);
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[0].contains("peer=\"c\"") && lines[1].contains("peer=\"b\""), "{text}");
        assert!(lines[2].contains("something else"), "{text}");
        assert!(lines[3].contains("held_back=9999") && lines[3].contains("10.1.10 is"), "{text}");
        assert!(lines[4].contains("held_back=89999") && lines[4].contains("10.1.2 is"), "{text}");
    }
}
