//! The output and exit codes of commands that compute from files. Needs only these files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this is test code"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

/// A folder in which commands run.
struct Place(tempfile::TempDir);

/// The result of a command.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| place.write(name, text));
        place
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a command line; words are separated by spaces.
    fn run(&self, line: &str) -> Ended {
        let words = line.split(' ').map(|word| word.trim_matches('\''));
        let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
        command.args(words).current_dir(self.0.path()).env_remove("COLUMNS");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn json(&self, line: &str) -> Value {
        let ended = self.run(line);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{line}");
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn recorded(name: &str) -> String {
    repository("proto/wire/tests/fixtures/cilium-1.20.2").join(name).display().to_string()
}

const WEB: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.101.0.10, ports: [{name: http, port: 80}]}
";

/// The code blocks of a document: the word after the backticks, and the text.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let block = lines.by_ref().take_while(|line| *line != "```");
            all.push((info, block.map(|line| format!("{line}\n")).collect()));
        }
    }
    all
}

/// A block whose word is a path is a file; a `console` block has commands with their output.
#[test]
fn the_examples_of_the_documentation_are_what_is_printed() {
    let text = fs::read_to_string(repository("docs/offline.md")).unwrap();
    let place = Place::new(&[]);
    let mut commands = 0;
    for (info, block) in blocks(&text) {
        if let Some((_, path)) = info.split_once(' ') {
            place.write(path, &block);
        } else if info == "console" {
            for example in block.split("$ clustermesh ").skip(1) {
                let (line, expected) = example.split_once('\n').unwrap();
                let ended = place.run(line);
                assert_eq!(ended.stdout, expected, "{line}\n{}", ended.stderr);
                commands += 1;
            }
        }
    }
    assert!(commands >= 5, "{commands}");
}

/// Objects of the local cluster, and keys that a Cilium wrote: agents follow its endpoint slices.
#[test]
fn a_cilium_is_imported_from_what_it_wrote() {
    let place = Place::new(&[("a/web.yaml", WEB)]);
    let import = format!(
        "import --keys {} --objects a --cluster a --output json",
        recorded("services.json")
    );
    let ended = place.run(&import);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("fqdn-1"), "{}", ended.stderr);
    let frontends: Value = serde_json::from_str(&ended.stdout).unwrap();
    let backend = |address: &str, node: Value, zone: Value| {
        json!({
            "address": address, "port": 8080, "portName": "http", "cluster": "alpha", "node": node, "zone": zone,
            "state": "ready", "nodeAnswers": true, "why": "ready", "tier": 1, "share": 0.333_333_333,
            "reason": "ready: tier 1 carries 100 %, and it gets 33.33 % as one of 3 of weight 1",
        })
    };
    assert_eq!(
        frontends,
        json!([{
            "service": "shop/web", "portName": "http", "frontend": "10.101.0.10", "port": 80, "protocol": "TCP",
            "inUse": [
                backend("10.67.1.10", json!("n1"), json!("z1")),
                backend("10.67.1.11", Value::Null, json!("z2")),
                backend("10.67.1.12", Value::Null, Value::Null),
            ],
            "fallback": [], "leftOut": [],
        }])
    );
}

