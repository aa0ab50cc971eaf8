use super::*;

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn read(&self) -> Result<State, String> {
        let place = format!("{}/", self.0.path().display());
        State::read(self.0.path()).map_err(|error| error.to_string().replace(&place, ""))
    }

    /// The clusters, each with its ID and the number of its objects.
    fn clusters(&self) -> Vec<(String, u16, usize)> {
        let state = self.read().unwrap();
        let count = |content: &Content| match content {
            Content::Objects(objects) => objects.objects.len(),
            Content::Keys(file) => file.entries.len(),
        };
        let of = |(name, cluster): (&ClusterName, &ClusterState)| {
            (name.to_string(), cluster.settings.id.get(), count(&cluster.content))
        };
        state.clusters.iter().map(of).collect()
    }
}

#[test]
fn ids_count_by_name_where_no_file_gives_one() {
    let folder = Folder::new(&[
        ("a/objects.yaml", NAMESPACE),
        ("b/cluster.yaml", "id: 2\n"),
        ("b/deep/er/objects.yml", NAMESPACE),
        (
            "c/objects.json",
            "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"n\"}}",
        ),
        ("events.json", "[]"),
        (".git/x.yaml", "["),
    ]);
    assert_eq!(folder.clusters(), [("a".into(), 1, 1), ("b".into(), 2, 1), ("c".into(), 3, 1)]);
}

