//! Prometheus' text format. The client library writes OpenMetrics, in which the name of a counter's family lacks the
//! `_total` of its samples. A gauge with that name, as some former names are, would then be a second family of the same name.

/// Converts OpenMetrics: a counter's family gets the name of its samples.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        // The HELP line comes before the TYPE line, which tells whether it is a counter.
        let described = line.strip_prefix("# HELP ").zip(lines.peek());
        if let Some((help, kind)) = described
            && let Some((name, help)) = help.split_once(' ')
            && kind.strip_prefix("# TYPE ").and_then(|kind| kind.strip_prefix(name))
                == Some(" counter")
        {
            text += &format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n");
            lines.next();
        } else {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counters_family_has_its_samples_name() {
        let given = "# HELP a_b How often.\n# TYPE a_b counter\na_b_total{peer=\"x\"} 1\n# HELP c Now.\n# TYPE c gauge\nc 2\n";
        let wanted = "# HELP a_b_total How often.\n# TYPE a_b_total counter\na_b_total{peer=\"x\"} 1\n# HELP c Now.\n# TYPE c gauge\nc 2\n";
        assert_eq!(prometheus(given), wanted);
    }
}
