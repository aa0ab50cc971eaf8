//! Why no cluster has a backend for a service: what each of them has.

use mesh_model::{
    ClusterName, ServiceName,
    lb::Frontend,
    object::{Kind, Object, ObjectKey},
};
use mesh_source::picks;

use crate::{
    cluster::Cluster,
    exports::Offers,
    simulation::{Exporter, Simulation},
};

impl Simulation {
    /// A sentence about each cluster, the local one first.
    pub(crate) fn without_backends(&self, service: &ServiceName, frontend: &Frontend) -> String {
        let is_refused = |name: &ClusterName| {
            self.refused_services.contains_key(&(name.clone(), service.clone()))
        };
        let of = |(name, exporter): (&ClusterName, &Exporter)| match exporter {
            Exporter::Objects(_) if is_refused(name) => format!("the Service of {name} is refused"),
            Exporter::Objects(cluster) => of_objects(name, cluster, service, frontend),
            Exporter::Keys(_) if Offers::of(exporter, service).has_service => {
                format!("{name} exports service {service} without endpoints")
            }
            Exporter::Keys(_) => format!("{name} exports no service {service}"),
        };
        let (local, others): (Vec<_>, Vec<_>) =
            self.exporters.iter().partition(|(name, _)| *name == self.local());
        local.into_iter().chain(others).map(of).collect::<Vec<_>>().join("; ")
    }
}

fn of_objects(
    name: &ClusterName,
    cluster: &Cluster,
    service: &ServiceName,
    frontend: &Frontend,
) -> String {
    let ServiceName { namespace, name: service_name } = service;
    let key = ObjectKey {
        kind: Kind::Service,
        namespace: (**namespace).into(),
        name: (**service_name).into(),
    };
    let Some(Object::Service(object)) = cluster.objects().get(&key) else {
        return format!("{name} has no service {service}");
    };
    // Slices that follow from a selector have endpoints.
    let is_given = |object: &Object| {
        matches!(object, Object::EndpointSlice(slice)
            if slice.endpoints.is_empty() && slice.service().as_ref() == Some(service))
    };
    if object.selector.is_empty() || cluster.objects().values().any(is_given) {
        return format!("{name} has service {service} without endpoints");
    }
    let labels = object.selector.iter().map(|(key, value)| format!("{key}={value}"));
    let labels = labels.collect::<Vec<_>>().join(",");
    let picked = cluster.objects().values().any(|other| match other {
        Object::Pod(pod) => picks(object, pod),
        _ => false,
    });
    let family = if frontend.address.is_ipv4() { "IPv4" } else { "IPv6" };
    match picked {
        false => format!("no pod in {name} matches {labels} in namespace {namespace}"),
        true => format!(
            "no pod in {name} that matches {labels} in namespace {namespace} runs with an {family} address"
        ),
    }
}
