//! Finds misspelt fields.
//!
//! An unknown field may come from a newer Kubernetes, so it is only an error if it looks like a known field.

use serde_json::Value;
use strsim::osa_distance;

use super::tree;

/// The fields of Kubernetes at a path of an object. `[]` matches each entry of a list.
type Fields = (&'static str, &'static [&'static str]);

const OBJECT: Fields = ("", &["apiVersion", "kind", "metadata", "spec", "status"]);
const METADATA: Fields = (
    "metadata",
    &[
        "annotations",
        "clusterName",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ],
);

const NODE: &[Fields] = &[
    OBJECT,
    METADATA,
    (
        "spec",
        &[
            "configSource",
            "externalID",
            "podCIDR",
            "podCIDRs",
            "providerID",
            "taints",
            "unschedulable",
        ],
    ),
    (
        "status",
        &[
            "addresses",
            "allocatable",
            "capacity",
            "conditions",
            "config",
            "daemonEndpoints",
            "declaredFeatures",
            "features",
            "images",
            "nodeInfo",
            "phase",
            "runtimeHandlers",
            "volumesAttached",
            "volumesInUse",
        ],
    ),
    ("status.addresses[]", &["address", "type"]),
];

const POD: &[Fields] = &[
    OBJECT,
    METADATA,
    (
        "spec",
        &[
            "activeDeadlineSeconds",
            "affinity",
            "automountServiceAccountToken",
            "containers",
            "dnsConfig",
            "dnsPolicy",
            "enableServiceLinks",
            "ephemeralContainers",
            "hostAliases",
            "hostIPC",
            "hostNetwork",
            "hostPID",
            "hostUsers",
            "hostname",
            "hostnameOverride",
            "imagePullSecrets",
            "initContainers",
            "nodeName",
            "nodeSelector",
            "os",
            "overhead",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "readinessGates",
            "resourceClaims",
            "resources",
            "restartPolicy",
            "runtimeClassName",
            "schedulerName",
            "schedulingGates",
            "securityContext",
            "serviceAccount",
            "serviceAccountName",
            "setHostnameAsFQDN",
            "shareProcessNamespace",
            "subdomain",
            "terminationGracePeriodSeconds",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        ],
    ),
    ("spec.containers[].ports[]", &["containerPort", "hostIP", "hostPort", "name", "protocol"]),
    (
        "status",
        &[
            "conditions",
            "containerStatuses",
            "ephemeralContainerStatuses",
            "hostIP",
            "hostIPs",
            "initContainerStatuses",
            "message",
            "nominatedNodeName",
            "observedGeneration",
            "phase",
            "podIP",
            "podIPs",
            "qosClass",
            "reason",
            "resize",
            "resourceClaimStatuses",
            "resources",
            "startTime",
        ],
    ),
    ("status.podIPs[]", &["ip"]),
];

const SERVICE: &[Fields] = &[
    OBJECT,
    METADATA,
    (
        "spec",
        &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamily",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "topologyKeys",
            "trafficDistribution",
            "type",
        ],
    ),
    ("spec.ports[]", &["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"]),
    ("spec.sessionAffinityConfig", &["clientIP"]),
    ("spec.sessionAffinityConfig.clientIP", &["timeoutSeconds"]),
];

const SLICE: &[Fields] = &[
    ("", &["addressType", "apiVersion", "endpoints", "kind", "metadata", "ports"]),
    METADATA,
    (
        "endpoints[]",
        &[
            "addresses",
            "conditions",
            "deprecatedTopology",
            "hints",
            "hostname",
            "nodeName",
            "targetRef",
            "zone",
        ],
    ),
    ("endpoints[].conditions", &["ready", "serving", "terminating"]),
    ("endpoints[].hints", &["forNodes", "forZones"]),
    ("ports[]", &["appProtocol", "name", "port", "protocol"]),
];

const ENDPOINTS: &[Fields] = &[
    ("", &["apiVersion", "kind", "metadata", "subsets"]),
    METADATA,
    ("subsets[]", &["addresses", "notReadyAddresses", "ports"]),
    ("subsets[].addresses[]", &["hostname", "ip", "nodeName", "targetRef"]),
    ("subsets[].ports[]", &["appProtocol", "name", "port", "protocol"]),
];

const LIST: &[Fields] = &[("", &["apiVersion", "items", "kind", "metadata"])];

/// What is wrong, and where.
struct Problem {
    path: String,
    reason: String,
}

/// A message about the first misspelt or duplicate field of a List, without its items.
pub(super) fn misspelt_list(value: &Value) -> Option<String> {
    let fields = value.as_object()?.iter().filter(|(name, _)| *name != "items");
    let fields = Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect());
    let twice = tree::twice(&fields).map(|field| format!("{field} occurs twice"));
    twice.or_else(|| first(LIST, &fields))
}

