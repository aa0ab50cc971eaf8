use std::collections::BTreeMap;

use super::*;
use crate::{environment::VariablesOf, reply::version_reply};

/// The output of Debian's ptp, with a field of another plugin.
const PTP: &str = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "veth801be3bb", "mac": "36:2c:fb:4d:b1:0a"},
  {"name": "eth0", "mac": "5a:30:e4:d2:a8:ac", "sandbox": "/run/netns/x"}],
  "ips": [{"interface": 1, "address": "10.9.0.2/24", "gateway": "10.9.0.1"}, {"interface": 1, "address": "fd00:9::2/64"}],
  "routes": [{"dst": "0.0.0.0/0"}], "dns": {}, "ours": {"z": 1, "a": 18446744073709551616}}"#;

fn environment(command: &str) -> BTreeMap<&str, &str> {
    BTreeMap::from([
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "0a1b"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/usr/lib/cni"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=8f6c;K8S_POD_INFRA_CONTAINER_ID=0a1b",
        ),
    ])
}

fn read(environment: &BTreeMap<&str, &str>, input: &str) -> Result<Request, CniError> {
    let variables = VariablesOf(|name: &str| environment.get(name).map(|v| (*v).to_owned()));
    Request::read(&variables, input.as_bytes())
}

/// A configuration of a version with a result of the plugins before.
fn chained(version: &str, previous: &str) -> String {
    format!(
        r#"{{"cniVersion":"{version}","name":"pods","type":"clustermesh-cni","prevResult":{previous}}}"#
    )
}

fn added(input: &str) -> Result<Add, CniError> {
    match read(&environment("ADD"), input)? {
        Request::Add(add) => Ok(*add),
        other => panic!("{other:?}"),
    }
}

