//! `lab cut` and `lab heal`.

use anyhow::bail;
use mesh_lab::{Cut, Impairment, Lab};
use serde_json::json;

use super::print_result;
use crate::{
    outcome::Outcome,
    output::{self, Output},
};

pub(super) fn cut(
    lab: &str,
    places: [&str; 2],
    port: Option<u16>,
    impairment: Option<Impairment>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let mut lab = Lab::open(lab)?;
    let cut = lab.cut(places, port, impairment)?;
    print_result(
        output,
        "LabCut",
        &format!("cut {cut}"),
        json!({ "cut": cut, "cuts": lab.state().cuts }),
    )
}

pub(super) fn heal(lab: &str, places: &[String], output: Output) -> anyhow::Result<Outcome> {
    let places = match places {
        [] => None,
        [one, other] => Some([one.as_str(), other.as_str()]),
        _ => bail!("name two locations, or none for all"),
    };
    let mut lab = Lab::open(lab)?;
    let healed = lab.heal(places)?;
    let text = match healed.as_slice() {
        [] => "nothing was cut".to_owned(),
        healed => {
            let healed = healed.iter().map(ToString::to_string);
            format!("healed {}", healed.collect::<Vec<_>>().join("; "))
        }
    };
    print_result(output, "LabHeal", &text, json!({ "healed": healed, "cuts": lab.state().cuts }))
}

/// Prints the active cuts, for `lab status`.
pub(super) fn print(cuts: &[Cut]) -> anyhow::Result<()> {
    if cuts.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let rows = cuts.iter().map(|cut| {
        let [one, other] = cut.places.clone();
        let port = cut.port.map(|port| port.to_string()).unwrap_or_default();
        let impairment =
            cut.impairment.as_ref().map_or_else(|| "nothing".into(), Impairment::to_string);
        vec![one, other, port, impairment]
    });
    Ok(output::table(&["CUT FROM", "AND", "PORT", "PASSES"], rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn cuts_fit() {
        let cuts: Vec<Cut> = serde_json::from_value(json!([
            { "places": ["a/n1", "b/etcd"], "port": 2379 },
            { "places": ["a", "b"] },
        ]))
        .unwrap();
        samples::fits(80, || print(&cuts));
    }
}
