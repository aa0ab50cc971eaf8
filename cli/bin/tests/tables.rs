//! The output of commands that need no daemon, for a pipe and for a terminal of 80 columns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this is test code"
)]

use std::{fs, path::Path, process::Command};

/// The output of a command line for this number of columns.
fn printed(folder: &Path, line: &str, columns: Option<&str>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(line.split(' ')).current_dir(folder).env_remove("COLUMNS");
    command.envs(columns.map(|columns| ("COLUMNS", columns)));
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code == 0 || code == 3), "{line}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words
}

#[test]
fn no_line_is_broken_for_a_pipe_and_no_word_for_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let service = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: a-namespace-with-a-long-name, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.101.0.10, ports: [{name: http, port: 80}]}
";
    let slice = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: a-namespace-with-a-long-name, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.1.7], nodeName: a-node-with-a-long-name}, {addresses: [10.1.1.8], conditions: {ready: false}}]
ports: [{name: http, port: 8080}]
";
    for cluster in ["a", "b"] {
        fs::create_dir_all(at.join("m").join(cluster)).unwrap();
        let slice = if cluster == "a" { slice.to_owned() } else { slice.replace("10.1.", "10.2.") };
        fs::write(at.join("m").join(cluster).join("web.yaml"), format!("{service}{slice}"))
            .unwrap();
    }
    printed(at, "certs init --cluster a --dir pki --address 172.31.1.1", None);
    for line in [
        "service backends --state m --from a -o text",
        "service explain --state m --from a -o text",
        "certs show pki/ca.crt pki/server.crt",
    ] {
        let piped = printed(at, line, None);
        let wide = printed(at, line, Some("2000"));
        assert_eq!(piped, wide, "{line}: a line is broken for a pipe");
        let narrow = printed(at, line, Some("80"));
        assert_eq!(words(&piped), words(&narrow), "{line}: a word is broken:\n{narrow}");
    }
}
