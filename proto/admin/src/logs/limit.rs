//! Limits each kind of warning to one line a minute, and reports how many were suppressed.
//!
//! One thread, [`OncePerMinute::report_in_a_thread`], writes the counts. It waits while there is nothing to report, and ends
//! with the process.

use std::{
    collections::{HashMap, VecDeque},
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{
    Event, Id, Level,
    field::{Field, Visit},
    span::{Attributes, Record},
};
use tracing_subscriber::{Layer, Registry, layer::Context};

/// The minimum time between two lines of the same kind of warning.
pub(super) const REPEAT: Duration = Duration::from_secs(60);
/// How many kinds are remembered at a time. Beyond that the oldest is forgotten, so it may be written again too early.
const REMEMBERED: usize = 1_024;
/// The maximum length of an example, in bytes.
const EXAMPLE: usize = 512;
/// In place of the rest of an event that has no room.
const MORE: char = '…';
/// Where counts come from: these lines are never held back.
const TARGET: &str = "mesh_admin::logs::held_back";
/// The fields that distinguish kinds. Never put values of a peer's records into them: the peer could then flood the log.
const KIND: [&str; 3] = ["peer", "cluster", "kind"];

/// A layer that passes log lines on, except suppressed warnings.
///
/// It is not a filter: with a filter that decides by an event's fields (`Filter::event_enabled`), the verdict also affects
/// the next event of the thread (tracing-subscriber 0.3.23).
pub(super) struct Limited {
    lines: Box<dyn Layer<Registry> + Send + Sync>,
    limit: OncePerMinute,
}

/// Decides which warnings are suppressed. Clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct OncePerMinute {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    repeats: Mutex<Repeats>,
    /// Notified when `order` is no longer empty.
    began: Condvar,
}

/// The warnings of the last minute by kind. Operations take constant time on average, and memory is bounded.
#[derive(Debug, Default)]
struct Repeats {
    windows: HashMap<u64, Window>,
    /// The start and the kind of each window, the oldest first.
    order: VecDeque<(Instant, u64)>,
    /// Windows that ended and suppressed something.
    ended: VecDeque<Window>,
    /// How many windows were ended, for a test.
    #[cfg(test)]
    visited: u64,
}

/// The minute after a warning was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    /// How many warnings were suppressed.
    held_back: u64,
    /// The first suppressed warning.
    example: String,
}

/// Computes the hash of a warning's kind from its fields.
struct KindOf(DefaultHasher);

/// An event's fields as text, up to [`EXAMPLE`] bytes.
struct Example(String);

// === impl OncePerMinute ===

impl OncePerMinute {
    /// Starts the thread that reports counts.
    pub(super) fn report_in_a_thread(&self) -> io::Result<()> {
        let limit = self.clone();
        thread::Builder::new().name("log-counts".into()).spawn(move || limit.run()).map(drop)
    }

    /// Writes the counts of the windows that ended by now.
    pub(super) fn report(&self, now: Instant) {
        // The lock is not held while a line is written.
        let ended = self.lock().take_ended(now);
        for Window { held_back, example } in ended {
            tracing::warn!(
                target: TARGET,
                held_back,
                example,
                "warnings like this were held back within a minute"
            );
        }
    }

    /// Whether an event is written. Only warnings are ever suppressed.
    fn admit(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() != Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let mut kind = KindOf(DefaultHasher::new());
        metadata.callsite().hash(&mut kind.0);
        event.record(&mut kind);
        let mut repeats = self.lock();
        let idle = repeats.order.is_empty();
        let admitted = repeats.admit(kind.0.finish(), Instant::now(), || Example::of(event));
        drop(repeats);
        if idle {
            self.shared.began.notify_one();
        }
        admitted
    }

