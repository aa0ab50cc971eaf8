//! Peers that are over their budget.

use anyhow::{Context as _, bail};
use mesh_admin::v1::{LiftOutcome, LiftQuarantineRequest};
use serde_json::json;

use crate::{
    args::{QuarantineArgs, QuarantineCommand},
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

/// What an agent answered.
struct Answer {
    place: String,
    lifted: bool,
}

pub(crate) fn run(args: &QuarantineArgs, output: Output) -> anyhow::Result<Outcome> {
    let QuarantineCommand::Lift { peer, context } = &args.command;
    let contexts = contexts::find_or_all(context.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut answers = Vec::new();
    for context in contexts.iter().filter(|context| context.name != *peer) {
        for agent in &context.agents {
            let place = format!("{}/{}", context.name, agent.node);
            let outcome = runtime.block_on(async {
                let mut client = mesh_admin::connect(&agent.socket).await?;
                let request = LiftQuarantineRequest { peer: peer.clone() };
                let answer = client.lift_quarantine(request).await;
                answer
                    .map(|answer| answer.into_inner().outcome())
                    .map_err(|status| anyhow::anyhow!("{}", status.message()))
            });
            match outcome.with_context(|| place.clone())? {
                LiftOutcome::Lifted => answers.push(Answer { place, lifted: true }),
                LiftOutcome::NotQuarantined => answers.push(Answer { place, lifted: false }),
                LiftOutcome::UnknownPeer | LiftOutcome::Unspecified => {}
            }
        }
    }
    if answers.is_empty() {
        bail!("no agent follows a cluster {peer}");
    }
    match output {
        Output::Text => {
            let row = |answer: &Answer| {
                let what = if answer.lifted { "lifted" } else { "was not quarantined" };
                vec![answer.place.clone(), peer.clone(), what.to_owned()]
            };
            output::table(&["NODE", "PEER", "QUARANTINE"], answers.iter().map(row))?;
        }
        Output::Json => {
            let answers: Vec<_> = answers
                .iter()
                .map(|answer| json!({ "node": answer.place, "lifted": answer.lifted }))
                .collect();
            output::json("QuarantineLift", json!({ "peer": peer, "agents": answers }))?;
        }
    }
    Ok(Outcome::Done)
}
