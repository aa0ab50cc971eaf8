//! Fuzz bodies for what a container runtime gives the CNI plugin, and for what the plugin leaves on disk.

#![allow(clippy::expect_used, reason = "a fuzz body fails by panicking")]

use std::path::{Component, Path};

use mesh_cni::{Attachment, AttachmentKey, CniError, CniVersion, Remembered, Request, VariablesOf};
use serde_json::Value;

/// A call: lines of variables like `CNI_COMMAND=ADD`, an empty line, standard input.
///
/// What is passed on is what came; what is answered is JSON; no name leads out of a folder.
pub fn call(data: &[u8]) {
    let at = data.windows(2).position(|pair| pair == b"\n\n");
    let (lines, input) = data.split_at(at.unwrap_or(data.len()));
    let input = input.get(2..).unwrap_or_default();
    let lines = String::from_utf8_lossy(lines);
    let variables = VariablesOf(|name: &str| {
        let mut pairs = lines.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    });
    match Request::read(&variables, input) {
        Ok(Request::Add(add)) => {
            let previous: Value = serde_json::from_slice(input).expect("it was understood");
            let passed: Value = serde_json::from_str(&add.reply).expect("what is passed on");
            assert_eq!(previous.get("prevResult"), Some(&passed));
            assert!(passed.is_object(), "{passed}");
            stays_in_its_folder(&add.key);
        }
        Ok(Request::Delete(delete)) => stays_in_its_folder(&delete.key),
        Ok(Request::Check(check)) => stays_in_its_folder(&check.key),
        Ok(Request::Version) => {}
        Err(error) => answered(&error, CniVersion::of_input(input)),
    }
}

fn stays_in_its_folder(key: &AttachmentKey) {
    let name = key.file_name();
    let mut components = Path::new(&name).components();
    assert!(matches!(components.next(), Some(Component::Normal(_))), "{name:?}");
    assert_eq!(components.next(), None, "{name:?}");
    assert_eq!(AttachmentKey::of_file_name(&name).as_ref(), Some(key));
}

fn answered(error: &CniError, version: CniVersion) {
    let reply: Value = serde_json::from_str(&error.reply(version)).expect("JSON");
    assert_eq!(reply.get("code").and_then(Value::as_u64), Some(error.code().into()));
    assert!(reply.get("details").and_then(Value::as_str).is_some_and(|text| !text.is_empty()));
}

/// An attachment's file: its name, its content, and the content of the file with its last identity, each on a line.
/// What is read is written and read again.
pub fn attachment(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, content) = data.split_at(at);
    let Some(key) = AttachmentKey::of_file_name(&String::from_utf8_lossy(name)) else { return };
    stays_in_its_folder(&key);
    let mut lines = content.get(1..).unwrap_or_default().splitn(2, |byte| *byte == b'\n');
    let Ok(read) = Attachment::decode(&key, lines.next().unwrap_or_default()) else { return };
    if let Some(was) = Remembered::decode(&read, lines.next().unwrap_or_default()) {
        assert_eq!(Remembered::decode(&read, &was.encode()), Some(was));
    }
    assert_eq!(Attachment::decode(&key, &read.encode()).ok(), Some(read));
}

#[cfg(test)]
mod tests {
    use mesh_wire_fuzz::run;

    use super::*;

    const ENVIRONMENT: &str = "CNI_CONTAINERID=0a1b\nCNI_NETNS=/run/netns/x\nCNI_IFNAME=eth0\nCNI_PATH=/usr/lib/cni\nCNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=8f6c";
    const PREVIOUS: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"interface":1,"address":"10.9.0.2/24"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;

    #[test]
    fn calls_survive() {
        let calls = ["ADD", "DEL", "CHECK", "VERSION"].map(|command| {
            let version = if command == "CHECK" { "0.4.0" } else { "1.0.0" };
            let input = format!(
                r#"{{"cniVersion":"{version}","name":"pods","type":"clustermesh-cni","agentSocket":"/a","podsDir":"/p","prevResult":{PREVIOUS}}}"#
            );
            format!("CNI_COMMAND={command}\n{ENVIRONMENT}\n\n{input}").into_bytes()
        });
        run(calls.into(), call);
    }

    #[test]
    fn attachments_survive() {
        let file = r#"{"v":1,"container":"0a1b","interface":"eth0","namespace":"shop","name":"cart-0","uid":"8f6c","netns":"/run/netns/x","netnsInode":4026532000,"netnsCookie":17,"addresses":["10.1.1.2","fd00::2"],"boot":"b00","attachedUnixSeconds":1700000000}"#;
        let was = r#"{"v":1,"namespace":"shop","name":"cart-0","uid":"8f6c","identity":70000}"#;
        run(vec![format!("0a1b@eth0.json\n{file}\n{was}").into_bytes()], attachment);
    }
}
