//! The flags about waiting.

use std::time::Duration;

use clap::Args as ClapArgs;
use mesh_admin::duration::of_flag;

/// The limit of `--wait` as earlier releases took it, when `--wait` had no value.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
pub(crate) struct WaitDuration {
    /// The same as --wait=DURATION; until the next minor release
    #[arg(long, value_name = "DURATION", value_parser = of_flag, requires = "wait", hide = true)]
    wait_duration: Option<Duration>,
}

impl WaitDuration {
    /// The longest time to wait; `None` without `--wait`.
    pub(crate) fn limit(self, wait: Option<Duration>) -> Option<Duration> {
        wait.map(|wait| self.wait_duration.unwrap_or(wait))
    }
}
