//! Which flag enlarges a table, and which size it needs.

/// The agent's flag that a table's size is.
pub fn flag_of(map: &str) -> &'static str {
    match map {
        "cm_services" => "--max-services",
        "cm_backends" => "--max-backends",
        "cm_groups" => "--max-weighted-services",
        _ => "--max-slots",
    }
}

/// What to do for a table of `size` entries that is to hold `missing` more.
pub fn larger_table(map: &str, size: u32, missing: u32) -> String {
    let needed = size.saturating_add(missing.max(1));
    let needed = match map {
        "cm_services" | "cm_groups" => needed,
        // Their sizes are powers of two.
        _ => needed.checked_next_power_of_two().unwrap_or(1 << 31),
    };
    format!("set {} to at least {needed}", flag_of(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_says_its_flag_and_a_size_that_it_takes() {
        for (map, size, missing, says) in [
            ("cm_services", 10, 3, "set --max-services to at least 13"),
            ("cm_groups", 1, 0, "set --max-weighted-services to at least 2"),
            ("cm_backends", 32, 1, "set --max-backends to at least 64"),
            ("cm_backends", 32, 33, "set --max-backends to at least 128"),
            ("cm_slots", 1 << 31, 1, "set --max-slots to at least 2147483648"),
        ] {
            assert_eq!(larger_table(map, size, missing), says);
        }
    }
}
