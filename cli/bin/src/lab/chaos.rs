//! `lab chaos`.

use std::env;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use mesh_admin::plain;
use mesh_chaos::run::{self, Options};
use serde_json::json;

use crate::{
    outcome::Outcome,
    output::{self, Output},
};

pub(super) fn run(options: &Options, output: Output) -> anyhow::Result<Outcome> {
    let length = options.faults.try_into().unwrap_or(u64::MAX);
    let progress = ProgressBar::new(length);
    progress.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed} {msg}")?);
    progress.set_message("starting a lab");
    let mut last = 0;
    let outcome = run::run(options, &env::current_exe()?, |number, fault| {
        last = number;
        progress.set_position(number.saturating_sub(1).try_into().unwrap_or(length));
        progress.set_message(fault.to_string());
    })?;
    progress.finish_and_clear();
    let seed = options.seed;
    let survived = outcome.survived.len();
    let answered: u64 = outcome.survived.iter().map(|survived| survived.answered).sum();
    let failed = outcome.failed.map(|failed| plain(&failed.to_string()).into_owned());
    let replicas = options.replicas;
    let again =
        format!("clustermesh lab chaos --seed {seed} --faults {last} --replicas {replicas}");
    match output {
        Output::Text if failed.is_none() => output::line(format!(
            "{survived} faults of seed {seed} made no difference: {answered} requests, none failed"
        ))?,
        Output::Text => {}
        Output::Json => {
            let value = json!({
                "seed": seed, "survived": outcome.survived, "answered": answered, "failed": failed,
                "again": failed.as_ref().map(|_| &again),
            });
            output::json("LabChaos", value)?;
        }
    }
    match failed {
        None => Ok(Outcome::Done),
        Some(failed) => {
            bail!(
                "{failed}\nafter {survived} faults that did no harm. To run it again: {again} --keep"
            )
        }
    }
}