#[test]
fn peers_of_services_v1_and_of_slices_are_imported_together() {
    let v1 = r#"{"cluster":{"name":"old","id":9},"entries":[{"key":"cilium/cluster-config/old","value":"{\"id\":9,\"capabilities\":{}}"},
        {"key":"cilium/state/services/v1/old/shop/web","value":"{\"cluster\":\"old\",\"namespace\":\"shop\",\"name\":\"web\",\"frontends\":{\"10.109.0.1\":{\"http\":{\"Protocol\":\"TCP\",\"Port\":80}}},\"backends\":{\"10.9.0.1\":{\"http\":{\"Protocol\":\"TCP\",\"Port\":8080}},\"10.9.0.2\":{\"other\":{\"Protocol\":\"TCP\",\"Port\":8080}}},\"labels\":{},\"selector\":{},\"includeExternal\":true,\"shared\":true,\"clusterID\":9}"}]}"#;
    let not_exported = v1
        .replace("old", "shy")
        .replace(r#"\"shared\":true"#, r#"\"shared\":false"#)
        .replace("10.9.0", "10.8.0")
        .replace(":9}", ":8}")
        .replace(":9,", ":8,");
    let place = Place::new(&[
        ("a/web.yaml", WEB),
        ("old.json", v1),
        ("shy.json", &not_exported),
        ("b.yaml", &WEB.replace("10.101", "10.102")),
    ]);
    place.write("b-slice.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.2.0.1]}, {addresses: [10.2.0.2], conditions: {ready: false}}]\nports: [{name: http, port: 8080}]\n");
    place.write(
        "b/x.yaml",
        &format!(
            "{}---\n{}",
            fs::read_to_string(place.0.path().join("b.yaml")).unwrap(),
            fs::read_to_string(place.0.path().join("b-slice.yaml")).unwrap()
        ),
    );
    let exported = place.run("export --objects b --cluster b --id 2");
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    place.write("b.json", &exported.stdout);
    let frontends =
        place.json("import --keys old.json --keys b.json --keys shy.json --objects a --cluster a");
    let backends = |list: &str| -> Vec<String> {
        let entries = frontends[0][list].as_array().unwrap().iter();
        entries
            .map(|e| {
                format!(
                    "{} {} {}",
                    e["address"].as_str().unwrap(),
                    e["cluster"].as_str().unwrap(),
                    e["why"].as_str().unwrap()
                )
            })
            .collect()
    };
    assert_eq!(backends("inUse"), ["10.2.0.1 b ready", "10.9.0.1 old ready"]);
    assert_eq!(backends("fallback"), Vec::<String>::new());
    assert_eq!(
        backends("leftOut"),
        [
            "10.2.0.2 b not-ready",
            "10.9.0.2 old other-port",
            "10.8.0.1 shy not-shared",
            "10.8.0.2 shy not-shared"
        ]
    );
    // The peers have three IDs. The importing cluster gets the first free one, or the one that is given.
    for (id, code, says) in [
        ("1", 0, ""),
        ("9", 3, "cluster old is refused: the cluster has the local cluster's ID 9"),
        ("300", 1, "300 is not a cluster ID: with a limit of 255 clusters it is 1 to 255"),
        ("0", 1, "0 is not a cluster ID"),
    ] {
        let ended = place.run(&format!("import --keys old.json --objects a --cluster a --id {id}"));
        assert_eq!(ended.code, code, "{id}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{id}: {}", ended.stderr);
    }
    let ended = place.run("import --keys old.json --objects a --cluster old");
    assert!(
        ended.code == 1 && ended.stderr.contains("old.json: its keys are of old"),
        "{}",
        ended.stderr
    );
}

