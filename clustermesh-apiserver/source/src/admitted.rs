//! Decides which of several conflicting objects are in force.
//!
//! The object that is in force stays. A service with a cluster IP of another service is refused, with a message, until the
//! other one is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_model::object::{self, Kind, Object, ObjectKey, Service};

/// The result of resolving conflicts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The objects in force.
    pub objects: BTreeMap<ObjectKey, Object>,
    /// The objects that are refused, with the reason. Their previous version may be in force.
    pub refused: Vec<(ObjectKey, String)>,
}

/// Refuses services that have a cluster IP of another service, as an API server would. The service that had the address
/// before keeps it, else the first one by name gets it. `before` are the objects in force so far.
///
/// `unreadable` are objects that could not be decoded. A Namespace among them is not exported: it might have the annotation
/// that excludes it.
pub fn admit(
    mut objects: BTreeMap<ObjectKey, Object>,
    unreadable: &BTreeSet<ObjectKey>,
    before: &BTreeMap<ObjectKey, Object>,
) -> Admitted {
    let owned = |key: &ObjectKey, ip: IpAddr| {
        let had = before.get(key).and_then(service);
        had.is_some_and(|service| service.cluster_ips.contains(&ip))
    };
    let mut owners = BTreeMap::<IpAddr, (bool, ObjectKey)>::new();
    for (key, service) in services(&objects) {
        for ip in &service.cluster_ips {
            let claim = (!owned(key, *ip), key.clone());
            let owner = owners.entry(*ip).or_insert_with(|| claim.clone());
            if claim < *owner {
                *owner = claim;
            }
        }
    }
    let mut refused = Vec::new();
    for (key, service) in services(&objects) {
        let taken = service.cluster_ips.iter().find_map(|ip| {
            let (_, owner) = owners.get(ip)?;
            (owner != key).then_some((*ip, owner))
        });
        if let Some((ip, owner)) = taken {
            let of = objects.get(owner).and_then(self::service);
            refused.push((key.clone(), format!("clusterIP: {}", whose(ip, owner, of))));
        }
    }
    for (key, _) in &refused {
        objects.remove(key);
        let free = |service: &Service| {
            let is_free = |ip| owners.get(ip).is_none_or(|(_, owner)| owner == key);
            service.cluster_ips.iter().all(is_free)
        };
        if let Some(former) = before.get(key).filter(|former| service(former).is_some_and(free)) {
            objects.insert(key.clone(), former.clone());
        }
    }
    for key in unreadable.iter().filter(|key| key.kind == Kind::Namespace) {
        objects.entry(key.clone()).or_insert_with(|| closed(&key.name));
    }
    Admitted { objects, refused }
}

/// A message that names the service with an address.
fn whose(ip: IpAddr, owner: &ObjectKey, of: Option<&Service>) -> String {
    let ObjectKey { namespace, name, .. } = owner;
    let port = of.and_then(|service| service.ports.first());
    match (port, ip) {
        (None, _) => format!("{ip} is {namespace}/{name}'s"),
        (Some(port), IpAddr::V4(_)) => {
            format!("{ip}:{}/{} is {namespace}/{name}'s", port.port, port.protocol)
        }
        (Some(port), IpAddr::V6(_)) => {
            format!("[{ip}]:{}/{} is {namespace}/{name}'s", port.port, port.protocol)
        }
    }
}

/// A namespace that is excluded from the mesh.
fn closed(name: &str) -> Object {
    let name = name.to_owned();
    let annotations = [("clustermesh.cilium.io/global".to_owned(), "false".to_owned())].into();
    let labels = [(crate::NAMESPACE_NAME_LABEL.to_owned(), name.clone())].into();
    Object::from(object::Namespace { name, labels, annotations })
}

fn services(objects: &BTreeMap<ObjectKey, Object>) -> impl Iterator<Item = (&ObjectKey, &Service)> {
    objects.iter().filter_map(|(key, object)| Some((key, service(object)?)))
}

fn service(object: &Object) -> Option<&Service> {
    match object {
        Object::Service(service) => Some(service),
        _ => None,
    }
}
