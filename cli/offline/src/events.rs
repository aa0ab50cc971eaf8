//! The events of a scenario.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_model::{
    ClusterName,
    object::{Kind, Object, ObjectKey},
};
use mesh_source::{Format, decode};
use serde::Deserialize;
use serde_json::Value;

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The time since the start.
    pub at: Duration,
    /// The cluster of the event.
    pub cluster: ClusterName,
    /// The event.
    pub what: ScenarioEvent,
}

/// An event of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScenarioEvent {
    /// The cluster and the others become unreachable for each other.
    Disconnect,
    /// The cluster and the others are connected again.
    Connect,
    /// The cluster is removed as a peer of the others.
    Remove,
    /// Objects are added or changed.
    Apply(Vec<Object>),
    /// An object is deleted.
    Delete(ObjectKey),
}

/// A file without valid events.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct EventsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: EventsProblem,
}

/// Why a list of events is invalid.
#[derive(Debug, thiserror::Error)]
pub enum EventsProblem {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not a list.
    #[error("not a list of events: {0}")]
    List(String),
    /// An event is invalid.
    #[error("event {index}: {reason}")]
    Event {
        /// Its index, counted from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time, as in 0s, 90s, 16m or 1h30m")]
pub struct InvalidTime(pub String);

/// An event as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventJson {
    at: String,
    disconnect: Option<String>,
    connect: Option<String>,
    remove: Option<String>,
    cluster: Option<String>,
    apply: Option<Value>,
    delete: Option<Value>,
}

/// The units of durations, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a duration: one or more numbers with units, which are added.
pub fn parse_time(text: &str) -> Result<Duration, InvalidTime> {
    let invalid = || InvalidTime(text.into());
    let mut rest = text;
    let mut sum = 0_u64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = match unit {
            // 0 needs no unit.
            "" if number == 0 => 0,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1,
        };
        let part = number.checked_mul(unit).ok_or_else(invalid)?;
        sum = sum.checked_add(part).ok_or_else(invalid)?;
        rest = after;
    }
    Ok(Duration::from_millis(sum))
}

/// Formats a duration, as [`parse_time`] reads it.
pub fn time(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in UNITS.iter().rev().filter(|(unit, _)| *unit != "d") {
        let count = rest / millis;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
        rest %= millis;
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Reads a file of events, sorted by time. Events of the same time keep the file's order.
pub fn read_events(path: &Path) -> Result<Vec<Event>, EventsError> {
    let format = Format::of(path).unwrap_or(Format::Json);
    let text = fs::read_to_string(path).map_err(EventsProblem::from);
    text.and_then(|text| parse_events(format, &text))
        .map_err(|problem| EventsError { path: path.into(), problem })
}

/// Parses a list of events, sorted by time.
pub fn parse_events(format: Format, text: &str) -> Result<Vec<Event>, EventsProblem> {
    let list = |reason: String| EventsProblem::List(reason);
    let values: Vec<Value> = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| list(error.to_string()))?,
        Format::Yaml => serde_saphyr::from_str(text)
            .map_err(|error| list(error.without_snippet().to_string()))?,
    };
    let mut events = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let event = event(value).map_err(|reason| EventsProblem::Event { index, reason })?;
        events.push(event);
    }
    events.sort_by_key(|event| event.at);
    Ok(events)
}

fn event(value: Value) -> Result<Event, String> {
    let json: EventJson = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let EventJson { at, disconnect, connect, remove, cluster, apply, delete } = json;
    let at = parse_time(&at).map_err(|error| format!("at: {error}"))?;
    let named = |field: &str, name: String| {
        ClusterName::new(&name).map_err(|error| format!("{field}: {error}"))
    };
    let links = [
        ("disconnect", disconnect, ScenarioEvent::Disconnect),
        ("connect", connect, ScenarioEvent::Connect),
        ("remove", remove, ScenarioEvent::Remove),
    ];
    let mut happenings = Vec::new();
    for (field, name, what) in links {
        if let Some(name) = name {
            happenings.push((named(field, name)?, what));
        }
    }
    let has_cluster = cluster.is_some();
    let mut changes = Vec::new();
    if let Some(object) = apply {
        changes.push(ScenarioEvent::Apply(
            applied(&object).map_err(|error| format!("apply: {error}"))?,
        ));
    }
    if let Some(object) = delete {
        changes.push(ScenarioEvent::Delete(
            deleted(&object).map_err(|error| format!("delete: {error}"))?,
        ));
    }
    match (cluster, changes.is_empty()) {
        (Some(cluster), false) => {
            let cluster = named("cluster", cluster)?;
            happenings.extend(changes.into_iter().map(|change| (cluster.clone(), change)));
        }
        (None, false) => return Err("`apply` and `delete` need a `cluster`".into()),
        (_, true) => {}
    }
    let one = "it should have one of `disconnect`, `connect`, `remove`, `apply` and `delete`";
    match (happenings.pop(), happenings.is_empty()) {
        (
            Some((_, ScenarioEvent::Disconnect | ScenarioEvent::Connect | ScenarioEvent::Remove)),
            true,
        ) if has_cluster => Err("`cluster` belongs to `apply` and `delete`".into()),
        (Some((cluster, what)), true) => Ok(Event { at, cluster, what }),
        (None, _) => Err(one.into()),
        (Some(_), false) => Err(format!("{one}, and has several")),
    }
}

