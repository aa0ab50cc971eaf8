//! `clustermesh etcd`: the keys of the mesh in an etcd.

mod pod;
mod source;

use mesh_model::{ClusterId, ClusterLimit};
use mesh_offline::{
    Cluster, Difference, Dump, DumpEntry, EtcdContent, Objects, Scope, diff, settings_beside,
};
use serde_json::{Value, json};

use anyhow::{Context as _, bail};

use crate::{
    args::{DiffArgs, EtcdCommand, SetupArgs, WithArgs},
    export::setup,
    outcome::{Outcome, complain, warn},
    output::{self, Output},
};
use source::{Source, read};

pub(crate) fn run(command: &EtcdCommand, output: Output) -> anyhow::Result<Outcome> {
    match command {
        EtcdCommand::Dump { source, deviations } => {
            let held = read(&Source::new(source)?)?;
            held.notes.into_iter().for_each(warn);
            dump(&Dump::new(&held.holding), *deviations, output)
        }
        EtcdCommand::Keys(source) => {
            output::line(pod::text(&read(&Source::new(source)?)?)?)?;
            Ok(Outcome::Done)
        }
        EtcdCommand::Diff(args) => {
            let DiffArgs { source, with, options } = &**args;
            let held = read(&Source::new(source)?)?;
            let left = Dump::new(&held.holding);
            let Other { dump: right, scope, notes, problems } = other(with, options, &left)?;
            held.notes.into_iter().chain(notes).for_each(warn);
            let outcome = print_diff(&diff(&left, &right, scope), output)?;
            Ok(outcome.and(complain(problems)))
        }
    }
}

fn dump(dump: &Dump, only_deviations: bool, output: Output) -> anyhow::Result<Outcome> {
    let wanted = |entry: &&DumpEntry| !only_deviations || !entry.deviations.is_empty();
    let deviations = dump.all_deviations();
    match output {
        Output::Json => {
            let cluster = dump.cluster.as_ref();
            let cluster =
                cluster.map(|(name, id)| json!({ "name": name.as_str(), "id": id.get() }));
            let entry = |entry: &DumpEntry| {
                json!({
                    "key": entry.key, "what": entry.what,
                    "cluster": entry.cluster.as_ref().map(|name| name.as_str()),
                    "value": entry.value, "deviations": entry.deviations,
                })
            };
            let entries: Vec<Value> = dump.entries.iter().filter(wanted).map(entry).collect();
            let all: Vec<Value> = deviations
                .iter()
                .map(|deviation| json!({ "key": deviation.key, "reason": deviation.reason }))
                .collect();
            let fields = json!({ "cluster": cluster, "entries": entries, "items": entries, "deviations": all });
            output::json("EtcdDump", fields)?;
        }
        Output::Text => {
            for entry in dump.entries.iter().filter(wanted) {
                output::line(format!("{}  ({})", entry.key, entry.what))?;
                output::line(format!("  {}", entry.value))?;
                for deviation in &entry.deviations {
                    output::line(format!("  DEVIATION {deviation}"))?;
                }
            }
            for deviation in &dump.deviations {
                output::line(format!("DEVIATION {}: {}", deviation.key, deviation.reason))?;
            }
            let (keys, count) = (dump.entries.len(), dump.deviation_count());
            output::line(format!("{keys} keys, {count} deviations"))?;
        }
    }
    Ok(if deviations.is_empty() { Outcome::Done } else { Outcome::NotReady })
}

/// What the first source is compared with.
struct Other {
    dump: Dump,
    scope: Scope,
    /// Notes about it, for the user.
    notes: Vec<String>,
    /// Objects that could not be used.
    problems: Vec<String>,
}

fn other(with: &WithArgs, options: &SetupArgs, left: &Dump) -> anyhow::Result<Other> {
    let Some(path) = &with.objects else {
        let held = read(&Source::of_other(with)?)?;
        let dump = Dump::new(&held.holding);
        return Ok(Other { dump, scope: Scope::All, notes: held.notes, problems: Vec::new() });
    };
    let found = left.cluster.as_ref();
    let name = with.cluster.clone().or_else(|| found.map(|(name, _)| name.clone()));
    let Some(name) = name else {
        bail!("--cluster is missing: the objects do not name their cluster")
    };
    let limit = options.max_connected_clusters;
    let id = match with.id {
        Some(id) => ClusterId::new(id, limit.unwrap_or(ClusterLimit::Max511))?,
        None => found.map(|(_, id)| *id).context("--id is missing: the ID of the cluster")?,
    };
    let settings =
        options.over(settings_beside(path, &name, Some(id), limit, (id, ClusterLimit::default()))?);
    let objects = Objects::read(path)?;
    let cluster =
        Cluster::new(setup(&settings, options)?, objects.objects).with_drain(objects.drain);
    // Keys for the local nodes are compared if the etcd showed them.
    let has_local = left.entries.iter().any(|entry| entry.what.starts_with("local-"));
    let file = match has_local {
        true => cluster.all_keys_file(),
        false => cluster.keys_file(),
    };
    let notes = objects.notes.iter().map(ToString::to_string).chain(cluster.notes());
    let problems = objects.problems.iter().map(ToString::to_string).chain(cluster.problems());
    Ok(Other {
        dump: Dump::new(&EtcdContent::from(&file)),
        scope: Scope::Objects,
        notes: notes.collect(),
        problems: problems.collect(),
    })
}

fn print_diff(differences: &[Difference], output: Output) -> anyhow::Result<Outcome> {
    let change = |difference: &Difference| match (&difference.left, &difference.right) {
        (Some(_), Some(_)) => "differs",
        (Some(_), None) => "only-left",
        (None, _) => "only-right",
    };
    match output {
        Output::Json => {
            let difference = |d: &Difference| {
                json!({
                    "key": d.key, "what": d.what, "change": change(d), "left": d.left,
                    "right": d.right, "fields": d.fields,
                })
            };
            let all: Vec<Value> = differences.iter().map(difference).collect();
            output::json("EtcdDiff", json!({ "differences": all, "items": all }))?;
        }
        Output::Text => {
            for difference in differences {
                let fields: Vec<&str> = difference.fields.iter().map(String::as_str).collect();
                let fields = if fields.is_empty() {
                    String::new()
                } else {
                    format!(": {}", fields.join(", "))
                };
                output::line(format!("{} {}{fields}", change(difference), difference.key))?;
                for (side, value) in [("left ", &difference.left), ("right", &difference.right)] {
                    if let Some(value) = value {
                        output::line(format!("  {side} {value}"))?;
                    }
                }
            }
            output::line(format!("{} differences", differences.len()))?;
        }
    }
    Ok(if differences.is_empty() { Outcome::Done } else { Outcome::NotReady })
}
