//! `clustermesh quarantine`: peers that exceeded their budget.

use anyhow::bail;
use mesh_admin::v1::{LiftOutcome, LiftQuarantineRequest};
use serde_json::json;

use crate::{
    args::{QuarantineArgs, QuarantineCommand},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain},
    output::{self, Output},
};

/// The answer of an agent.
struct Answer {
    place: String,
    lifted: bool,
}

pub(crate) fn run(args: &QuarantineArgs, output: Output) -> anyhow::Result<Outcome> {
    let QuarantineCommand::Lift { peer, context } = &args.command;
    let mut contexts = contexts::find_or_all(context.as_deref())?;
    contexts.retain(|context| context.name != *peer);
    let asked = ask::ask(&contexts, Which::Every(None), async |socket| {
        let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let request = LiftQuarantineRequest { peer: peer.clone() };
        let answer = client.lift_quarantine(request).await.map_err(Unanswered::failed)?;
        Ok(answer.into_inner().outcome())
    })?;
    let mut answers = Vec::new();
    for answer in asked.answers {
        let place = format!("{}/{}", answer.context, answer.node);
        match answer.answer {
            LiftOutcome::Lifted => answers.push(Answer { place, lifted: true }),
            LiftOutcome::NotQuarantined => answers.push(Answer { place, lifted: false }),
            LiftOutcome::UnknownPeer | LiftOutcome::Unspecified => {}
        }
    }
    let outcome = complain(asked.warnings.clone());
    if answers.is_empty() {
        bail!("no agent that answers follows a cluster {peer}");
    }
    match output {
        Output::Text => print(peer, &answers)?,
        Output::Json => {
            let answers: Vec<_> = answers
                .iter()
                .map(|answer| json!({ "node": answer.place, "lifted": answer.lifted }))
                .collect();
            output::json(
                "QuarantineLift",
                json!({ "peer": peer, "agents": answers, "items": answers, "warnings": asked.warnings }),
            )?;
        }
    }
    Ok(outcome)
}

fn print(peer: &str, answers: &[Answer]) -> anyhow::Result<()> {
    let row = |answer: &Answer| {
        let what = if answer.lifted { "lifted" } else { "was not quarantined" };
        vec![answer.place.clone(), peer.to_owned(), what.to_owned()]
    };
    Ok(output::table(&["NODE", "PEER", "QUARANTINE"], answers.iter().map(row))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn answers_fit() {
        let answers = [true, false].map(|lifted| Answer { place: "a/n1".into(), lifted });
        samples::fits(80, || print("b", &answers));
    }
}
