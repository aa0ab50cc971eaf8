//! Former names of metrics, which stay for one minor release.

/// A metric's former name. It is exported with the values of the current name.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    /// The former name. Its type is counter if it ends in `_total`, else gauge.
    pub old: &'static str,
    /// The current name.
    pub new: &'static str,
    /// The former name of its label `kind`, which is its first label.
    pub kind: &'static str,
    /// How many former units are one current unit.
    pub factor: u32,
}

impl Former {
    /// Only the name changed.
    pub const fn name(old: &'static str, new: &'static str) -> Self {
        Self { old, new, kind: "kind", factor: 1 }
    }

    /// The name and the name of the label `kind` changed.
    pub const fn kind(old: &'static str, new: &'static str, kind: &'static str) -> Self {
        Self { kind, ..Self::name(old, new) }
    }

    /// The name changed, and the former unit was smaller by this factor.
    pub const fn unit(old: &'static str, new: &'static str, factor: u32) -> Self {
        Self { factor, ..Self::name(old, new) }
    }

    /// The line of the former metric for a line of the current one; `None` if the line belongs to another metric.
    fn sample(&self, line: &str) -> Option<String> {
        let Self { old, new, kind, factor } = self;
        let rest = line.strip_prefix(new).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let labels = match labels.strip_prefix("{kind=") {
            Some(labels) => format!("{{{kind}={labels}"),
            None => labels.to_owned(),
        };
        let value = match factor {
            1 => value.to_owned(),
            factor => (value.parse::<f64>().ok()? * f64::from(*factor)).round().to_string(),
        };
        Some(format!("{old}{labels} {value}\n"))
    }
}

/// Appends the former names to an export.
pub(super) fn append(text: &mut String, former: &[Former]) {
    let mut appended = String::new();
    for one in former {
        let Former { old, new, .. } = one;
        let kind = if old.ends_with("_total") { "counter" } else { "gauge" };
        appended += &format!("# HELP {old} deprecated: use {new}.\n# TYPE {old} {kind}\n");
        appended.extend(text.lines().filter_map(|line| one.sample(line)));
    }
    *text += &appended;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_names_have_the_current_values() {
        let mut text = "a_writes_total 7\na_writes_total_more 8\na_used{kind=\"cm_slots\"} 3\na_used{kind=\"x{kind=\"} 4\na_seconds 0.25\n".to_owned();
        let today = text.clone();
        let former = [
            Former::name("a_writes", "a_writes_total"),
            Former::kind("b_used", "a_used", "table"),
            Former::unit("a_milliseconds", "a_seconds", 1_000),
            Former::name("b_total", "a_none_total"),
        ];
        append(&mut text, &former);
        let wanted = "# HELP a_writes deprecated: use a_writes_total.\n# TYPE a_writes gauge\na_writes 7\n\
            # HELP b_used deprecated: use a_used.\n# TYPE b_used gauge\nb_used{table=\"cm_slots\"} 3\nb_used{table=\"x{kind=\"} 4\n\
            # HELP a_milliseconds deprecated: use a_seconds.\n# TYPE a_milliseconds gauge\na_milliseconds 250\n\
            # HELP b_total deprecated: use a_none_total.\n# TYPE b_total counter\n";
        assert_eq!(text.strip_prefix(&today), Some(wanted));
    }
}
