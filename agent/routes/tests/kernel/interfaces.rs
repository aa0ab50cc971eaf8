//! Interfaces as the kernel reports them.

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use mesh_routes::{
    Attachments, Interface, InterfaceKind, Interfaces, attachments, sysctl_problems,
};

use tokio::time::timeout;

use crate::place::{in_namespace, ip, link};

fn named<'a>(interfaces: &'a Interfaces, name: &str) -> Option<&'a Interface> {
    interfaces.all().find(|interface| interface.name == name)
}

async fn until(interfaces: &mut Interfaces, is_so: impl Fn(&Interfaces) -> bool) {
    let changes = async {
        while !is_so(interfaces) {
            interfaces.changed().await.unwrap();
        }
    };
    // What takes longer does not happen.
    timeout(Duration::from_secs(20), changes).await.expect("a change that is reported");
}

fn names(interfaces: &[Interface]) -> Vec<&str> {
    interfaces.iter().map(|interface| interface.name.as_str()).collect()
}

fn ethernet(driver: &str) -> InterfaceKind {
    InterfaceKind::Ethernet { driver: Some(driver.into()) }
}

#[test]
fn interfaces_come_change_and_go() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16"]);
        let mut interfaces = Interfaces::open().unwrap();
        assert_eq!(named(&interfaces, "lo").unwrap().kind, InterfaceKind::Loopback);
        let eth0 = named(&interfaces, "eth0").unwrap();
        assert_eq!((&eth0.kind, eth0.is_up, eth0.mac.len()), (&ethernet("veth"), true, 6));
        assert!(eth0.addresses.contains(&"172.31.1.1/16".parse().unwrap()));

        ip("addr add fd00:172::1/64 dev eth0 nodad");
        ip("link set eth0p down");
        ip("link add br0 type bridge");
        ip("link set eth0p master br0");
        ip("addr add 10.1.0.1/24 dev br0");
        ip("link set br0 up");
        until(&mut interfaces, |now| {
            let address = "fd00:172::1/64".parse().unwrap();
            let bridge = named(now, "br0").filter(|bridge| !bridge.addresses.is_empty());
            named(now, "eth0").is_some_and(|eth0| !eth0.is_up && eth0.addresses.contains(&address))
                && bridge.is_some_and(|bridge| {
                    named(now, "eth0p").is_some_and(|port| port.master == Some(bridge.index))
                })
        })
        .await;
        assert_eq!(named(&interfaces, "br0").unwrap().kind, ethernet("bridge"));

        // A port that leaves its bridge is still there.
        ip("link set eth0p nomaster");
        ip("link set eth0p name renamed");
        until(&mut interfaces, |now| {
            named(now, "renamed").is_some_and(|port| port.master.is_none())
        })
        .await;
        ip("addr del 172.31.1.1/16 dev eth0");
        ip("link del br0");
        until(&mut interfaces, |now| named(now, "br0").is_none()).await;
        until(&mut interfaces, |now| named(now, "eth0").unwrap().addresses.len() == 2).await;
        ip("link del eth0");
        until(&mut interfaces, |now| now.all().count() == 1).await;
    });
}

#[test]
fn a_flood_of_reports_that_does_not_fit_is_made_up_for() {
    in_namespace(async || {
        let mut interfaces = Interfaces::open().unwrap();
        // Far more than the socket has room for, in one go.
        let batch = tempfile::NamedTempFile::new().unwrap();
        let mut lines = String::from("link add eth0 type veth peer name eth0p\nlink set eth0 up\n");
        for round in 0..20_000 {
            lines.push_str(&format!("link set eth0 alias round{round}\n"));
        }
        lines.push_str("addr add 172.31.1.1/16 dev eth0\n");
        std::fs::write(batch.path(), lines).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        let address = "172.31.1.1/16".parse().unwrap();
        until(&mut interfaces, |now| {
            named(now, "eth0").is_some_and(|eth0| eth0.addresses.contains(&address))
        })
        .await;
        assert_eq!(interfaces.all().count(), 3);
    });
}

#[test]
fn probes_arrive_at_ethernet_interfaces_with_a_node_address_and_not_at_their_ports() {
    in_namespace(async || {
        let node: BTreeSet<IpAddr> =
            ["172.31.1.1", "172.32.1.1", "172.34.1.1", "192.0.2.1", "fd00:172::1"]
                .map(|address| address.parse().unwrap())
                .into();
        // A network card, a bridge over a port, a tunnel, the loopback; and a pod's end without a node address.
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        link("port0", &[]);
        ip("link add br0 type bridge");
        ip("link set port0 master br0");
        ip("addr add 172.32.1.1/16 dev br0");
        ip("link set br0 up");
        ip("tuntap add tun0 mode tun");
        ip("addr add 172.34.1.1/16 dev tun0");
        ip("addr add 192.0.2.1/32 dev lo");
        link("pod0", &["10.1.0.1/32"]);
        let interfaces = Interfaces::open().unwrap();
        let Attachments { ethernet, others, missing } = attachments(interfaces.all(), &node);
        assert_eq!(names(&ethernet), ["eth0", "br0"]);
        assert_eq!(names(&others), ["lo", "tun0"]);
        assert!(matches!(&others[1].kind, InterfaceKind::Layer3 { driver } if driver == "tun"));
        assert!(missing.is_empty());
        ip("addr del 172.31.1.1/16 dev eth0");
        let mut interfaces = interfaces;
        interfaces.changed().await.unwrap();
        let gone = attachments(interfaces.all(), &node).missing;
        assert_eq!(gone, ["172.31.1.1".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
fn settings_in_the_way_are_those_of_this_namespace() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16"]);
        let interfaces = Interfaces::open().unwrap();
        let uplinks = || interfaces.all().filter(|interface| interface.name == "eth0");
        let named = || {
            let problems = sysctl_problems(Path::new("/proc"), uplinks());
            problems.into_iter().map(|problem| problem.name).collect::<Vec<String>>()
        };
        let set = |path: &str, value: &str| {
            std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap()
        };
        set("ipv4/ip_forward", "1");
        set("ipv6/conf/all/forwarding", "1");
        set("ipv4/conf/all/rp_filter", "0");
        set("ipv4/conf/eth0/rp_filter", "0");
        assert!(named().is_empty(), "{:?}", named());
        set("ipv4/ip_forward", "0");
        set("ipv4/conf/eth0/rp_filter", "1");
        assert_eq!(named(), ["net.ipv4.ip_forward", "net.ipv4.conf.eth0.rp_filter"]);
        set("ipv4/conf/all/rp_filter", "2");
        assert_eq!(named(), ["net.ipv4.ip_forward"], "the larger one counts");
    });
}