#[test]
fn add_passes_on_the_previous_result_unchanged() {
    let add = added(&chained("1.0.0", PTP)).unwrap();
    assert_eq!(add.reply, PTP, "byte for byte");
    assert_eq!(add.pod, PodName::new("shop", "cart-0").unwrap());
    assert_eq!(add.uid, "8f6c");
    assert_eq!(add.netns, PathBuf::from("/run/netns/x"));
    assert_eq!((add.key.container(), add.key.interface()), ("0a1b", "eth0"));
    assert_eq!(add.addresses, ["10.9.0.2", "fd00:9::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let Configuration { version, network, agent_socket, pods_dir, .. } = add.configuration;
    assert_eq!((version, network.as_str()), (CniVersion::V1_0_0, "pods"));
    assert_eq!(agent_socket, PathBuf::from("/run/clustermesh/agent.sock"));
    assert_eq!(pods_dir, PathBuf::from("/run/clustermesh/pods"));
}

#[test]
fn addresses_are_the_pods_and_of_its_interface() {
    // 0.3.1 has a version with each address, and older plugins name no interface.
    let previous = r#"{"ips":[{"version":"4","address":"10.9.0.2/24"}]}"#;
    for version in ["0.3.1", "0.4.0"] {
        let add = added(&chained(version, previous)).unwrap();
        assert_eq!(add.addresses, ["10.9.0.2".parse::<IpAddr>().unwrap()]);
    }
    let others = r#"{"interfaces":[{"name":"eth0"},{"name":"eth1","sandbox":"/n"},{"name":"eth0","sandbox":"/n"}],
        "ips":[{"interface":0,"address":"10.9.0.1/24"},{"interface":1,"address":"10.8.0.2/24"},{"interface":2,"address":"10.9.0.2/24"}]}"#;
    let add = added(&chained("1.0.0", others)).unwrap();
    assert_eq!(add.addresses, ["10.9.0.2".parse::<IpAddr>().unwrap()]);
    assert!(added(&chained("1.0.0", "{}")).unwrap().addresses.is_empty());
}

#[test]
fn the_agents_places_may_be_elsewhere() {
    let input = r#"{"cniVersion":"1.0.0","name":"pods","agentSocket":"/a.sock","podsDir":"/p","prevResult":{}}"#;
    let add = added(input).unwrap();
    assert_eq!(add.configuration.agent_socket, PathBuf::from("/a.sock"));
    assert_eq!(add.configuration.pods_dir, PathBuf::from("/p"));
}

#[test]
fn errors_name_the_field_and_have_the_specifications_codes() {
    let of = |input: &str| {
        let error = added(input).unwrap_err();
        (error.code(), error.to_string())
    };
    let cases = [
        ("", 6, "the network configuration is not understood: EOF"),
        ("[1]", 6, "the network configuration is not understood: invalid type"),
        ("[]", 6, "the network configuration is not understood: it is no object"),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","prevResult":[]}"#,
            6,
            "the network configuration is not understood: prevResult: it is no object",
        ),
        (r#"{"name":"pods"}"#, 7, "cniVersion: it is missing"),
        (
            r#"{"cniVersion":"0.2.0","name":"pods"}"#,
            1,
            "CNI version \"0.2.0\": this plugin supports 0.3.1, 0.4.0, 1.0.0",
        ),
        (r#"{"cniVersion":"1.0.0"}"#, 7, "name: the network has none"),
        (
            r#"{"cniVersion":"1.0.0","name":"pods"}"#,
            7,
            "prevResult: it is missing: this plugin makes no interface",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","prevResult":null}"#,
            7,
            "prevResult: it is missing",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","agentSocket":"run/x"}"#,
            7,
            "agentSocket: \"run/x\" is not an absolute path",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","prevResult":{"ips":[{"address":"10.0.0.1/33"}]}}"#,
            7,
            "prevResult.ips[0].address: \"10.0.0.1/33\" is no address",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","prevResult":{"ips":[{"address":"10.0.0.1/32","interface":-1}]}}"#,
            7,
            "prevResult.ips[0].interface: -1 is none of 0 interfaces",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"pods","prevResult":{"ips":7}}"#,
            6,
            "the network configuration is not understood: prevResult: invalid type",
        ),
    ];
    for (input, code, text) in cases {
        let (found, message) = of(input);
        assert_eq!(found, code, "{input}: {message}");
        assert!(message.starts_with(text), "{input}: {message}");
    }
    let many = vec![r#"{"address":"10.0.0.1/32"}"#; 65].join(",");
    let (code, message) = of(&chained("1.0.0", &format!(r#"{{"ips":[{many}]}}"#)));
    assert_eq!(
        (code, message.as_str()),
        (7, "prevResult.ips: 65 are more than the 64 that a pod may have")
    );
    let (code, message) = of(&" ".repeat(MAX_INPUT + 1));
    assert_eq!(code, 6);
    assert!(message.ends_with("it has more than 1048576 bytes"), "{message}");
}

#[test]
fn the_environment_is_checked_variable_by_variable() {
    let long = "n".repeat(65);
    let long_says = format!("CNI_NETNS: \"{}…\" is not", "n".repeat(64));
    let cases = [
        ("CNI_COMMAND", None, "CNI_COMMAND: it is not set"),
        ("CNI_COMMAND", Some("GC"), "CNI_COMMAND: \"GC\" is none of ADD, DEL, CHECK, VERSION"),
        (
            "CNI_CONTAINERID",
            Some("../../etc/x"),
            "CNI_CONTAINERID: \"../../etc/x\" is no container id",
        ),
        ("CNI_CONTAINERID", Some(""), "CNI_CONTAINERID: it is not set"),
        ("CNI_IFNAME", Some("eth/0"), "CNI_IFNAME: \"eth/0\" is no interface"),
        ("CNI_NETNS", None, "CNI_NETNS: it is not set"),
        ("CNI_NETNS", Some("netns/x"), "CNI_NETNS: \"netns/x\" is not the absolute path of a file"),
        ("CNI_NETNS", Some(long.as_str()), long_says.as_str()),
        ("CNI_ARGS", None, "CNI_ARGS: it is not set"),
        ("CNI_ARGS", Some("K8S_POD_NAME=x"), "CNI_ARGS: no K8S_POD_NAMESPACE"),
        ("CNI_ARGS", Some("K8S_POD_NAMESPACE=x;K8S_POD_NAME="), "CNI_ARGS: no K8S_POD_NAME"),
        (
            "CNI_ARGS",
            Some("K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=x"),
            "CNI_ARGS: \"a/b\" is no namespace",
        ),
        (
            "CNI_ARGS",
            Some("K8S_POD_NAMESPACE=a;K8S_POD_NAME=X"),
            "CNI_ARGS: \"X\" is no name of a pod",
        ),
        (
            "CNI_ARGS",
            Some("K8S_POD_NAMESPACE=a;K8S_POD_NAME=x;K8S_POD_UID=a\nb"),
            "CNI_ARGS: K8S_POD_UID \"a\\nb\" is no uid",
        ),
    ];
    for (variable, value, text) in cases {
        let mut environment = environment("ADD");
        match value {
            Some(value) => environment.insert(variable, value),
            None => environment.remove(variable),
        };
        let error = read(&environment, &chained("1.0.0", PTP)).unwrap_err();
        assert_eq!(error.code(), 4, "{error}");
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn del_needs_nothing_but_its_key() {
    let mut environment = environment("DEL");
    environment.retain(|name, _| matches!(*name, "CNI_COMMAND" | "CNI_CONTAINERID" | "CNI_IFNAME"));
    let request = read(&environment, r#"{"cniVersion":"0.3.1","name":"pods"}"#).unwrap();
    let Request::Delete(delete) = request else { panic!("{request:?}") };
    assert_eq!(delete.key, AttachmentKey::new("0a1b", "eth0").unwrap());
    assert_eq!(delete.configuration.previous, None);
}

#[test]
fn check_wants_a_version_that_has_it_and_what_was_there() {
    let request = read(&environment("CHECK"), &chained("0.4.0", PTP)).unwrap();
    let Request::Check(check) = request else { panic!("{request:?}") };
    assert_eq!(check.addresses.len(), 2);
    let old = read(&environment("CHECK"), &chained("0.3.1", PTP)).unwrap_err();
    assert_eq!(
        (old.code(), old.to_string().as_str()),
        (1, "CNI version \"0.3.1\": it has no CHECK")
    );
    let nothing = read(&environment("CHECK"), r#"{"cniVersion":"1.0.0","name":"pods"}"#);
    assert_eq!(nothing.unwrap_err().code(), 7);
}

#[test]
fn version_needs_nothing() {
    let environment = BTreeMap::from([("CNI_COMMAND", "VERSION")]);
    assert_eq!(read(&environment, ""), Ok(Request::Version));
    assert_eq!(
        version_reply(CniVersion::of_input(br#"{"cniVersion":"0.4.0"}"#)),
        r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}"#
    );
    for input in ["", "nonsense", r#"{"cniVersion":"9.9"}"#, r#"{"cniVersion":1}"#] {
        assert_eq!(CniVersion::of_input(input.as_bytes()), CniVersion::V1_0_0, "{input}");
    }
}

#[test]
fn an_error_is_written_as_the_specification_has_it() {
    let error = added(r#"{"cniVersion":"0.4.0","name":"pods"}"#).unwrap_err();
    assert_eq!(
        error.reply(CniVersion::V0_4_0),
        r#"{"cniVersion":"0.4.0","code":7,"msg":"invalid network config","details":"prevResult: it is missing: this plugin makes no interface, and belongs behind one in a chain that does"}"#
    );
}
