//! The table of nftables against what others do to it, as `nft` shows it.

use std::{thread, time::Duration};

use mesh_reconcile::{Options, Status, Writer};
use mesh_routes::{Exempt, ExemptSet, MasqueradeTarget};
use tokio::time::sleep;

use crate::place::{in_namespace, nft, until};

fn start() -> Writer<Exempt, ()> {
    let target = MasqueradeTarget::open().unwrap();
    Writer::spawn("masquerade", target, Options::default()).0
}

/// Wants ranges, or with a `-` before them not.
async fn want(writer: &Writer<Exempt, ()>, set: ExemptSet, ranges: &[&str]) -> Status {
    let change = |text: &&str| match text.strip_prefix('-') {
        Some(range) => (Exempt { set, range: range.parse().unwrap() }, None),
        None => (Exempt { set, range: text.parse().unwrap() }, Some(())),
    };
    writer.want(ranges.iter().map(change).collect());
    writer.settled().await.unwrap()
}

fn status(writer: &Writer<Exempt, ()>) -> Status {
    writer.status().borrow().clone()
}

/// The rule set without counters and handles, by table.
fn rules() -> String {
    let all = nft("-s list ruleset");
    let mut tables: Vec<&str> = all.split_inclusive("\n}\n").collect();
    tables.sort_unstable();
    tables.concat()
}

