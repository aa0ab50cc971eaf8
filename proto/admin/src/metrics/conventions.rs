//! Checks for the tests of daemons: their metrics follow Prometheus' format and conventions, and agree with the tables of
//! `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

/// Units that are not base units.
const OTHER_UNITS: [&str; 8] = [
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "kilobytes",
    "megabytes",
    "percent",
];
/// Labels that any metric may have.
const LABELS: [&str; 3] = ["peer", "kind", "reason"];
/// A suffix of a metric's name, and a further label that this metric may have.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("_certificate_not_after_timestamp_seconds", "file"),
    ("_build_info", "version"),
    ("_build_info", "commit"),
    ("_build_info", "wire_revision"),
    ("_build_info", "map_layout"),
];

/// A metric family as it is exported.
#[derive(Debug, Default)]
struct Family<'a> {
    kind: &'a str,
    help: &'a str,
    /// The label names of each sample.
    labels: BTreeSet<Vec<&'a str>>,
}

/// Everything that is wrong with a daemon's metrics, one sentence each. `text` is what the daemon exports, `prefix` is
/// `clustermesh_<daemon>`, and `documentation` is the content of `docs/metrics.md`.
pub fn violations(text: &str, prefix: &str, documentation: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let families = parse(text, &mut wrong);
    let (former, families): (BTreeMap<_, _>, BTreeMap<_, _>) =
        families.into_iter().partition(|(_, family)| family.help.starts_with("deprecated: "));
    for (name, family) in &families {
        wrong.extend(bad_name(name, family, prefix).map(|why| format!("{name}: {why}")));
    }
    let ours = |name: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_')) || is_process(name)
    };
    let mut documented: BTreeMap<&str, [&str; 5]> = BTreeMap::new();
    for row in rows(documentation).filter(|[name, ..]| ours(name)) {
        if documented.insert(row[0], row).is_some() {
            wrong.push(format!("{}: two rows", row[0]));
        }
    }
    for (name, family) in &families {
        let Some([_, kind, labels, unit, _]) = documented.get(name) else {
            wrong.push(format!("{name}: no row"));
            continue;
        };
        if *kind != family.kind {
            wrong.push(format!("{name}: its row says {kind}, it is a {}", family.kind));
        }
        let labels: BTreeSet<&str> = labels.split(", ").filter(|label| *label != "–").collect();
        for set in &family.labels {
            if labels != set.iter().copied().collect() {
                wrong.push(format!("{name}: its row says {labels:?}, it has {set:?}"));
            }
        }
        for base in ["seconds", "bytes"] {
            let named = name.strip_suffix("_total").unwrap_or(name).ends_with(&format!("_{base}"));
            if named != (*unit == base) {
                wrong.push(format!("{name}: its row says {unit}"));
            }
        }
    }
    let missing = documented.keys().filter(|name| !families.contains_key(*name));
    wrong.extend(missing.map(|name| format!("{name}: a row, and not exported")));
    wrong.extend(former_names(&former, &families, documentation));
    wrong
}

/// Differences between the documented pairs of former and current names and the exported ones.
fn former_names(
    former: &BTreeMap<&str, Family<'_>>,
    families: &BTreeMap<&str, Family<'_>>,
    documentation: &str,
) -> Vec<String> {
    let pairs = documentation.lines().filter_map(|line| {
        let [old, new] = cells(line)?;
        families.contains_key(new).then_some((old, new))
    });
    let documented: BTreeSet<(&str, &str)> = pairs.collect();
    let exported = former.iter().map(|(old, family)| {
        let new = family.help.strip_prefix("deprecated: use ").unwrap_or_default();
        (*old, new.trim_end_matches('.'))
    });
    let exported: BTreeSet<(&str, &str)> = exported.collect();
    let differ = documented.symmetric_difference(&exported);
    differ
        .map(|(old, new)| format!("{old}, now {new}: either not exported or not in the table"))
        .collect()
}

/// The rows of the documented metrics: name, type, labels, unit, meaning.
fn rows(documentation: &str) -> impl Iterator<Item = [&str; 5]> {
    documentation.lines().filter_map(cells::<5>).filter(|[name, ..]| name.contains('_'))
}

/// The cells of a table's row if it has `N` of them, without backticks.
fn cells<const N: usize>(line: &str) -> Option<[&str; N]> {
    let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches('`')).collect();
    cells.try_into().ok()
}

fn is_process(name: &str) -> bool {
    name.starts_with("process_")
}

/// What is wrong with a family's name, labels or help.
fn bad_name<'a>(
    name: &'a str,
    family: &'a Family<'_>,
    prefix: &str,
) -> impl Iterator<Item = String> + use<'a> {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    let other = (rest.is_none() && !is_process(name)).then(|| format!("not {prefix}_…"));
    let counter = family.kind == "counter";
    let total = counter != name.ends_with("_total");
    let total = total.then(|| format!("a {} must not have this name", family.kind));
    let units = OTHER_UNITS.iter().filter(move |unit| name.split('_').any(|word| word == **unit));
    let units = units.map(|unit| format!("{unit} is not a base unit"));
    let labels = family.labels.iter().flatten().filter(move |label| {
        let allowed = EXCEPTIONS.iter().any(|(of, too)| name.ends_with(of) && too == *label);
        !LABELS.contains(label) && !allowed
    });
    let labels = labels.map(|label| format!("a label {label}"));
    let help = (!family.help.ends_with('.') || family.help.len() < 10).then(|| "no HELP".into());
    other.into_iter().chain(total).chain(units).chain(labels).chain(help)
}

