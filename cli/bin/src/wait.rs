//! Waits for a condition, and shows meanwhile what is missing.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::time::sleep;

use crate::outcome::{Outcome, note, warn};

/// The interval of checks.
const LOOK: Duration = Duration::from_millis(100);
/// The shortest time before the first line of progress, and between two lines, without a terminal.
const LINE: Duration = Duration::from_secs(1);

/// Shows progress on standard error: on a terminal in one line that changes, elsewhere in a line for each change, at most
/// one a second. The first second is not shown.
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

/// The last line of progress, and its time.
#[derive(Debug)]
struct Lines {
    last: String,
    since: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let lines = (!io::stderr().is_terminal()).then(|| Lines::new(Instant::now()));
        Self { bar: ProgressBar::new_spinner(), lines }
    }

    pub(crate) fn show(&mut self, what: &str) {
        match &mut self.lines {
            Some(lines) => {
                if lines.is_due(what, Instant::now()) {
                    note(what);
                }
            }
            None => {
                self.bar.set_message(what.to_owned());
                self.bar.tick();
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Lines {
    fn new(since: Instant) -> Self {
        Self { last: String::new(), since }
    }

    fn is_due(&mut self, what: &str, now: Instant) -> bool {
        let is_due = self.last != what && now.saturating_duration_since(self.since) >= LINE;
        if is_due {
            *self = Self { last: what.to_owned(), since: now };
        }
        is_due
    }
}

/// Waits until nothing is missing. What is missing is shown while it waits, and as a warning if the time is over or at ^C.
///
/// # Errors
/// As those of `missing`.
pub(crate) fn until(
    limit: Duration,
    mut missing: impl FnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _entered = runtime.enter();
        mesh_admin::stop_signal()?
    };
    let mut stop = pin!(stop);
    let deadline = Instant::now() + limit;
    let mut progress = Progress::new();
    loop {
        let Some(what) = missing()? else { return Ok(Outcome::Done) };
        if Instant::now() >= deadline {
            drop(progress);
            warn(format!("still waiting after {limit:?}: {what}"));
            return Ok(Outcome::Timeout);
        }
        progress.show(&format!("waiting: {what}"));
        let stopped = runtime.block_on(async {
            tokio::select! {
                () = sleep(LOOK) => false,
                () = &mut stop => true,
            }
        });
        if stopped {
            drop(progress);
            warn(format!("stopped while waiting: {what}"));
            return Ok(Outcome::Timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_change_is_a_line_but_not_more_than_one_a_second() {
        let began = Instant::now();
        let mut lines = Lines::new(began);
        for (millis, what, is_due) in [
            (0, "a/n1: b", false),
            (1_000, "a/n1: b", true),
            (1_100, "a/n1: b", false),
            (1_200, "a/n2: b", false),
            (2_000, "a/n2: b", true),
            (5_000, "a/n2: b", false),
            (5_100, "b/n1: a", true),
        ] {
            let now = began + Duration::from_millis(millis);
            assert_eq!(lines.is_due(what, now), is_due, "{millis}: {what}");
        }
    }

    #[test]
    fn what_is_there_is_not_waited_for_and_what_does_not_come_is_a_timeout() {
        let none = until(Duration::ZERO, || Ok(None)).unwrap();
        assert_eq!(none, Outcome::Done);
        let mut looks = 0;
        let second = until(Duration::from_secs(60), || {
            looks += 1;
            Ok((looks < 2).then(|| "it".to_owned()))
        });
        assert_eq!(second.unwrap(), Outcome::Done);
        let never = until(Duration::ZERO, || Ok(Some("it".into()))).unwrap();
        assert_eq!(never, Outcome::Timeout);
        assert!(until(Duration::ZERO, || anyhow::bail!("broken")).is_err());
    }
}