#[test]
fn exports_are_keys_files_and_limits_and_namespaces_are_flags() {
    let place = Place::new(&[("a/web.yaml", WEB)]);
    let keys = |line: &str| -> Vec<String> {
        let file = place.json(line);
        assert_eq!(file.as_object().unwrap().len(), 2, "cluster and entries");
        let entries = file["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["cilium/cluster-config/a", "cilium/state/services/v1/a/shop/web"];
    assert_eq!(keys("export --objects a --cluster a --id 1"), all);
    assert_eq!(keys("export --objects a/web.yaml --cluster a --id 1"), all);
    assert_eq!(keys("export --objects a --cluster a --id 300 --max-connected-clusters 511"), all);
    assert_eq!(
        keys("export --objects a --cluster a --id 1 --default-global-namespace false"),
        all[..1]
    );
    let local = "clustermesh/local/v1/services/shop/web";
    assert_eq!(keys("export --objects a --cluster a --id 1 --local")[2], local);
    for (line, code, says) in [
        ("export --objects a --cluster a --id 256", 1, "256 is not a cluster ID"),
        ("export --objects a --cluster A --id 1", 2, "\"A\" is not a cluster name"),
        (
            "export --objects a --cluster a --id 1 --max-connected-clusters 300",
            2,
            "300 is not a limit",
        ),
        ("export --objects none --cluster a --id 1", 1, "none: "),
    ] {
        let ended = place.run(line);
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{line}");
        assert!(ended.stderr.contains(says), "{line}: {}", ended.stderr);
    }
}

#[test]
fn what_is_wrong_is_named_with_its_file_and_place() {
    let place = Place::new(&[
        (
            "m/a/web.yaml",
            &format!(
                "{WEB}---\napiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop}}\n"
            ),
        ),
        ("broken/a/web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: [\n"),
        ("part/a/web.yaml", &format!("{WEB}---\nkind: Pod\nmetadata: [\n")),
        ("events.json", r#"[{"at":"1m","disconnect":"x"}]"#),
        ("wrong.json", r#"[{"at":"soon","disconnect":"a"}]"#),
        ("typo/a/web.yaml", &WEB.replace("'true'", "'true', service.cilium.io/affinity: loca")),
    ]);
    // The rest is printed all the same.
    let ended = place.run("service backends --state m --from a");
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("web.yaml:6: Service shop/api: it has no clusterIP"),
        "{}",
        ended.stderr
    );
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap()[0]["service"], "shop/web");
    // A document that is not YAML affects only itself.
    for (line, service) in [
        ("service backends --state part --from a", json!("shop/web")),
        ("service backends --state broken --from a", Value::Null),
    ] {
        let ended = place.run(line);
        assert_eq!(ended.code, 3, "{line}: {}", ended.stderr);
        let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(printed[0]["service"], service, "{line}");
        assert!(ended.stderr.contains("not YAML: "), "{line}: {}", ended.stderr);
    }
    for line in [
        "export --objects part/a --cluster a --id 1",
        "service explain --state part --from a",
        "etcd diff --keys exported.json --objects part/a",
    ] {
        let ended = place.run(line);
        let says = "part/a/web.yaml:7: document 2: not YAML: ";
        assert!(ended.code == 3 && ended.stderr.contains(says), "{line}: {}", ended.stderr);
        assert!(!ended.stdout.is_empty(), "{line}");
        place.write("exported.json", &place.run("export --objects m/a --cluster a --id 1").stdout);
    }
    let ended = place.run("service backends --state typo --from a");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("service.cilium.io/affinity: \"loca\" is none of local"),
        "{}",
        ended.stderr
    );
    for (line, code, says) in [
        ("service backends --state m --from b", 1, "--from: there is no cluster b (there are: a)"),
        ("service backends a/b/c --state m --from a", 1, "\"a/b/c\" is not a service"),
        (
            "service backends --state m --from a --events events.json",
            1,
            "event at 1m (number 1 by time): there is no cluster x",
        ),
        (
            "service backends --state m --from a --events wrong.json",
            1,
            "wrong.json: event 0: at: \"soon\" is not a time",
        ),
        ("service backends --state m --from a --at soon", 2, "not a duration"),
        ("service backends", 2, "--state DIR --from CLUSTER"),
        ("service explain --state m", 2, "--from"),
        ("service explain --state m --from a --context x", 1, "there is no --context to ask"),
        ("etcd dump", 2, "required"),
        ("etcd dump --keys m/a/web.yaml", 1, "not a keys file"),
        ("etcd diff --keys events.json", 2, "required"),
    ] {
        let ended = place.run(line);
        assert_eq!(ended.code, code, "{line}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{line}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{line}");
    }
}

/// A keys file of a service with one backend; `tree` is below `cilium/`.
fn some_keys(head: &str, config: &str, tree: &str) -> String {
    let value = r#"{\"cluster\":\"b\",\"namespace\":\"shop\",\"name\":\"web\",\"frontends\":{},\"backends\":{\"10.2.0.1\":{\"http\":{\"Protocol\":\"TCP\",\"Port\":8080}}},\"labels\":{},\"selector\":{},\"includeExternal\":true,\"shared\":true,\"clusterID\":300}"#;
    format!(
        r#"{{{head}"entries":[{config}{{"key":"cilium/{tree}/services/v1/b/shop/web","value":"{value}"}}]}}"#
    )
}

#[test]
fn keys_without_a_config_are_read_with_a_warning_and_never_against_it() {
    let head = r#""cluster":{"name":"b","id":300},"#;
    let config = |id: u32| {
        format!(
            r#"{{"key":"cilium/cluster-config/b","value":"{{\"id\":{id},\"capabilities\":{{\"maxConnectedClusters\":511}}}}"}},"#
        )
    };
    let object = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}\nspec: {clusterIP: 10.101.0.10, ports: [{name: http, port: 80}]}\n";
    let files = [
        ("state.json", some_keys(head, "", "state")),
        ("cache.json", some_keys(head, "", "cache")),
        ("whole.json", some_keys("", &config(300), "state")),
        ("other.json", some_keys(head, &config(301), "state")),
        ("nobody.json", some_keys("", "", "state")),
        ("a/web.yaml", object.to_owned()),
    ];
    let files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let place = Place::new(&files);
    let no_config = "warning: cluster b: there is no cilium/cluster-config/b among its keys";
    let contradiction =
        "its keys file contradicts itself: cluster.id: 300, and cilium/cluster-config/b says 301";
    for (file, code, backends, says) in [
        ("state.json", 0, 1, no_config),
        ("cache.json", 0, 1, no_config),
        ("whole.json", 0, 1, ""),
        ("other.json", 3, 0, contradiction),
        ("nobody.json", 1, 0, "nobody.json: it has no `cluster` {name, id}, and there is no"),
    ] {
        let ended = place
            .run(&format!("import --keys {file} --objects a --cluster a --output json shop/web"));
        assert_eq!(ended.code, code, "{file}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{file}: {}", ended.stderr);
        assert_eq!(says.is_empty(), ended.stderr.is_empty(), "{file}: {}", ended.stderr);
        if code != 1 {
            let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
            let in_use = printed[0]["inUse"].as_array().unwrap();
            assert_eq!(in_use.len(), backends, "{file}: {printed:#}");
        }
    }
    let dumped = place.run("etcd dump --keys cache.json");
    assert!(dumped.stderr.contains(no_config), "{}", dumped.stderr);
}