const BOTH_FAMILIES: &str = "table ip clustermesh {
	set pods {
		type ipv4_addr
		flags interval
		elements = { 10.1.0.0/16 }
	}

	set mesh {
		type ipv4_addr
		flags interval
		elements = { 10.2.0.0/24, 10.2.1.0/24,
			     10.3.0.0/24 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat - 5; policy accept;
		ip saddr @pods ip daddr @mesh snat to ip saddr
	}
}
table ip6 clustermesh {
	set pods {
		type ipv6_addr
		flags interval
		elements = { fd00:10:1::/48 }
	}

	set mesh {
		type ipv6_addr
		flags interval
		elements = { fd00:10:2::/64 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat - 5; policy accept;
		ip6 saddr @pods ip6 daddr @mesh snat to ip6 saddr
	}
}
";

async fn both_families() -> Writer<Exempt, ()> {
    let writer = start();
    want(&writer, ExemptSet::Pods, &["10.1.0.0/16", "fd00:10:1::/48"]).await;
    let mesh = ["10.2.0.0/24", "10.2.1.0/24", "10.3.0.0/24", "10.3.0.0/25", "fd00:10:2::/64"];
    let status = want(&writer, ExemptSet::Mesh, &mesh).await;
    assert!(status.is_settled(), "{status:?}");
    assert_eq!(rules(), BOTH_FAMILIES);
    writer
}

#[test]
fn the_table_is_as_nft_would_make_it_and_its_elements_come_and_go_one_by_one() {
    in_namespace(async || {
        let writer = start();
        want(&writer, ExemptSet::Mesh, &["10.2.0.0/24"]).await;
        assert_eq!(rules(), "", "without our pods there is nothing to keep away");
        want(&writer, ExemptSet::Mesh, &["-10.2.0.0/24"]).await;
        drop(writer);

        let writer = both_families().await;
        // In an element's place one that has it inside, and back: in one step for every reader.
        want(&writer, ExemptSet::Mesh, &["10.2.0.0/16", "0.0.0.0/1"]).await;
        assert!(rules().contains("elements = { 0.0.0.0/1 }"), "{}", rules());
        want(&writer, ExemptSet::Mesh, &["-0.0.0.0/1", "224.0.0.0/3"]).await;
        assert!(
            rules().contains("elements = { 10.2.0.0/16, 10.3.0.0/24,\n\t\t\t     224.0.0.0/3 }"),
            "{}",
            rules()
        );
        want(&writer, ExemptSet::Mesh, &["-10.2.0.0/16", "-224.0.0.0/3"]).await;
        assert_eq!(rules(), BOTH_FAMILIES);
        want(&writer, ExemptSet::Mesh, &["-fd00:10:2::/64"]).await;
        assert!(!rules().contains("table ip6"), "{}", rules());
        let status = status(&writer);
        assert_eq!((status.repairs, status.pruned, status.failing), (0, 0, 0), "{status:?}");
    });
}

#[test]
fn what_another_program_does_to_the_table_is_undone_within_two_seconds_and_counted() {
    let breaks = [
        "flush ruleset",
        "delete table ip clustermesh",
        "flush chain ip6 clustermesh postrouting",
        "flush set ip clustermesh mesh",
        "delete element ip clustermesh mesh { 10.2.1.0/24 }",
        "add rule ip clustermesh postrouting counter accept",
    ];
    let broken = |command| {
        in_namespace(async move || {
            let writer = both_families().await;
            sleep(Duration::from_millis(500)).await;
            nft(command);
            let took = until(command, || rules() == BOTH_FAMILIES).await;
            assert!(took < Duration::from_secs(2), "{command}: {took:?}");
            until("it is counted", || status(&writer).repairs > 0).await;
        });
    };
    thread::scope(|scope| {
        for command in breaks {
            scope.spawn(move || broken(command));
        }
    });
}

#[test]
fn other_programs_rules_are_left_alone_and_cost_a_look() {
    in_namespace(async || {
        let writer = both_families().await;
        nft("add table inet others");
        nft("add chain inet others forward { type filter hook forward priority 0; }");
        let looked = status(&writer).last_audit.unwrap().at;
        until("it looks", || status(&writer).last_audit.unwrap().at > looked).await;
        let looked = status(&writer).last_audit.unwrap().at;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(status(&writer).last_audit.unwrap().at, looked, "nothing changed since");
        assert!(rules().contains("table inet others"));
        assert_eq!(status(&writer).repairs, 0);
        // Nor does a change of our own.
        want(&writer, ExemptSet::Mesh, &["10.9.0.0/24"]).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(status(&writer).last_audit.unwrap().at, looked);
    });
}

#[test]
fn what_the_previous_run_left_stays_until_it_may_go() {
    in_namespace(async || {
        drop(both_families().await);
        let chain = nft("-a list chain ip clustermesh postrouting");
        let writer = start();
        want(&writer, ExemptSet::Pods, &["10.1.0.0/16", "fd00:10:1::/48"]).await;
        let status = want(&writer, ExemptSet::Mesh, &["10.3.0.0/24"]).await;
        assert_eq!(rules(), BOTH_FAMILIES);
        assert_eq!(
            nft("-a list chain ip clustermesh postrouting"),
            chain,
            "the chain was not touched"
        );
        assert_eq!(status.repairs, 0);
        writer.may_prune(|exempt| exempt.range.to_string().starts_with("10.2."));
        until("what was listed goes", || !rules().contains("10.2.")).await;
        assert!(rules().contains("fd00:10:2::/64"));
        writer.may_prune(|_| true);
        until("the rest goes", || !rules().contains("ip6")).await;
        assert!(rules().contains("10.3.0.0/24"));
    });
}

#[test]
fn a_large_mesh_is_a_few_transactions_and_a_change_of_it_one_element() {
    in_namespace(async || {
        let writer = start();
        want(&writer, ExemptSet::Pods, &["10.1.0.0/16"]).await;
        let ranges: Vec<String> = (0..20_000_u32)
            .map(|n| format!("{}.{}.{}.0/24", 20 + n / 65_536, n / 256 % 256, n % 256))
            .collect();
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let status = want(&writer, ExemptSet::Mesh, &ranges).await;
        assert!(status.is_settled(), "{status:?}");
        let generation = || nft("-j list ruleset").matches("prefix").count();
        assert_eq!(generation(), 20_001);
        nft("flush ruleset");
        until("all is back", || generation() == 20_001).await;
        until("and counted", || writer.status().borrow().repairs >= 20_000).await;
    });
}

/// A kube-proxy is seen by the table and the chain that it makes.
#[test]
fn a_kube_proxy_is_known_by_what_it_leaves() {
    in_namespace(async || {
        // Of this thread's namespace: the look itself is made on another one.
        assert!(!mesh_routes::has_kube_proxy_here().unwrap());
        nft("add table ip kube-proxy-of-another");
        nft("add table ip nat");
        nft("add chain ip nat KUBE-MARK-MASQ");
        assert!(!mesh_routes::has_kube_proxy_here().unwrap());
        nft("add chain ip nat KUBE-SERVICES");
        assert!(mesh_routes::has_kube_proxy_here().unwrap());
        nft("flush ruleset");
        nft("add table ip6 kube-proxy");
        assert!(mesh_routes::has_kube_proxy_here().unwrap());
    });
}
