//! Logs: what a daemon writes to standard error while it runs.

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

/// Writes lines without the numbers of the kernel's errors. A line comes in one piece.
struct Plain<W>(W);

/// The flags about logs.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// How log lines are written: by default text on a terminal and JSON elsewhere
    #[arg(long, value_enum, env = "CLUSTERMESH_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written, as in `info` or `info,mesh_follow=debug`
    #[arg(long, default_value = "info", env = "CLUSTERMESH_LOG_LEVEL")]
    pub log_level: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("--log-level: {0}")]
    Level(#[from] ParseError),
    /// It began already.
    #[error(transparent)]
    Again(#[from] TryInitError),
    /// There is no thread for the counts of repeated warnings.
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

/// Begins to log to standard error. Called once, first.
///
/// A warning is written once a minute for each peer and kind: for the place in the code that it comes from and its fields
/// `peer`, `cluster` and `kind`. After that minute one more line reports how many were held back, with one of them as the
/// example. A peer that can be wrong in a million ways fills no disk, and costs no more than counting.
///
/// # Errors
/// When the level cannot be parsed, or logging began already.
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

    /// What was logged.
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
    fn what_is_not_written_costs_nothing() {
        let limit = OncePerMinute::default();
        let subscriber = subscriber("info", LogFormat::Text, false, limit, io::sink).unwrap();
        // The call sites of other levels are switched off, libraries' on the path of each change among them.
        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::INFO));
    }

    #[test]
    fn lines_have_no_numbers_of_errors() {
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
    fn a_flood_is_one_line_and_its_count() {
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
