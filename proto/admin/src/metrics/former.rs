//! Names that metrics had in the previous minor release, and have for this one more.

/// A metric's former name. It is exported too, with the same values.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    /// What it was called; one that does not end in `_total` was typed as a gauge.
    pub old: &'static str,
    /// What it is called.
    pub new: &'static str,
    /// What its label `kind`, the first one, was called.
    pub kind: &'static str,
    /// How many of the former unit one of today's is.
    pub factor: u32,
}

impl Former {
    /// One that has only another name now.
    pub const fn name(old: &'static str, new: &'static str) -> Self {
        Self { old, new, kind: "kind", factor: 1 }
    }

    /// One whose label `kind` was called otherwise too.
    pub const fn kind(old: &'static str, new: &'static str, kind: &'static str) -> Self {
        Self { kind, ..Self::name(old, new) }
    }

    /// One that was in a smaller unit.
    pub const fn unit(old: &'static str, new: &'static str, factor: u32) -> Self {
        Self { factor, ..Self::name(old, new) }
    }

    /// A sample of it, made of the line of one of today's; `None` if it is another metric's.
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

/// Appends former names.
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
    fn former_names_have_todays_values() {
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