#[test]
fn one_limit_counts_for_all_who_do_not_say() {
    let keys = |limit: &str| {
        format!(
            r#"{{"cluster":{{"name":"b","id":300}},"entries":[{{"key":"cilium/cluster-config/b","value":"{{\"id\":300{limit}}}"}}]}}"#
        )
    };
    let limits = |keys: &str| {
        let folder = Folder::new(&[("a/objects.yaml", NAMESPACE), ("b/keys.json", keys)]);
        let state = folder.read();
        let all = |state: State| -> Vec<u32> {
            state.clusters.values().map(|cluster| cluster.settings.limit.get()).collect()
        };
        state.map(all)
    };
    let says = keys(r#",\"capabilities\":{\"maxConnectedClusters\":511}"#);
    assert_eq!(limits(&says), Ok(vec![511, 511]));
    // Without a config, the limit follows from the ID.
    let none = r#"{"cluster":{"name":"b","id":300},"entries":[]}"#;
    assert_eq!(limits(none), Ok(vec![511, 511]));
    // A file that contradicts itself is refused.
    let error = limits(&keys("")).unwrap_err();
    assert!(error.contains("300"), "{error}");
}

#[test]
fn a_cluster_directory_is_read_as_its_daemons_read_it() {
    let folder = Folder::new(&[
        (
            "a/cluster.yaml",
            "name: a\nid: 7\nmaxConnectedClusters: 511\ndefaultGlobalNamespace: false\n",
        ),
        ("a/manifests/x.yaml", NAMESPACE),
        ("a/peers/b.yaml", "endpoints: [x]\n"),
        ("a/users.yaml", "users: []\n"),
        ("a/local.yaml", "endpoints: [x]\n"),
    ]);
    assert_eq!(folder.clusters(), [("a".into(), 7, 1)]);
    let state = folder.read().unwrap();
    let settings = &state.clusters.values().next().unwrap().settings;
    assert!(!settings.default_global_namespace);
}

#[test]
fn a_cluster_may_be_what_its_etcd_holds() {
    let keys = r#"{"cluster":{"name":"b","id":9},"source":[{"key":"k","value":"v"}]}"#;
    let folder = Folder::new(&[("a/x.yaml", NAMESPACE), ("b/keys.json", keys)]);
    assert_eq!(folder.clusters(), [("a".into(), 1, 1), ("b".into(), 9, 1)]);
}

#[test]
fn mistakes_name_their_file() {
    let keys = r#"{"cluster":{"name":"b","id":9},"entries":[]}"#;
    for (files, says) in [
        (&[("readme.txt", "")][..], "there is no cluster in it"),
        (&[("A/x.yaml", NAMESPACE)], "A: \"A\" is not a cluster name"),
        (&[("a/cluster.yaml", "name: b\n")], "a/cluster.yaml: name: \"b\" in the folder of a"),
        (&[("a/cluster.yaml", "id: 0\n")], "a/cluster.yaml: 0 is not a cluster ID"),
        (&[("a/cluster.yaml", "id: x\n")], "a/cluster.yaml: "),
        (&[("a/cluster.yaml", "podCIDR: []\n")], "a/cluster.yaml: "),
        (&[("a/cluster.yaml", "[1]\n")], "a/cluster.yaml: it should be a map"),
        (&[("a/keys.json", keys)], "a/keys.json: cluster.name: b in the folder of a"),
        (
            &[("b/keys.json", keys), ("b/x.yaml", NAMESPACE)],
            "b/keys.json: a keys file beside b/x.yaml",
        ),
        (&[("b/keys.json", r#"{"cluster":{}}"#)], "b/keys.json: not a keys file"),
    ] {
        let error = Folder::new(files).read().unwrap_err();
        assert!(error.contains(says), "{files:?}: {error}");
    }
    let error = State::read(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent: "), "{error}");
    // A document that is not YAML affects no other file and no other cluster.
    let folder =
        Folder::new(&[("a/x.yaml", "a: ["), ("a/y.yaml", NAMESPACE), ("b/x.yaml", NAMESPACE)]);
    assert_eq!(folder.clusters(), [("a".into(), 1, 1), ("b".into(), 2, 1)]);
    let state = folder.read().unwrap();
    let Content::Objects(objects) = &state.clusters.values().next().unwrap().content else {
        panic!("a has objects")
    };
    let says = objects.problems[0].to_string();
    assert!(says.contains("a/x.yaml:1: not YAML: "), "{says}");
}

/// What follows the first field that decides is not looked at before the file is read as what it is.
#[test]
fn a_keys_file_is_known_by_what_it_begins_with() {
    let config = r#"{"key":"cilium/cluster-config/b","value":"{\"id\":9}"}"#;
    for text in [
        format!(r#"{{"cluster":{{"name":"b","id":9}},"entries":[{config}],"kind":"x"}}"#),
        format!(r#"{{"entries":[{config}],"cluster":{{"name":"b","id":9}}}}"#),
        // The keys say whose they are.
        format!(r#"{{"about":"{{}}","entries":[{config}]}}"#),
        format!(r#"{{"source":[{config}]}}"#),
    ] {
        let folder = Folder::new(&[("b/keys.json", &text)]);
        assert_eq!(folder.clusters(), [("b".into(), 9, 1)], "{text}");
    }
    let broken = r#"{"cluster":{"name":"b","id":9},"entries":["#;
    let error = Folder::new(&[("b/keys.json", broken)]).read().unwrap_err();
    assert!(error.starts_with("b/keys.json: not a keys file"), "{error}");
    // A list of objects begins with what API servers write first.
    let list = r#"{"apiVersion":"v1","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}],"kind":"List"}"#;
    let folder = Folder::new(&[("a/list.json", list)]);
    assert_eq!(folder.clusters(), [("a".into(), 1, 1)]);
}

#[test]
fn manifests_at_a_wrong_level_are_named() {
    let folder = Folder::new(&[
        ("web.yaml", NAMESPACE),
        ("events.json", r#"[{"at":"1m","disconnect":"b"}]"#),
        ("a/manifests/x.yaml", NAMESPACE),
        ("a/y.yaml", NAMESPACE),
        ("a/drain.yaml", "cluster: true\n"),
        ("b/x.yaml", NAMESPACE),
    ]);
    let place = format!("{}/", folder.0.path().display());
    let stray: Vec<String> =
        folder.read().unwrap().stray.iter().map(|line| line.replace(&place, "")).collect();
    assert_eq!(
        stray,
        [
            "a/y.yaml: it is not read: the objects of this cluster are in manifests/",
            "web.yaml: it is in no cluster's folder: move it into one",
        ]
    );
}
