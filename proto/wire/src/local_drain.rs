//! What of a cluster is drained, for its nodes and for its peers (`docs/wire.md`, "Drain"):
//! `{"v":1,"cluster":false,"nodes":["n1"]}`.

use mesh_model::LocalDrain;

use crate::{
    error::DecodeError,
    go_json::{self, go_struct},
    limits,
    local::{VERSION, known},
};

go_struct! {
    /// The JSON of the value.
    struct DrainJson {
        "v" => v: u32;
        "cluster" => cluster: bool;
        "nodes" => nodes: Vec<String>;
    }
}

/// Encodes the value.
pub fn encode(drain: &LocalDrain) -> Vec<u8> {
    let LocalDrain { cluster, nodes } = drain;
    let nodes = nodes.iter().cloned().collect();
    go_json::to_vec(&DrainJson { v: VERSION, cluster: *cluster, nodes })
}

/// Decodes the value.
///
/// # Errors
/// If it is not JSON of this shape and version, or a node's name or the value is too long.
pub fn decode(value: &[u8]) -> Result<LocalDrain, DecodeError> {
    limits::NODE_VALUE.check(value.len())?;
    let DrainJson { v, cluster, nodes } = serde_json::from_slice(value)?;
    known(v)?;
    limits::NAME.texts(&nodes)?;
    Ok(LocalDrain { cluster, nodes: nodes.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_has_this_json() {
        let nodes = ["n2", "n1"].map(str::to_owned).into();
        let drain = LocalDrain { cluster: false, nodes };
        let json = r#"{"v":1,"cluster":false,"nodes":["n1","n2"]}"#;
        assert_eq!(String::from_utf8(encode(&drain)).unwrap(), json);
        assert_eq!(decode(json.as_bytes()).unwrap(), drain);
        assert!(drain.has("n1") && !drain.has("n3") && !drain.is_empty());
        let all = decode(br#"{"v":1,"cluster":true,"nodes":[]}"#).unwrap();
        assert!(all.has("n3") && !all.is_empty() && LocalDrain::default().is_empty());
    }

    #[test]
    fn invalid_values_are_refused() {
        let long = format!(r#"{{"v":1,"cluster":false,"nodes":["{}"]}}"#, "n".repeat(254));
        for (value, says) in [
            (r#"{"v":2,"cluster":true,"nodes":[]}"#, "version 2 is not known"),
            (r#"{"v":1,"cluster":1,"nodes":[]}"#, "JSON: cluster"),
            (r#"{"v":1,"cluster":true,"nodes":"n1"}"#, "JSON: nodes"),
            (&long, "bytes in a name: more than 253"),
            ("n1", "JSON"),
        ] {
            let error = decode(value.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{value}: {error}");
        }
    }
}