/// A mistake ends with exit code 1; what is refused or missing ends with 3, and is listed with its reason.
#[test]
fn what_is_refused_or_not_there_is_listed_and_ends_with_3() {
    let headless =
        WEB.replace("name: web", "name: db").replace("clusterIP: 10.101.0.10", "clusterIP: None");
    let theirs = WEB.replace("name: web", "name: only").replace("10.101", "10.102");
    let place = Place::new(&[
        ("m/a/web.yaml", &format!("{WEB}---\n{headless}")),
        ("m/b/web.yaml", &theirs),
        ("a/web.yaml", WEB),
        (
            "liar.json",
            r#"{"cluster":{"name":"b","id":7},"entries":[{"key":"cilium/cluster-config/b","value":"{\"id\":7,\"capabilities\":{}}"},
            {"key":"cilium/state/services/v1/b/shop/web","value":"{\"cluster\":\"c\"}"}]}"#,
        ),
        (
            "config.json",
            r#"{"cluster":{"name":"b","id":7},"entries":[{"key":"cilium/cluster-config/b","value":"{\"id\":700}"}]}"#,
        ),
    ]);
    let key = "cilium/state/services/v1/b/shop/web";
    let liar = "import --keys liar.json --objects a --cluster a";
    let config = "import --keys config.json --objects a --cluster a";
    for (line, code, service, why, key, says) in [
        (liar.to_owned(), 3, "shop/web", "refused", json!(key), "expected b"),
        (format!("{liar} shop/web"), 3, "shop/web", "refused", json!(key), "expected b"),
        (config.to_owned(), 3, "", "cluster-refused", Value::Null, "cluster b is refused: "),
        (
            format!("{config} shop/web"),
            3,
            "",
            "cluster-refused",
            Value::Null,
            "cluster b is refused: ",
        ),
        (
            "service backends --state m --from a".into(),
            0,
            "shop/db",
            "headless",
            Value::Null,
            "has no cluster IP",
        ),
        (
            "service backends shop/db --state m --from a".into(),
            3,
            "shop/db",
            "headless",
            Value::Null,
            "has no cluster IP",
        ),
        (
            "service backends shop/only --state m --from a".into(),
            3,
            "shop/only",
            "no-service",
            Value::Null,
            "it does not use that of b",
        ),
        (
            "service backends shop/none --state m --from a".into(),
            3,
            "shop/none",
            "no-service",
            Value::Null,
            "there is no service shop/none in any cluster",
        ),
        (
            "service backends shop/web:81 --state m --from a".into(),
            3,
            "shop/web",
            "no-frontend",
            Value::Null,
            "has no frontend with a port 81",
        ),
        (
            "service backends shop/web:80/UDP --state m --from a".into(),
            3,
            "shop/web",
            "no-frontend",
            Value::Null,
            "has no frontend with a port 80/UDP",
        ),
    ] {
        let ended = place.run(&line);
        assert_eq!(ended.code, code, "{line}: {}", ended.stderr);
        let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
        let absent = printed.as_array().unwrap().last().unwrap();
        assert_eq!(
            (&absent["service"], &absent["why"], &absent["key"]),
            (&json!(service), &json!(why), &key),
            "{line}"
        );
        assert_eq!((&absent["frontend"], &absent["inUse"]), (&Value::Null, &json!([])), "{line}");
        let reason = absent["reason"].as_str().unwrap();
        assert!(reason.contains(says), "{line}: {reason}");
        let text = place.run(&format!("{line} --output text"));
        assert_eq!(text.code, code, "{line}: {}", text.stderr);
        let row = text.stdout.lines().find(|row| row.contains(reason));
        let used = if why.ends_with("refused") { "refused" } else { "no frontend" };
        assert!(row.is_some_and(|row| row.contains(used)), "{line}: {}", text.stdout);
        assert_eq!(code == 3, ended.stderr.contains(says), "{line}: {}", ended.stderr);
    }
    // The service exists, also with its protocol, and without a backend.
    for line in [
        "service backends shop/web",
        "service backends shop/web:80/TCP",
        "service backends shop/web:http/tcp",
    ] {
        let ended = place.run(&format!("{line} --state m --from a -o text"));
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{line}");
        let row = ended.stdout.lines().nth(1).unwrap();
        let why = "a has service shop/web without endpoints; b has no service shop/web";
        assert!(row.ends_with(why), "{row}");
    }
    let explained = place.run("service explain shop/web --state m --from a");
    let why = "No backend is available: a has service shop/web without endpoints; b has no service";
    assert!(explained.stdout.contains(why), "{}", explained.stdout);
    let explained = place.run("service explain shop/db --state m --from a -o json");
    assert_eq!(explained.code, 3, "{}", explained.stderr);
    let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["frontends"], json!([]));
    assert_eq!(explained["withoutFrontend"][0]["why"], "headless");
}

