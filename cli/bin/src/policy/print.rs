//! Verdicts for people.

use mesh_verdict::{Change, Flow, Lint, Matrix, Problem, Side, StepAnswer, Verdict};

use crate::output;

/// How many names a cell lists.
const NAMES: usize = 3;

pub(super) fn refused(problems: &[Problem]) -> anyhow::Result<()> {
    output::line("nothing was evaluated:")?;
    Ok(problems.iter().try_for_each(|problem| output::line(format!("  {problem}")))?)
}

pub(super) fn verdicts(flows: &[Flow], answers: &[Verdict]) -> anyhow::Result<()> {
    if answers.is_empty() {
        return Ok(());
    }
    let header = ["FROM", "TO", "PORT", "EGRESS", "INGRESS", "WHY"];
    let rows = flows.iter().zip(answers).map(|(flow, answer)| {
        let note = answer.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        vec![
            flow.from.clone(),
            flow.to.clone(),
            flow.port_text(),
            word(answer.egress).into(),
            word(answer.ingress).into(),
            format!("{}{note}", answer.why),
        ]
    });
    Ok(output::table(&header, rows)?)
}

pub(super) fn steps(steps: &[StepAnswer]) -> anyhow::Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let header = ["STEP", "FLOW", "EGRESS", "INGRESS", "WHY"];
    let rows = steps.iter().flat_map(|step| {
        step.flows.iter().enumerate().map(|(index, answer)| {
            vec![
                step.step.to_string(),
                index.to_string(),
                word(answer.egress).into(),
                word(answer.ingress).into(),
                answer.why.clone(),
            ]
        })
    });
    Ok(output::table(&header, rows)?)
}

/// A row a pair: a table of all pairs would be wider than a terminal.
pub(super) fn matrix(matrix: &Matrix, ports: &[String]) -> anyhow::Result<()> {
    output::line("A allowed, D denied, - not enforced; egress first, then ingress")?;
    let header: Vec<&str> =
        ["FROM", "TO"].into_iter().chain(ports.iter().map(String::as_str)).collect();
    let rows = matrix.iter().flat_map(|(from, row)| {
        row.iter().map(move |(to, letters)| {
            let ends = [from.clone(), to.clone()].into_iter();
            ends.chain(letters.iter().cloned()).collect()
        })
    });
    Ok(output::table(&header, rows)?)
}

pub(super) fn lint(lint: &Lint) -> anyhow::Result<()> {
    if lint.changes.is_empty() {
        output::line("no flow between these ends changes")?;
    } else {
        let header = ["NOW", "FROM", "TO", "PORTS", "DECIDED BY"];
        let rows = lint.changes.iter().map(|change| {
            let Change { now, from, to, ports, across, decided_by } = change;
            let across = across.as_ref().map(|across| format!(" [{across}]")).unwrap_or_default();
            vec![
                format!("{now}{across}"),
                some(from),
                some(to),
                ports.join(" "),
                decided_by.clone(),
            ]
        });
        output::table(&header, rows)?;
    }
    for finding in &lint.findings {
        output::line(format!("WARNING: {}: {}", finding.object, finding.reason))?;
    }
    Ok(())
}

fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(String::as_str).collect();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn word(side: Side) -> &'static str {
    match side {
        Side::Allowed => "allowed",
        Side::Denied => "DENIED",
        Side::NotEnforced => "not enforced",
    }
}