/// The objects to apply. Those of other kinds are ignored, as in manifests.
fn applied(value: &Value) -> Result<Vec<Object>, String> {
    let decoded = decode(Format::Json, &value.to_string()).whole().map_err(|error| error.reason)?;
    match decoded.rejected.first() {
        Some(problem) => Err(problem.reason.clone()),
        None => Ok(decoded.objects.into_iter().map(|(_, object)| object).collect()),
    }
}

/// The key of the object to delete: kind, namespace and name are enough.
fn deleted(value: &Value) -> Result<ObjectKey, String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(ToOwned::to_owned);
    let kind = text(value.get("kind")).ok_or("an object without a kind")?;
    let kind = Kind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind)
        .ok_or_else(|| format!("{kind} is not a kind that is read"))?;
    let metadata = value.get("metadata");
    let name = text(metadata.and_then(|m| m.get("name"))).filter(|name| !name.is_empty());
    let name = name.ok_or("it has no metadata.name")?;
    let namespace = match kind.is_namespaced() {
        false => String::new(),
        true => text(metadata.and_then(|m| m.get("namespace")))
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".into()),
    };
    Ok(ObjectKey { kind, namespace: namespace.into(), name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in
            [("0s", 0), ("0", 0), ("90s", 90), ("16m", 960), ("1h30m", 5_400), ("1d", 86_400)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_time("1s500ms"), Ok(Duration::from_millis(1_500)));
        for text in [
            "",
            "16",
            "m",
            "-1s",
            "1.5h",
            "1x",
            "s1",
            " 1s",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        for text in ["0s", "1m30s", "16m", "1h30m", "24h", "1s500ms"] {
            assert_eq!(time(parse_time(text).unwrap()), text);
        }
        assert_eq!(time(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn events_come_in_the_order_of_their_times() {
        let text = r#"[
            {"at":"16m","connect":"b"},
            {"at":"0s","disconnect":"b"},
            {"at":"16m","remove":"c"},
            {"at":"90s","cluster":"a","apply":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}},
            {"at":"1h30m","cluster":"a","delete":{"kind":"Pod","metadata":{"name":"p"}}}]"#;
        let lines = |events: Vec<Event>| -> Vec<String> {
            let what = |what: &ScenarioEvent| match what {
                ScenarioEvent::Apply(objects) => format!("apply {}", objects[0].key()),
                ScenarioEvent::Delete(key) => format!("delete {key}"),
                other => format!("{other:?}"),
            };
            events
                .iter()
                .map(|e| format!("{} {} {}", time(e.at), e.cluster, what(&e.what)))
                .collect()
        };
        let expected = [
            "0s b Disconnect",
            "1m30s a apply Namespace shop",
            "16m b Connect",
            "16m c Remove",
            "1h30m a delete Pod default/p",
        ];
        assert_eq!(lines(parse_events(Format::Json, text).unwrap()), expected);
        let yaml = "- {at: 0s, disconnect: b}\n- at: 90s\n  cluster: a\n  apply: {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";
        assert_eq!(lines(parse_events(Format::Yaml, yaml).unwrap()), expected[..2]);
    }

    #[test]
    fn mistakes_name_the_event_and_the_field() {
        for (text, says) in [
            ("{}", "not a list of events"),
            ("[1]", "event 0: "),
            (r#"[{"disconnect":"b"}]"#, "event 0: missing field `at`"),
            (
                r#"[{"at":"0s","disconnect":"b"},{"at":"x","connect":"b"}]"#,
                "event 1: at: \"x\" is not a time",
            ),
            (r#"[{"at":"0s"}]"#, "event 0: it should have one of"),
            (r#"[{"at":"0s","disconnect":"b","connect":"b"}]"#, "and has several"),
            (
                r#"[{"at":"0s","disconnect":"B"}]"#,
                "event 0: disconnect: \"B\" is not a cluster name",
            ),
            (r#"[{"at":"0s","disconnet":"b"}]"#, "unknown field `disconnet`"),
            (r#"[{"at":"0s","cluster":"b","connect":"b"}]"#, "`cluster` belongs to"),
            (r#"[{"at":"0s","cluster":"b"}]"#, "it should have one of"),
            (
                r#"[{"at":"0s","apply":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}}]"#,
                "need a `cluster`",
            ),
            (
                r#"[{"at":"0s","cluster":"b","apply":{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"}}}]"#,
                "apply: Service default/x: it has no clusterIP",
            ),
            (r#"[{"at":"0s","cluster":"b","apply":3}]"#, "event 0: apply: "),
            (r#"[{"at":"0s","cluster":"b","delete":{"kind":"Foo"}}]"#, "delete: Foo is not a kind"),
            (
                r#"[{"at":"0s","cluster":"b","delete":{"kind":"Pod"}}]"#,
                "delete: it has no metadata.name",
            ),
        ] {
            let error = parse_events(Format::Json, text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = read_events(Path::new("/nonexistent.json")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent.json: "), "{error}");
    }
}