/// Reads Prometheus' text format, strictly: HELP, TYPE and then the samples of each name.
fn parse<'a>(text: &'a str, wrong: &mut Vec<String>) -> BTreeMap<&'a str, Family<'a>> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        let ok = if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').unwrap_or((described, ""));
            current = name;
            families.insert(name, Family { help, ..Family::default() }).is_none()
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or((typed, ""));
            let family = families.get_mut(name).filter(|family| family.kind.is_empty());
            let known = name == current && ["counter", "gauge", "histogram"].contains(&kind);
            family.filter(|_| known).map(|family| family.kind = kind).is_some()
        } else {
            let family = families.get_mut(current).filter(|family| !family.kind.is_empty());
            let rest = line.strip_prefix(current);
            family.zip(rest).is_some_and(|(family, rest)| {
                let labels = match family.kind {
                    "histogram" => sample_of_histogram(rest),
                    _ => sample(rest),
                };
                labels.map(|labels| family.labels.insert(labels)).is_some()
            })
        };
        if !ok {
            wrong.push(format!("not Prometheus' text format: {line:?}"));
        }
    }
    families
}

/// Like [`sample`], for a histogram. The label `le` of its buckets is left out.
fn sample_of_histogram(text: &str) -> Option<Vec<&str>> {
    if let Some(bucket) = text.strip_prefix("_bucket") {
        let mut labels = sample(bucket)?;
        let le = labels.iter().position(|label| *label == "le")?;
        labels.remove(le);
        return Some(labels);
    }
    text.strip_prefix("_sum").or_else(|| text.strip_prefix("_count")).and_then(sample)
}

/// The label names in `{label="value",…} number`.
fn sample(text: &str) -> Option<Vec<&str>> {
    let mut labels = Vec::new();
    let mut rest = text;
    if let Some(listed) = text.strip_prefix('{') {
        rest = listed;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"")?;
            let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
            if label.is_empty() || !label.chars().all(word) {
                return None;
            }
            labels.push(label);
            let mut escaped = false;
            let end = value.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            rest = value.get(end + 1..)?;
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = rest.strip_prefix('}')?;
    }
    rest.strip_prefix(' ')?.parse::<f64>().ok()?;
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP cm_a_reads_total How often it was read.\n# TYPE cm_a_reads_total counter\ncm_a_reads_total{peer=\"x\\\"},\",kind=\"y\"} 1\n\
        # HELP cm_a_reads deprecated: use cm_a_reads_total.\n# TYPE cm_a_reads gauge\ncm_a_reads 1\n\
        # HELP cm_a_wait_seconds How long it waits.\n# TYPE cm_a_wait_seconds gauge\ncm_a_wait_seconds 0.5\n\
        # HELP cm_a_took_seconds How long it took.\n# TYPE cm_a_took_seconds histogram\ncm_a_took_seconds_sum 0.5\n\
        cm_a_took_seconds_count 1\ncm_a_took_seconds_bucket{le=\"1.0\"} 1\ncm_a_took_seconds_bucket{le=\"+Inf\"} 1\n";
    const ROWS: &str = "| name | type | labels | unit | meaning |\n\
        | `cm_a_reads_total` | counter | peer, kind | – | How often. |\n\
        | `cm_a_wait_seconds` | gauge | – | seconds | How long. |\n\
        | `cm_a_took_seconds` | histogram | – | seconds | How long. |\n\
        | `cm_b_other` | gauge | – | – | Of another daemon. |\n\n\
        | `cm_a_reads` | `cm_a_reads_total` |\n";

    #[test]
    fn correct_metrics_have_no_violations() {
        assert_eq!(violations(TEXT, "cm_a", ROWS), Vec::<String>::new());
    }

    #[test]
    fn each_violation_is_found() {
        let found = |text: &str, rows: &str, words: &str| {
            let found = violations(text, "cm_a", rows);
            assert!(found.iter().any(|violation| violation.contains(words)), "{words}: {found:?}");
        };
        found(TEXT, &ROWS.replace("cm_a_wait_seconds", "cm_a_gone_seconds"), "no row");
        found(TEXT, &ROWS.replace("cm_a_wait_seconds", "cm_a_gone_seconds"), "a row, and not");
        found(TEXT, &ROWS.replace("counter | peer, kind", "gauge | peer, kind"), "row says gauge");
        found(TEXT, &ROWS.replace("counter | peer, kind", "counter | peer"), "row says {\"peer\"}");
        found(TEXT, &ROWS.replace("| seconds |", "| bytes |"), "row says bytes");
        found(TEXT, &ROWS.replace("| `cm_a_reads` |", "| `cm_a_read` |"), "either not");
        for (was, is, words) in [
            ("wait_seconds", "wait_milliseconds", "not a base unit"),
            ("cm_a_wait", "cm_x_wait", "not cm_a_"),
            ("wait_seconds", "wait_total", "a gauge must not"),
            ("_reads_total{", "_reads{", "text format"),
            ("kind=", "pod=", "a label pod"),
            ("How long it waits.", "waits", "no HELP"),
            (" 0.5", " half", "text format"),
            ("# TYPE cm_a_wait_seconds gauge\n", "", "text format"),
            ("took_seconds_bucket{le", "took_seconds_bucket{ge", "text format"),
            ("took_seconds_sum", "took_seconds_mean", "text format"),
        ] {
            found(&TEXT.replace(was, is), ROWS, words);
        }
    }
}
