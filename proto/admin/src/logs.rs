//! Logs: what a daemon says while it runs, on standard error.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher},
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    layer::{Context, SubscriberExt as _},
    util::{SubscriberInitExt as _, TryInitError},
};

/// The flags about logs.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// How log lines are written: text on a terminal and JSON elsewhere, unless given
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
}

/// How often the same warning is written.
const REPEAT: Duration = Duration::from_secs(60);
/// How many different warnings are remembered.
const REMEMBERED: usize = 1_024;

/// Begins to log. Called once, first.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&args.log_level)?;
    let terminal = std::io::stderr().is_terminal();
    let text = if terminal { LogFormat::Text } else { LogFormat::Json };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match args.log_format.unwrap_or(text) {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(true).boxed(),
    };
    let layer = layer.with_filter(filter);
    Ok(tracing_subscriber::registry().with(layer).with(OncePerMinute::default()).try_init()?)
}

/// Lets the same warning pass once a minute, and says how often it was held back.
#[derive(Default)]
struct OncePerMinute {
    repeats: Mutex<Repeats>,
}

/// The warnings of the last minute, by their content.
#[derive(Default)]
struct Repeats {
    seen: HashMap<u64, (Instant, u64)>,
}

impl<S: Subscriber> Layer<S> for OncePerMinute {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() != Level::WARN {
            return true;
        }
        let mut content = Content(DefaultHasher::new());
        event.metadata().callsite().hash(&mut content.0);
        event.record(&mut content);
        let hash = content.0.finish();
        let admitted =
            self.repeats.lock().unwrap_or_else(PoisonError::into_inner).admit(hash, Instant::now());
        if let Some(held_back) = admitted.filter(|held_back| *held_back > 0) {
            tracing::info!(
                held_back,
                "the next warning was held back so many times since it was written last"
            );
        }
        admitted.is_some()
    }
}

impl Repeats {
    /// `None` while the same was let pass less than a minute ago; otherwise how often it was held back since.
    fn admit(&mut self, content: u64, now: Instant) -> Option<u64> {
        if self.seen.len() >= REMEMBERED {
            self.seen.retain(|_, (since, _)| now.saturating_duration_since(*since) < REPEAT);
        }
        match self.seen.get_mut(&content) {
            Some((since, held_back)) if now.saturating_duration_since(*since) < REPEAT => {
                *held_back += 1;
                None
            }
            Some(known) => Some(std::mem::replace(known, (now, 0)).1),
            None => {
                self.seen.insert(content, (now, 0));
                Some(0)
            }
        }
    }
}

/// Hashes an event's fields.
struct Content(DefaultHasher);

impl Visit for Content {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        field.name().hash(&mut self.0);
        format!("{value:?}").hash(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_warning_once_a_minute() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        assert_eq!(repeats.admit(1, start), Some(0));
        assert_eq!(repeats.admit(2, start), Some(0));
        assert_eq!(repeats.admit(1, start + REPEAT / 2), None);
        assert_eq!(repeats.admit(1, start + REPEAT / 2), None);
        assert_eq!(repeats.admit(1, start + REPEAT), Some(2));
        assert_eq!(repeats.admit(1, start + REPEAT), None);
    }
}
