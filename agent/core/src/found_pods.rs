//! Network namespaces of this node's pods, found where the container runtime has them. The address says which pod it is,
//! where the CNI plugin did not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_model::LocalPod;
use mesh_pods::{Attachment, AttachmentKey, PodName, PodNetns};

/// The namespaces, and the attachments that were made of them.
#[derive(Debug, Default)]
pub(crate) struct FoundPods {
    /// By inode.
    namespaces: BTreeMap<u64, PodNetns>,
    by_address: BTreeMap<IpAddr, u64>,
    /// By the inode of the namespace.
    attached: BTreeMap<u64, AttachmentKey>,
}

impl FoundPods {
    /// All that there are now. Returns the attachments that were made of others, which are gone or have changed.
    pub(crate) fn set(&mut self, found: Vec<PodNetns>) -> Vec<AttachmentKey> {
        let found: BTreeMap<u64, PodNetns> =
            found.into_iter().map(|found| (found.netns.inode, found)).collect();
        let is_gone = |inode: &u64| self.namespaces.get(inode) != found.get(inode);
        let gone: Vec<u64> = self.attached.keys().copied().filter(is_gone).collect();
        let gone = gone.iter().filter_map(|inode| self.attached.remove(inode)).collect();
        self.by_address = found
            .iter()
            .flat_map(|(inode, found)| found.addresses.iter().map(|address| (*address, *inode)))
            .collect();
        self.namespaces = found;
        gone
    }

    /// The attachment of a pod that has the address of a namespace; `None` if none has, or if it is of `others`: the inodes
    /// that the plugin reported.
    pub(crate) fn attachment_of(
        &self,
        pod: &LocalPod,
        others: &BTreeSet<u64>,
    ) -> Option<Attachment> {
        let inode = pod.ips.iter().find_map(|ip| self.by_address.get(ip))?;
        let PodNetns { netns, interface, addresses } = self.namespaces.get(inode)?;
        let container = netns.path.file_name()?.to_str()?;
        (!others.contains(inode)).then_some(Attachment {
            // A name that is none of a container's, or of a pod's, was not given by Kubernetes.
            key: AttachmentKey::new(container, interface).ok()?,
            pod: PodName::new(&pod.namespace, &pod.name).ok()?,
            uid: pod.uid.clone(),
            netns: netns.clone(),
            addresses: addresses.clone(),
            boot: String::new(),
            attached_unix_seconds: 0,
        })
    }

    /// An attachment was made of a namespace. Returns the former one of it.
    pub(crate) fn attached(&mut self, attachment: &Attachment) -> Option<AttachmentKey> {
        let key = attachment.key.clone();
        let former = self.attached.insert(attachment.netns.inode, key);
        former.filter(|former| *former != attachment.key)
    }

    /// The plugin reported the namespace. Returns the attachment that was made of it.
    pub(crate) fn reported(&mut self, inode: u64) -> Option<AttachmentKey> {
        self.attached.remove(&inode)
    }

    /// Whether an attachment was made here.
    pub(crate) fn is_found(&self, key: &AttachmentKey) -> bool {
        self.attached.values().any(|attached| attached == key)
    }

    /// All namespaces.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &PodNetns> {
        self.namespaces.values()
    }
}

#[cfg(test)]
mod tests {
    use mesh_pods::Netns;

    use super::*;

    fn found(inode: u64, address: &str) -> PodNetns {
        let path = format!("/var/run/netns/cni-{inode}").into();
        let netns = Netns { path, inode, cookie: inode + 100 };
        PodNetns { netns, interface: "eth0".into(), addresses: vec![address.parse().unwrap()] }
    }

    fn pod(name: &str, address: &str) -> LocalPod {
        LocalPod {
            namespace: "shop".into(),
            name: name.into(),
            node: "n1".into(),
            uid: format!("uid-{name}"),
            identity: None,
            ips: vec!["fd00::7".parse().unwrap(), address.parse().unwrap()],
            socket_lb: true,
            named_ports: Vec::new(),
        }
    }

    #[test]
    fn a_pod_is_known_by_its_address_where_the_plugin_did_not_report_it() {
        let mut pods = FoundPods::default();
        let (cart, none) = (pod("cart", "10.1.0.7"), BTreeSet::new());
        assert_eq!(pods.attachment_of(&cart, &none), None);
        assert_eq!(pods.set(vec![found(7, "10.1.0.7"), found(8, "10.1.0.8")]), []);
        let attachment = pods.attachment_of(&cart, &none).unwrap();
        assert_eq!(attachment.key.to_string(), "cni-7@eth0");
        assert_eq!((attachment.uid.as_str(), attachment.netns.cookie), ("uid-cart", 107));
        assert_eq!(pods.attachment_of(&cart, &BTreeSet::from([7])), None, "the plugin did");
        assert_eq!(pods.attachment_of(&pod("cart", "10.1.0.9"), &none), None);

        assert_eq!(pods.attached(&attachment), None);
        assert!(pods.is_found(&attachment.key));
        // Another one comes, and the first one goes on.
        assert_eq!(pods.set(vec![found(7, "10.1.0.7"), found(9, "10.1.0.9")]), []);
        assert_eq!(pods.reported(9), None);
        // The address is another namespace's now.
        assert_eq!(pods.set(vec![found(9, "10.1.0.7")]), std::slice::from_ref(&attachment.key));
        let next = pods.attachment_of(&cart, &none).unwrap();
        assert_eq!((pods.attached(&next), pods.is_found(&attachment.key)), (None, false));
        assert_eq!(pods.reported(9), Some(next.key));
    }
}
