//! From a manifest's text to objects.

use std::path::Path;

use mesh_model::object::{Kind, Object};
use serde::de::DeserializeOwned;

use crate::kubernetes::{
    CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode, Header, Namespace, Node, Pod,
    Service, Slice,
};

/// How a manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One or more YAML documents.
    Yaml,
    /// One JSON value.
    Json,
}

/// What a manifest holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The objects of kinds we read, with the line each begins at, counted from 1.
    pub objects: Vec<(usize, Object)>,
    /// Objects that are well-formed and cannot be used. The others are used.
    pub rejected: Vec<DecodeProblem>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DecodeProblem {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a manifest. An error means that the text as a whole cannot be trusted; objects of other kinds are passed over.
pub fn decode(format: Format, text: &str) -> Result<Decoded, DecodeProblem> {
    decode_kinds(&Kind::ALL, format, text)
}

/// Reads objects of some kinds, and passes over all others.
pub(crate) fn decode_kinds(
    kinds: &[Kind],
    format: Format,
    text: &str,
) -> Result<Decoded, DecodeProblem> {
    let mut decoded = Decoded::default();
    match format {
        // Nothing is in an empty file, whatever its name: that is how the last object is removed.
        Format::Json if text.trim().is_empty() => {}
        Format::Json => decoded.document(kinds, format, 1, text)?,
        Format::Yaml => {
            for (line, document) in documents(text) {
                decoded.document(kinds, format, line, document)?;
            }
        }
    }
    Ok(decoded)
}

// === impl Format ===

impl Format {
    /// How a file is written, by its name; `None` for one that is no manifest.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Decoded {
    fn document(
        &mut self,
        kinds: &[Kind],
        format: Format,
        line: usize,
        text: &str,
    ) -> Result<(), DecodeProblem> {
        let at =
            |(within, reason): (usize, String)| DecodeProblem { line: line + within - 1, reason };
        let Some(header) = read::<Option<Header>>(format, text).map_err(at)? else { return Ok(()) };
        if header.kind == "List" {
            #[derive(serde::Deserialize)]
            struct List {
                #[serde(default)]
                items: Vec<serde_json::Value>,
            }
            let list: List = read(format, text).map_err(at)?;
            for (index, item) in list.items.into_iter().enumerate() {
                // A value made from text that was read is read again; its lines are gone, so its place is named.
                let item = item.to_string();
                let problem =
                    |(_, reason)| DecodeProblem { line, reason: format!("item {index}: {reason}") };
                let header: Header = read(Format::Json, &item).map_err(problem)?;
                if header.kind.is_empty() || header.kind == "List" {
                    let what = if header.kind.is_empty() { "without a kind" } else { "a List" };
                    let reason = format!("item {index} is {what}: a List holds objects");
                    self.rejected.push(DecodeProblem { line, reason });
                    continue;
                }
                match object(kinds, Format::Json, &header, &item).map_err(problem)? {
                    Some(object) => self.take(line, &header, object),
                    None => continue,
                }
            }
            return Ok(());
        }
        if header.kind.is_empty() {
            let reason = "an object without a kind".into();
            self.rejected.push(DecodeProblem { line, reason });
            return Ok(());
        }
        if let Some(object) = object(kinds, format, &header, text).map_err(at)? {
            self.take(line, &header, object);
        }
        Ok(())
    }

    fn take(&mut self, line: usize, header: &Header, object: Result<Object, String>) {
        let named = if header.metadata.name.is_empty() {
            Err("it has no metadata.name".into())
        } else {
            object
        };
        match named {
            Ok(object) => self.objects.push((line, object)),
            Err(reason) => {
                let (kind, namespace) = (&header.kind, header.metadata.namespace());
                let reason = format!("{kind} {namespace}/{}: {reason}", header.metadata.name);
                self.rejected.push(DecodeProblem { line, reason });
            }
        }
    }
}

/// Reads an object of a kind we know: `None` for the others, the inner error for one that cannot be used.
#[allow(clippy::type_complexity, reason = "three outcomes, each used once")]
fn object(
    kinds: &[Kind],
    format: Format,
    header: &Header,
    text: &str,
) -> Result<Option<Result<Object, String>>, (usize, String)> {
    let Some(kind) = kinds.iter().find(|kind| header.kind == kind.as_str()) else {
        return Ok(None);
    };
    let version = match kind {
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service => "v1",
        Kind::CiliumNode | Kind::CiliumIdentity | Kind::CiliumEndpoint => "cilium.io/v2",
        Kind::CiliumEndpointSlice => "cilium.io/v2alpha1",
    };
    if header.api_version != version {
        let found = &header.api_version;
        return Ok(Some(Err(format!("apiVersion {found:?}: {version} is what is read"))));
    }
    Ok(Some(match kind {
        Kind::Namespace => Ok(read::<Namespace>(format, text)?.into_object()),
        Kind::Node => read::<Node>(format, text)?.into_object(),
        Kind::Pod => read::<Pod>(format, text)?.into_object(),
        Kind::Service => read::<Service>(format, text)?.into_object(),
        Kind::EndpointSlice => Ok(read::<Slice>(format, text)?.into_object()),
        Kind::CiliumNode => read::<CiliumNode>(format, text)?.into_object(),
        Kind::CiliumIdentity => read::<CiliumIdentity>(format, text)?.into_object(),
        Kind::CiliumEndpoint => read::<CiliumEndpoint>(format, text)?.into_object(),
        Kind::CiliumEndpointSlice => read::<CiliumEndpointSlice>(format, text)?.into_object(),
    }))
}

/// Reads a value, or says at which line (counted from 1) what is wrong.
fn read<T: DeserializeOwned>(format: Format, text: &str) -> Result<T, (usize, String)> {
    match format {
        Format::Json => serde_json::from_str(text).map_err(|e| (e.line().max(1), e.to_string())),
        Format::Yaml => serde_saphyr::from_str(text).map_err(|e| {
            let line =
                e.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
            (line.max(1), e.without_snippet().to_string())
        }),
    }
}

/// The documents of a YAML text, each with the line it begins at. A line that begins with `---` always ends a document:
/// YAML allows it nowhere else.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let is_marker =
        |line: &str| line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
    let mut all = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(line.trim_end()) {
            all.push((start_line, text.get(start..at).unwrap_or_default()));
            let rest = line.trim_start_matches('-');
            (start, start_line) = match rest.trim_start() {
                "" => (at + line.len(), number + 1),
                comment if comment.starts_with('#') => (at + line.len(), number + 1),
                // A document may begin behind its marker.
                _ => (at + line.len() - rest.len(), number),
            };
        }
        at += line.len();
    }
    all.push((start_line, text.get(start..).unwrap_or_default()));
    let blank = |document: &str| {
        document.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
    };
    all.retain(|(_, document)| !blank(document));
    all
}

