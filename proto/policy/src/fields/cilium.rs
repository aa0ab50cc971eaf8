//! The fields of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`cilium.io/v2`), whose schemas are the same.

use super::Field;

const L7: &str =
    "rules of layer 7 need a proxy; allow the port without them, or leave the policy to Cilium";
const TLS: &str = "TLS contexts need a proxy, which the mesh has not";
const NODES: &str = "nodes are not selected by labels; use the entities host and remote-node";
const GROUPS: &str = "groups of a cloud provider are not resolved; list their addresses as CIDRs";
const REQUIRES: &str = "Cilium has removed it; put its labels into each selector";
const CIDR_GROUPS: &str = "CiliumCIDRGroups are not read; list their ranges as cidr";

pub(super) const SELECTORS: &[&str] = &[
    "spec.endpointSelector",
    "spec.{ingress,ingressDeny}[].fromEndpoints[]",
    "spec.{egress,egressDeny}[].toEndpoints[]",
    "spec.{egress,egressDeny}[].toServices[].k8sServiceSelector.selector",
];

/// `spec` stands for each of `specs` too.
pub(super) const FIELDS: &[Field] = &[
    Field::done("{apiVersion,kind,metadata,spec,specs}"),
    Field::done("metadata.{name,namespace}"),
    Field::no_effect("metadata.*", "it describes the object"),
    Field::no_effect("status", "it is written by controllers"),
    Field::done("spec.endpointSelector"),
    Field::refused(
        "spec.nodeSelector",
        "policies of hosts are not enforced; only pods are selected",
    ),
    Field::no_effect("spec.description", "it is for people"),
    Field::no_effect("spec.labels", "they only name the rule"),
    Field::no_effect("spec.log", "it only marks flows in Hubble"),
    Field::done("spec.enableDefaultDeny"),
    Field::done("spec.enableDefaultDeny.{ingress,egress}"),
    Field::done("spec.{ingress,ingressDeny,egress,egressDeny}"),
    Field::done("spec.{ingress,ingressDeny}[].{fromEndpoints,fromEntities,fromCIDR,fromCIDRSet}"),
    Field::done("spec.{egress,egressDeny}[].{toEndpoints,toEntities,toCIDR,toCIDRSet,toServices}"),
    Field::refused("spec.{ingress,ingressDeny}[].fromNodes", NODES),
    Field::refused("spec.{egress,egressDeny}[].toNodes", NODES),
    Field::refused("spec.{ingress,ingressDeny}[].fromGroups", GROUPS),
    Field::refused("spec.{egress,egressDeny}[].toGroups", GROUPS),
    Field::refused("spec.{ingress,ingressDeny}[].fromRequires", REQUIRES),
    Field::refused("spec.{egress,egressDeny}[].toRequires", REQUIRES),
    Field::refused(
        "spec.egress[].toFQDNs",
        "names need a DNS proxy, which the mesh has not; list addresses as CIDRs",
    ),
    Field::refused(
        "spec.{ingress,egress}[].authentication",
        "mutual authentication of flows is not enforced",
    ),
    Field::done("spec.{ingress,ingressDeny}[].fromCIDRSet[].{cidr,except}"),
    Field::done("spec.{egress,egressDeny}[].toCIDRSet[].{cidr,except}"),
    Field::refused(
        "spec.{ingress,ingressDeny}[].fromCIDRSet[].{cidrGroupRef,cidrGroupSelector}",
        CIDR_GROUPS,
    ),
    Field::refused(
        "spec.{egress,egressDeny}[].toCIDRSet[].{cidrGroupRef,cidrGroupSelector}",
        CIDR_GROUPS,
    ),
    Field::done("spec.{egress,egressDeny}[].toServices[].{k8sService,k8sServiceSelector}"),
    Field::done("spec.{egress,egressDeny}[].toServices[].k8sService.{serviceName,namespace}"),
    Field::done("spec.{egress,egressDeny}[].toServices[].k8sServiceSelector.{selector,namespace}"),
    Field::done("spec.{ingress,ingressDeny,egress,egressDeny}[].{icmps,toPorts}"),
    Field::done("spec.{ingress,ingressDeny,egress,egressDeny}[].icmps[].fields"),
    Field::done("spec.{ingress,ingressDeny,egress,egressDeny}[].icmps[].fields[].{family,type}"),
    Field::done("spec.{ingress,ingressDeny,egress,egressDeny}[].toPorts[].ports"),
    Field::done(
        "spec.{ingress,ingressDeny,egress,egressDeny}[].toPorts[].ports[].{port,endPort,protocol}",
    ),
    Field::refused("spec.{ingress,egress}[].toPorts[].rules", L7),
    Field::refused(
        "spec.{ingress,egress}[].toPorts[].serverNames",
        "names in TLS need a proxy, which the mesh has not",
    ),
    Field::refused(
        "spec.{ingress,egress}[].toPorts[].listener",
        "listeners are Envoy's, which the mesh has not",
    ),
    Field::refused("spec.{ingress,egress}[].toPorts[].{terminatingTLS,originatingTLS}", TLS),
    Field::done("<selector>.{matchLabels,matchExpressions}"),
    Field::done("<selector>.matchExpressions[].{key,operator,values}"),
    Field::refused(
        "<selector>.matchCELExpression",
        "expressions are not evaluated; select by labels",
    ),
];
