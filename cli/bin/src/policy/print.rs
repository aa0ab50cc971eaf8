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

#[cfg(test)]
mod tests {
    use mesh_labels::LabelFilter;
    use mesh_policy::Options;
    use mesh_verdict::{BatchAnswer, answer_line};
    use serde_json::{Value, json};

    use super::*;
    use crate::output::samples;

    fn asked() -> (Vec<Flow>, BatchAnswer) {
        let flows = json!([{ "from": "web", "to": "bank", "port": 443 }, { "from": "bank", "to": "web", "icmpType": 8 }]);
        let line = json!({
            "policies": [{ "object": {
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "namespace": "shop", "name": "default-deny" }, "spec": { "podSelector": {} },
            } }],
            "endpoints": [
                { "kind": "pod", "namespace": "shop", "name": "web", "ips": ["10.1.0.1"] },
                { "kind": "external", "name": "bank", "ip": "203.0.113.7" },
            ],
            "flows": flows,
            "allPairs": { "ports": ["80/TCP", "icmp:8"] },
        });
        let answer =
            answer_line(&line.to_string(), Options::default(), &LabelFilter::new([]).unwrap());
        (serde_json::from_value(flows).unwrap(), answer)
    }

    #[test]
    fn verdicts_fit() {
        let (flows, answer) = asked();
        let answers = answer.flows.unwrap().unwrap();
        samples::fits(90, || verdicts(&flows, &answers));
        samples::fits(80, || steps(&[StepAnswer { step: 0, flows: answers.clone() }]));
        let pairs = answer.matrix.unwrap().unwrap();
        samples::fits(80, || matrix(&pairs, &["80/TCP".into(), "icmp:8".into()]));
        samples::fits(80, || refused(&[Problem::new("a", "b", "c")]));
    }

    #[test]
    fn what_changes_fits() {
        let names = ["a/shop/web-0", "a/shop/web-1", "a/shop/web-2", "a/shop/web-3"];
        let change = Change {
            now: "denied",
            from: names.map(str::to_owned).to_vec(),
            to: vec!["b/shop/db-0".into()],
            ports: vec!["443/TCP".into(), "other/UDP".into()],
            across: Some("a → b".into()),
            decided_by: "b: ingress default-deny NetworkPolicy shop/default-deny".into(),
        };
        let lint = Lint { changes: vec![change], findings: Vec::new() };
        samples::fits(80, || super::lint(&lint));
        assert_eq!(serde_json::to_value(&lint).unwrap()["findings"], Value::Array(Vec::new()));
    }
}
