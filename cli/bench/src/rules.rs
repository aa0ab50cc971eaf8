//! Rules as kube-proxy writes them, for TCP services with two endpoints and cluster IPs from 10.0.0.1 on.
//!
//! They follow what kube-proxy 1.31 writes in its iptables and nftables modes, without the rules for node ports, external
//! addresses and masquerading of other ports, which a connection to a cluster IP does not pass.

use std::{fmt::Write as _, net::Ipv4Addr, ops::Range};

use crate::backends::backends;

/// The range of pods, whose connections are not masqueraded.
const PODS: &str = "10.200.0.0/16";

/// A service's cluster IP.
pub(crate) fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + service)
}

/// The complete table of nftables mode.
pub(crate) fn nftables(services: Range<u32>, port: u16) -> String {
    let mut text = String::from(
        "table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  set cluster-ips { type ipv4_addr; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading { meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain reject-chain { reject; }
  chain cluster-ips-check { ip daddr @cluster-ips reject; }
  chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain filter-output { type filter hook output priority -110; policy accept; ct state new jump service-endpoints-check; }
  chain filter-output-post-dnat { type filter hook output priority -90; policy accept; ct state new jump cluster-ips-check; }
  chain nat-output { type nat hook output priority -100; policy accept; jump services; }
  chain nat-prerouting { type nat hook prerouting priority -100; policy accept; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; policy accept; jump masquerading; }
}
",
    );
    text.push_str(&nftables_more(services, port));
    text
}

/// The lines that add services to it.
pub(crate) fn nftables_more(services: Range<u32>, port: u16) -> String {
    let mut text = String::new();
    for service in services {
        let ip = cluster_ip(service);
        for (n, to) in (0..).zip(backends(service)) {
            let _ = writeln!(
                text,
                "add chain ip kube-proxy endpoint-{service}-{n}
add rule ip kube-proxy endpoint-{service}-{n} ip saddr {to} jump mark-for-masquerade
add rule ip kube-proxy endpoint-{service}-{n} meta l4proto tcp dnat to {to}:{port}"
            );
        }
        let _ = writeln!(
            text,
            "add chain ip kube-proxy service-{service}
add rule ip kube-proxy service-{service} ip daddr {ip} tcp dport 80 ip saddr != {PODS} jump mark-for-masquerade
add rule ip kube-proxy service-{service} numgen random mod 2 vmap {{ 0 : goto endpoint-{service}-0, 1 : goto endpoint-{service}-1 }}
add element ip kube-proxy cluster-ips {{ {ip} }}
add element ip kube-proxy service-ips {{ {ip} . tcp . 80 : goto service-{service} }}"
        );
    }
    text
}

/// The complete nat table of iptables mode.
pub(crate) fn iptables(services: Range<u32>, port: u16) -> String {
    let chains = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";
    let rules = "-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";
    let (more_chains, more_rules) = iptables_of(services, port);
    format!("{chains}{more_chains}{rules}{more_rules}COMMIT\n")
}

/// The lines that add services to it, as kube-proxy does without replacing the others.
pub(crate) fn iptables_more(services: Range<u32>, port: u16) -> String {
    let (chains, rules) = iptables_of(services, port);
    format!("*nat\n{chains}{rules}COMMIT\n")
}

fn iptables_of(services: Range<u32>, port: u16) -> (String, String) {
    let (mut chains, mut rules) = (String::new(), String::new());
    for service in services {
        let (ip, [first, second]) = (cluster_ip(service), backends(service));
        let name = format!("default/bench-{service}:http");
        let _ = writeln!(
            chains,
            ":KUBE-SVC-{service} - [0:0]\n:KUBE-SEP-{service}-0 - [0:0]\n:KUBE-SEP-{service}-1 - [0:0]"
        );
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{service}
-A KUBE-SVC-{service} ! -s {PODS} -d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-{service} -m comment --comment \"{name} -> {first}:{port}\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-{service}-0
-A KUBE-SVC-{service} -m comment --comment \"{name} -> {second}:{port}\" -j KUBE-SEP-{service}-1"
        );
        for (n, to) in (0..).zip([first, second]) {
            let _ = writeln!(
                rules,
                "-A KUBE-SEP-{service}-{n} -s {to}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ
-A KUBE-SEP-{service}-{n} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {to}:{port}"
            );
        }
    }
    (chains, rules)
}
