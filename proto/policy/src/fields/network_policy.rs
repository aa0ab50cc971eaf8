//! The fields of a NetworkPolicy (`networking.k8s.io/v1`).

use super::Field;

pub(super) const SELECTORS: &[&str] = &[
    "spec.podSelector",
    "spec.ingress[].from[].{podSelector,namespaceSelector}",
    "spec.egress[].to[].{podSelector,namespaceSelector}",
];

pub(super) const FIELDS: &[Field] = &[
    Field::done("{apiVersion,kind,metadata,spec}"),
    Field::done("metadata.{name,namespace}"),
    Field::no_effect("metadata.*", "it describes the object"),
    Field::no_effect("status", "it is written by controllers"),
    Field::done("spec.{podSelector,policyTypes,ingress,egress}"),
    Field::done("spec.ingress[].{from,ports}"),
    Field::done("spec.egress[].{to,ports}"),
    Field::done("spec.ingress[].from[].{podSelector,namespaceSelector,ipBlock}"),
    Field::done("spec.egress[].to[].{podSelector,namespaceSelector,ipBlock}"),
    Field::done("spec.ingress[].from[].ipBlock.{cidr,except}"),
    Field::done("spec.egress[].to[].ipBlock.{cidr,except}"),
    Field::done("spec.{ingress,egress}[].ports[].{port,endPort,protocol}"),
    Field::done("<selector>.{matchLabels,matchExpressions}"),
    Field::done("<selector>.matchExpressions[].{key,operator,values}"),
];