#[test]
fn an_etcd_is_dumped_and_compared_from_keys_files() {
    let place = Place::new(&[("a/web.yaml", WEB)]);
    place.write("a.json", &place.run("export --objects a --cluster a --id 1").stdout);
    let dump = place.json("etcd dump --keys a.json -o json");
    assert_eq!((&dump["kind"], &dump["deviations"]), (&json!("EtcdDump"), &json!([])));
    assert_eq!(dump["entries"][1]["value"]["namespace"], "shop");
    let same = place.json("etcd diff --keys a.json --objects a -o json");
    assert_eq!((&same["kind"], &same["differences"]), (&json!("EtcdDiff"), &json!([])));
    place.write("b/web.yaml", &WEB.replace("port: 80", "port: 81"));
    let ended = place.run("etcd diff --keys a.json --objects b -o json");
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ended.code, 3);
    assert_eq!(
        (&found["differences"][0]["change"], &found["differences"][0]["fields"]),
        (&json!("differs"), &json!(["frontends.10.101.0.10.http.Port"]))
    );
    let ended = place.run(&format!("etcd dump --deviations --keys {}", recorded("services.json")));
    assert_eq!(ended.code, 3);
    assert!(ended.stdout.contains("fqdn-1  (endpoint-slice)\n"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("18 keys, 1 deviations\n"), "{}", ended.stdout);
}

#[test]
fn yaml_says_what_json_says() {
    let place = Place::new(&[("m/a/web.yaml", WEB)]);
    for line in [
        "version",
        "service backends --state m --from a",
        "service explain --state m --from a",
        "export --objects m/a --cluster a --id 1",
    ] {
        let json = place.json(&format!("{line} -o json"));
        let yaml = place.run(&format!("{line} -o yaml"));
        assert_eq!(yaml.code, 0, "{}", yaml.stderr);
        let read: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
        assert_eq!(read, json, "{line}");
        assert!(!yaml.stdout.starts_with(['{', '[']), "{}", yaml.stdout);
    }
}

#[test]
fn shells_complete_what_there_is() {
    let place = Place::new(&[]);
    for (shell, says) in [
        ("bash", "complete -F _clustermesh"),
        ("zsh", "#compdef clustermesh"),
        ("fish", "complete -c clustermesh"),
    ] {
        let ended = place.run(&format!("completions {shell}"));
        assert_eq!(ended.code, 0);
        assert!(ended.stdout.contains(says) && ended.stdout.contains("quarantine"), "{shell}");
    }
    assert_eq!(place.run("completions tcsh").code, 2);
}

