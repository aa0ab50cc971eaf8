//! Which objects of several are in force, where not all can be.
//!
//! What is in force stays: a copy that turns up, or a service with another's address, is named and waits until the first is
//! gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_model::object::{self, Kind, Object, ObjectKey, Service};

/// What came of a set of objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The objects in force.
    pub objects: BTreeMap<ObjectKey, Object>,
    /// Those that are not as they were given, and why.
    pub refused: Vec<(ObjectKey, String)>,
}

/// Takes out services that have an address of another one, as an API server would. The one that had it before keeps it;
/// where none had, the first by name gets it. `before` is what was in force.
///
/// `unreadable` are objects that were refused by themselves. A Namespace among them takes no part: what it was to say could
/// be just that.
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

/// In words: whose an address is.
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

/// A namespace that takes no part.
fn closed(name: &str) -> Object {
    let name = name.to_owned();
    let annotations = [("clustermesh.cilium.io/global".to_owned(), "false".to_owned())].into();
    let labels = [(crate::NAMESPACE_NAME_LABEL.to_owned(), name.clone())].into();
    Object::Namespace(object::Namespace { name, labels, annotations })
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