/// A message about the first misspelt field, with the field that is probably meant.
pub(super) fn misspelt(kind: &str, value: &Value) -> Option<String> {
    let fields = match kind {
        "Namespace" => &[OBJECT, METADATA],
        "Node" => NODE,
        "Pod" => POD,
        "Service" => SERVICE,
        "EndpointSlice" => SLICE,
        "Endpoints" => ENDPOINTS,
        _ => return None,
    };
    first(fields, value)
}

/// A message about the first problem of an object.
fn first(fields: &[Fields], value: &Value) -> Option<String> {
    within(fields, value, &mut String::new())
        .map(|Problem { path, reason }| format!("{path}: {reason}"))
}

/// The known word that a misspelt one probably means, if there is one.
pub(crate) fn meant<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let most = if found.chars().count() <= 5 { 1 } else { 2 };
    let small = found.to_ascii_lowercase();
    let near = known.iter().map(|known| {
        // A difference in case counts as one letter.
        let distance = osa_distance(found, known);
        (distance.min(osa_distance(&small, &known.to_ascii_lowercase()) + 1), *known)
    });
    near.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
}

/// The first problem below a value. `sort` is the path of the value, with `[]` instead of indices. The exact path is only
/// built if there is a problem.
fn within(fields: &[Fields], value: &Value, sort: &mut String) -> Option<Problem> {
    let length = sort.len();
    let known = fields.iter().find(|(at, _)| at == sort).map(|(_, known)| *known);
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            if let Some(known) = known
                && !known.contains(&name.as_str())
            {
                let meant = meant(name, known)?;
                return Some(Problem::at(name, format!("did you mean {meant}?")));
            }
            if !sort.is_empty() {
                sort.push('.');
            }
            sort.push_str(name);
            let problem = within(fields, value, sort);
            sort.truncate(length);
            problem.map(|problem| problem.below(name))
        }),
        // An object with known fields must not be a list.
        Value::Array(_) if known.is_some() => {
            Some(Problem::at("", "a list is not an object with fields".into()))
        }
        Value::Array(list) => {
            sort.push_str("[]");
            let mut values = (0..).zip(list);
            let problem = values.find_map(|(index, value): (usize, _)| {
                within(fields, value, sort).map(|problem| problem.below(&format!("[{index}]")))
            });
            sort.truncate(length);
            problem
        }
        _ => None,
    }
}

// === impl Problem ===

impl Problem {
    fn at(path: &str, reason: String) -> Self {
        Self { path: path.to_owned(), reason }
    }

    /// The same problem, seen from the value that contains this one as a field or entry.
    fn below(self, name: &str) -> Self {
        Self { path: tree::path(name, &self.path), ..self }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_look_like_known_ones_are_misspelt() {
        for (kind, value, says) in [
            ("Service", json!({"spec": {"port": 80}}), Some("spec.port: did you mean ports?")),
            (
                "Service",
                json!({"spec": {"clusterIp": "x"}}),
                Some("spec.clusterIp: did you mean clusterIP?"),
            ),
            ("Service", json!({"sepc": {}}), Some("sepc: did you mean spec?")),
            (
                "Service",
                json!({"spec": {"ports": [{}, {"taretPort": 1}]}}),
                Some("spec.ports[1].taretPort: did you mean targetPort?"),
            ),
            (
                "EndpointSlice",
                json!({"endpoints": [{"adresses": []}]}),
                Some("endpoints[0].adresses: did you mean addresses?"),
            ),
            (
                "Pod",
                json!({"metadata": {"lables": {}}}),
                Some("metadata.lables: did you mean labels?"),
            ),
            // Known fields, fields of a newer Kubernetes, and names that users choose.
            ("Service", json!({"spec": {"ipFamilyPolicy": "x", "newThing": 1}}), None),
            (
                "Service",
                json!({"metadata": {"labels": {"nam": "x"}}, "spec": {"selector": {"por": "x"}}}),
                None,
            ),
            ("Pod", json!({"status": {"hostIP": "x", "hostIPs": []}}), None),
            ("CiliumNode", json!({"sepc": {}}), None),
        ] {
            assert_eq!(misspelt(kind, &value).as_deref(), says, "{kind} {value}");
        }
    }
}