#[cfg(test)]
mod tests {
    use mesh_model::object::TargetPort;

    use super::*;

    const NODE: &str = "apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: z}}
spec: {podCIDR: 10.1.1.0/24, podCIDRs: [10.1.1.0/24, 'fd00:10:1:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 172.31.1.1}
  - {type: Hostname, address: n1}
";

    fn yaml(text: &str) -> Decoded {
        decode(Format::Yaml, text).unwrap()
    }

    #[test]
    fn several_documents_lists_and_unknown_kinds() {
        let text = format!(
            "# a comment\n---\n{NODE}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{replicas: 2}}\n--- # next\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: shop}}\n- {{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop}}}}\n"
        );
        let decoded = yaml(&text);
        let kinds: Vec<_> =
            decoded.objects.iter().map(|(line, o)| (*line, o.key().to_string())).collect();
        let expected = [(3, "Node n1"), (17, "Namespace shop"), (17, "Pod shop/p")];
        assert_eq!(kinds, expected.map(|(line, key)| (line, key.to_owned())));
        let Object::Node(node) = &decoded.objects[0].1 else { panic!("no node") };
        assert_eq!((node.pod_cidrs.len(), node.addresses.len()), (2, 1));
        assert!(yaml("").objects.is_empty());
        let behind =
            yaml("--- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n--- # more\n");
        assert_eq!((behind.objects.len(), behind.objects[0].0), (1, 1));
    }

    #[test]
    fn nothing_is_skipped_without_a_reason_but_other_kinds() {
        let text = "apiVersion: v1\nmetadata: {name: x}\n---\nkind: List\nitems: [{kind: List}, {metadata: {}}]\n";
        let reasons: Vec<String> = yaml(text).rejected.iter().map(ToString::to_string).collect();
        assert_eq!(
            reasons,
            [
                "line 1: an object without a kind",
                "line 4: item 0 is a List: a List holds objects",
                "line 4: item 1 is without a kind: a List holds objects",
            ]
        );
    }

    #[test]
    fn a_pod_says_which_it_is_and_what_it_wants() {
        let pod = |annotations: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, uid: 5b0f2a54, annotations: {annotations}}}\n"
            );
            let Object::Pod(pod) = yaml(&text).objects.remove(0).1 else { panic!("no pod") };
            (pod.uid, pod.socket_lb_off)
        };
        for (annotations, off) in [
            ("{}", false),
            ("{clustermesh.dev/socket-lb: 'off'}", true),
            ("{clustermesh.dev/socket-lb: 'OFF'}", true),
            ("{clustermesh.dev/socket-lb: 'on'}", false),
        ] {
            assert_eq!(pod(annotations), ("5b0f2a54".to_owned(), off), "{annotations}");
        }
    }

    #[test]
    fn json() {
        let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},
            "spec":{"clusterIP":"10.101.0.10","clusterIPs":["10.101.0.10","fd00:100:1::10"],"selector":{"app":"web"},
            "ports":[{"name":"http","port":80,"targetPort":"http"},{"port":53,"protocol":"UDP","targetPort":5353}]}}"#;
        let decoded = decode(Format::Json, text).unwrap();
        let Object::Service(service) = &decoded.objects[0].1 else { panic!("no service") };
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.ports[0].target, TargetPort::Name("http".into()));
        assert_eq!(service.ports[1].target, TargetPort::Number(5353));
        let problem = decode(Format::Json, "{\n\"kind\": 3}").unwrap_err();
        assert_eq!(problem.line, 2);
        assert_eq!(decode(Format::Json, "\n"), Ok(Decoded::default()));
    }

    #[test]
    fn a_broken_text_says_where() {
        let text = format!(
            "{NODE}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nstatus:\n  podIP: nonsense\n"
        );
        let problem = decode(Format::Yaml, &text).unwrap_err();
        assert_eq!(problem.line, 15, "{problem}");
        assert!(decode(Format::Yaml, "a: [").is_err());
        assert!(decode(Format::Yaml, "just text").is_err());
    }

    #[test]
    fn an_object_that_cannot_be_used_rejects_itself() {
        let service = |spec: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
            )
        };
        for (text, says) in [
            (service("{ports: [{port: 80}]}"), "line 1: Service shop/web: it has no clusterIP"),
            (
                service("{clusterIP: 10.0.0.x, ports: []}"),
                "clusterIP \"10.0.0.x\" is no IP address",
            ),
            (
                service("{clusterIP: None, ports: [{port: 80, protocol: QUIC}]}"),
                "\"QUIC\" is no protocol",
            ),
            (
                service("{clusterIP: None, sessionAffinity: Cookie}"),
                "sessionAffinity \"Cookie\": it is None or ClientIP",
            ),
            (
                service(
                    "{clusterIP: None, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
                ),
                "timeoutSeconds 0: it is 1 to 86400",
            ),
            (
                service(
                    "{clusterIP: None, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}",
                ),
                "timeoutSeconds 86401: it is 1 to 86400",
            ),
            (
                service("{clusterIP: None, internalTrafficPolicy: Nearest}"),
                "internalTrafficPolicy \"Nearest\": it is Cluster or Local",
            ),
            (
                service("{clusterIP: None, ipFamilies: [IPv5]}"),
                "ipFamilies \"IPv5\": each is IPv4 or IPv6",
            ),
            (NODE.replace("v1", "v2"), "apiVersion \"v2\""),
            (NODE.replace("n1,", "'',"), "no metadata.name"),
            (NODE.replace("172.31.1.1", "x"), "\"x\" is no IP address"),
        ] {
            let decoded = yaml(&format!("{text}---\n{NODE}"));
            assert_eq!(decoded.objects.len(), 1, "{text}");
            let problem = decoded.rejected[0].to_string();
            assert!(problem.contains(says), "{problem}");
        }
    }

    #[test]
    fn objects_of_a_cilium_that_cannot_be_used_reject_themselves() {
        let object =
            |kind: &str, rest: &str| format!("apiVersion: cilium.io/v2\nkind: {kind}\n{rest}\n");
        let node =
            |spec: &str| object("CiliumNode", &format!("metadata: {{name: n1}}\nspec: {spec}"));
        let endpoint = |status: &str| {
            object(
                "CiliumEndpoint",
                &format!("metadata: {{name: p, namespace: shop}}\nstatus: {status}"),
            )
        };
        for (text, says) in [
            (node("{addresses: [{type: InternalIP, ip: x}]}"), "CiliumNode default/n1: \"x\" is no IP address"),
            (node("{ipam: {podCIDRs: [10.0.0.0/33]}}"), "\"10.0.0.0/33\" is no pod range"),
            (node("{health: {ipv4: y}}"), "\"y\" is no IP address"),
            (node("{encryption: {key: 256}}"), "encryption.key 256: it is 0 to 255"),
            (object("CiliumIdentity", "metadata: {name: x}"), "its name is no identity ID"),
            (object("CiliumIdentity", "metadata: {name: '0458753'}"), "its name is no identity ID"),
            (object("CiliumIdentity", "metadata: {name: '4294967296'}"), "its name is no identity ID"),
            (endpoint("{identity: {id: -1}}"), "-1 is no identity"),
            (endpoint("{networking: {node: n1}}"), "\"n1\" is no IP address"),
            (object("CiliumEndpointSlice", "metadata: {name: s}"), "cilium.io/v2alpha1 is what is read"),
            (
                "apiVersion: cilium.io/v2alpha1\nkind: CiliumEndpointSlice\nmetadata: {name: s}\n".into(),
                "it has no namespace",
            ),
            (
                "apiVersion: cilium.io/v2alpha1\nkind: CiliumEndpointSlice\nmetadata: {name: s}\nnamespace: shop\nendpoints: [{name: p, encryption: {key: -1}}]\n".into(),
                "endpoint \"p\": encryption.key -1",
            ),
        ] {
            let decoded = yaml(&format!("{text}---\n{NODE}"));
            assert_eq!(decoded.objects.len(), 1, "{text}");
            let problem = decoded.rejected[0].to_string();
            assert!(problem.contains(says), "{problem}");
        }
    }

    #[test]
    fn kinds_that_are_not_asked_for_are_passed_over_unread() {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n1}}\nspec: 7\n---\n{NODE}"
        );
        let decoded = decode_kinds(&Kind::KUBERNETES, Format::Yaml, &text).unwrap();
        assert_eq!((decoded.objects.len(), decoded.rejected.len()), (1, 0));
        assert!(decode(Format::Yaml, &text).is_err());
    }
}