/// A name is in the given namespace, or in all; without a name, the services of the namespace are shown.
#[test]
fn namespaces_are_chosen_by_flags() {
    let other = WEB.replace("namespace: shop", "namespace: other").replace("0.10", "0.11");
    let place = Place::new(&[("mesh/a/web.yaml", WEB), ("mesh/a/other.yaml", &other)]);
    let line = |command: &str, flags: &str| {
        format!("service {command} {flags} --state mesh --from a -o json")
    };
    let of = |flags: &str| {
        let shown = place.json(&line("explain", flags));
        let services = shown["items"].as_array().unwrap().iter().map(|f| f["service"].clone());
        let services = services.collect::<Vec<Value>>();
        let backends = place.json(&line("backends", flags));
        let same: Vec<Value> =
            backends.as_array().unwrap().iter().map(|f| f["service"].clone()).collect();
        assert_eq!(services, same, "{flags}");
        services
    };
    let both = [json!("other/web"), json!("shop/web")];
    assert_eq!(of("-A"), both);
    assert_eq!(of("web -A"), both);
    assert_eq!(of("web:http -A"), both);
    assert_eq!(of("-n shop"), both[1..]);
    assert_eq!(of("web -n other"), both[..1]);
    assert_eq!(of("web:80/TCP -n other"), both[..1]);
    assert_eq!(of("shop/web -n other"), both[1..]);
    assert_eq!(of("-n nowhere"), Vec::<Value>::new());
    for command in ["explain", "backends"] {
        let ended = place.run(&line(command, "nothing -A"));
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        let says = "there is no service nothing in any namespace";
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert_eq!(place.run(&line(command, "-A -n shop")).code, 2);
    }
}

/// If a service depends on the client's node, an answer without a node says so; with a node, the answer is for that node.
#[test]
fn a_node_is_named_whose_clients_connect() {
    let local = WEB.replace("ports:", "internalTrafficPolicy: Local, ports:");
    let slice = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.1.1], nodeName: n1}, {addresses: [10.1.2.1], nodeName: n2}]
ports: [{name: http, port: 8080}]
";
    let place = Place::new(&[("m/a/web.yaml", &format!("{local}{slice}"))]);
    let used = |answer: &Value| {
        let backends = answer["inUse"].as_array().unwrap().iter();
        backends.map(|backend| backend["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let anywhere = place.json("service backends shop/web --state m --from a");
    assert_eq!(used(&anywhere[0]), ["10.1.1.1", "10.1.2.1"]);
    let says = anywhere[0]["locality"].as_str().unwrap();
    assert!(says.contains("it depends on the node which ones"), "{says}");

    let here = place.json("service backends shop/web --state m --from a --node n2");
    assert_eq!(used(&here[0]), ["10.1.2.1"]);
    let left = &here[0]["leftOut"][0];
    assert_eq!((&left["address"], &left["why"]), (&json!("10.1.1.1"), &json!("other-node")));
    let reason =
        "internalTrafficPolicy is Local, so connections stay on their node, and it is on node n1";
    assert_eq!(left["reason"], json!(reason));
    let table = place.run("service backends shop/web --state m --from a --node n2 -o text").stdout;
    assert!(table.contains(reason), "{table}");
    let last = "shop/web 10.101.0.10:80/TCP: internalTrafficPolicy is Local: clients on node n2 get its backends, and those of other clusters that are reported without a node\n";
    assert!(table.ends_with(last), "{table}");

    let explained = place.json("service explain shop/web --state m --from a --node n1 -o json");
    let frontend = &explained["frontends"][0];
    assert_eq!(used(frontend), ["10.1.1.1"]);
    assert_eq!(frontend["choice"]["internalTrafficPolicy"], json!("Local"));
    let text = place.run("service explain shop/web --state m --from a --node n1").stdout;
    assert!(text.contains("Annotations: global, internal traffic Local."), "{text}");
    assert!(
        text.contains(
            "\ninternalTrafficPolicy is Local: clients on node n1 get its backends, and those of other clusters that are reported without a node.\n"
        ),
        "{text}"
    );
    let alone = place.run("service backends --node n1");
    assert!(alone.code == 2 && alone.stderr.contains("--state"), "{}", alone.stderr);
}