    fn run(&self) {
        loop {
            let mut repeats = self.lock();
            let now = Instant::now();
            match repeats.next_end() {
                Some(end) if end <= now => {
                    drop(repeats);
                    self.report(now);
                }
                Some(end) => {
                    drop(repeats);
                    thread::sleep(end - now);
                }
                None => {
                    while repeats.next_end().is_none() {
                        let waited = self.shared.began.wait(repeats);
                        repeats = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Repeats> {
        self.shared.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Limited ===

impl Limited {
    pub(super) fn new(lines: Box<dyn Layer<Registry> + Send + Sync>, limit: OncePerMinute) -> Self {
        Self { lines, limit }
    }
}

impl Layer<Registry> for Limited {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, Registry>) {
        if self.limit.admit(event) {
            self.lines.on_event(event, context);
        }
    }

    fn on_layer(&mut self, registry: &mut Registry) {
        self.lines.on_layer(registry);
    }

    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, context: Context<'_, Registry>) {
        self.lines.on_new_span(span, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, Registry>) {
        self.lines.on_record(id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, Registry>) {
        self.lines.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, Registry>) {
        self.lines.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, Registry>) {
        self.lines.on_close(id, context);
    }
}

// === impl Repeats ===

impl Repeats {
    /// Whether a warning is written: the first of its kind within a minute.
    fn admit(&mut self, kind: u64, now: Instant, example: impl FnOnce() -> String) -> bool {
        self.end(now);
        if let Some(window) = self.windows.get_mut(&kind) {
            if window.held_back == 0 {
                window.example = example();
            }
            window.held_back += 1;
            return false;
        }
        if self.windows.len() >= REMEMBERED {
            self.end_oldest();
        }
        self.windows.insert(kind, Window::default());
        self.order.push_back((now, kind));
        true
    }

    /// The end of the oldest window.
    fn next_end(&self) -> Option<Instant> {
        let (since, _) = self.order.front()?;
        Some(*since + REPEAT)
    }

    fn take_ended(&mut self, now: Instant) -> VecDeque<Window> {
        self.end(now);
        std::mem::take(&mut self.ended)
    }

    /// Ends the windows whose minute is over. Each is ended once, so a warning ends at most one on average.
    fn end(&mut self, now: Instant) {
        while self.next_end().is_some_and(|end| end <= now) {
            self.end_oldest();
        }
    }

    fn end_oldest(&mut self) {
        #[cfg(test)]
        {
            self.visited += 1;
        }
        let Some((_, kind)) = self.order.pop_front() else { return };
        if let Some(window) = self.windows.remove(&kind).filter(|window| window.held_back > 0) {
            if self.ended.len() >= REMEMBERED {
                self.ended.pop_front();
            }
            self.ended.push_back(window);
        }
    }
}

// === impl KindOf ===

impl Visit for KindOf {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if KIND.contains(&field.name()) {
            field.name().hash(&mut self.0);
            format!("{value:?}").hash(&mut self.0);
        }
    }
}

// === impl Example ===

impl Example {
    fn of(event: &Event<'_>) -> String {
        let mut example = Self(String::new());
        event.record(&mut example);
        example.0
    }
}

impl Visit for Example {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self, "{separator}{value:?}"),
            name => write!(self, "{separator}{name}={value:?}"),
        };
    }
}

impl fmt::Write for Example {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = EXAMPLE.saturating_sub(self.0.len());
        let end = text.floor_char_boundary(room.min(text.len()));
        self.0.push_str(text.get(..end).unwrap_or_default());
        if end == text.len() {
            return Ok(());
        }
        if !self.0.ends_with(MORE) {
            self.0.push(MORE);
        }
        // An error ends the formatting of what has no room.
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> impl FnOnce() -> String {
        move || text.to_owned()
    }

    #[test]
    fn once_a_minute_with_the_count_and_one_example() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        assert!(repeats.admit(1, start, text("one")));
        assert!(repeats.admit(2, start, text("other")));
        assert!(!repeats.admit(1, start + REPEAT / 2, text("two")));
        assert!(!repeats.admit(1, start + REPEAT / 2, text("three")));
        assert_eq!(repeats.next_end(), Some(start + REPEAT));
        assert_eq!(repeats.take_ended(start + REPEAT / 2), []);
        assert!(repeats.admit(1, start + REPEAT, text("four")), "the next minute");
        assert!(!repeats.admit(1, start + REPEAT, text("five")));
        let two = Window { held_back: 2, example: "two".into() };
        assert_eq!(repeats.take_ended(start + REPEAT), [two], "the other kind was not repeated");
        let five = Window { held_back: 1, example: "five".into() };
        assert_eq!(repeats.take_ended(start + 2 * REPEAT), [five]);
        assert_eq!(repeats.next_end(), None);
    }

    #[test]
    fn a_warning_takes_constant_time_and_bounded_memory() {
        const WARNINGS: u64 = 100_000;
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        // All kinds differ, and each occurs twice.
        for n in 0..WARNINGS {
            let now = start + Duration::from_millis(n / 10);
            assert!(repeats.admit(n, now, text("first")));
            assert!(!repeats.admit(n, now, text("again")));
            assert!(repeats.windows.len() <= REMEMBERED && repeats.order.len() <= REMEMBERED);
            assert!(repeats.ended.len() <= REMEMBERED);
        }
        assert!(repeats.visited <= WARNINGS, "{} windows looked at", repeats.visited);
        let left = repeats.take_ended(start + 2 * REPEAT);
        assert_eq!(left.len(), REMEMBERED);
        assert_eq!(repeats.visited, WARNINGS);
    }

    #[test]
    fn an_example_is_short() {
        let mut example = Example(String::new());
        let _ = write!(example, "{}", "ü".repeat(EXAMPLE / 2));
        let whole = "ü".repeat(EXAMPLE / 2);
        assert_eq!(example.0, whole, "the text ends where its room does");
        for _ in 0..2 {
            assert!(write!(example, "x").is_err());
            assert_eq!(example.0, format!("{whole}…"));
        }
    }
}
