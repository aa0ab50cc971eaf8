//! What 5,000 routes that cannot be made cost a node on which pods start all the time. A process of its own, whose time is
//! measured.
//!
//! Needs root and `ip`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use mesh_reconcile::Writer;
use mesh_routes::{NextHop, RouteTarget};
use nix::{time::ClockId, unistd};
use tokio::{sync::mpsc::unbounded_channel, time::sleep};

/// Processor time of this process so far.
fn used() -> Duration {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().unwrap().into()
}

/// 50 changes of links and addresses a second, by processes that are not measured, until the first of them is killed.
fn churn() -> Child {
    let mut command = Command::new("bash");
    command.args(["-c", CHURN]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Writes a line each 20 ms: a pair of interfaces comes, gets an address, and goes.
const CHURN: &str = r#"
exec > >(exec ip -batch -)
for ((n = 0; ; n++)); do
    echo "link add pod$n type veth peer name peer$n"; read -rt 0.02 < <(exec sleep 1)
    echo "addr add 10.1.$((n % 250)).7/32 dev pod$n"; read -rt 0.02 < <(exec sleep 1)
    echo "link del pod$n"; read -rt 0.02 < <(exec sleep 1)
done
"#;

#[test]
fn five_thousand_routes_off_link_cost_less_than_a_hundredth_of_trying_all_with_each_change() {
    assert!(unistd::geteuid().is_root(), "root");
    let measured = thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (events, mut failed) = unbounded_channel();
            let target = RouteTarget::open(events).unwrap();
            let (writer, _) = Writer::spawn("routes", target, RouteTarget::options(1));
            let wanted = (0..5_000_u32).map(|node| {
                let range = Ipv4Net::new(Ipv4Addr::from(0x0a20_0000 + (node << 8)), 24).unwrap();
                let via = IpAddr::from(Ipv4Addr::from(0xac20_0000 + node));
                (IpNet::from(range), Some(NextHop::Via(via)))
            });
            let wanted = wanted.collect();
            let before = used();
            writer.want(wanted);
            let status = writer.settled().await.unwrap();
            assert_eq!(status.deferred, 5_000, "{status:?}");
            let attempt = used() - before;
            let mut churn = churn();
            sleep(Duration::from_secs(2)).await;
            let before = used();
            sleep(Duration::from_secs(10)).await;
            let used = used() - before;
            assert!(churn.try_wait().unwrap().is_none(), "the changes went on");
            churn.kill().unwrap();
            churn.wait().unwrap();
            // Each is reported once, not with each attempt.
            let mut reported = 0;
            while failed.try_recv().is_ok() {
                reported += 1;
            }
            assert_eq!(reported, 5_000);
            (attempt, used)
        })
    });
    let (attempt, used) = measured.join().unwrap();
    println!("{used:?} of 10 s, {attempt:?} for one attempt of all");
    // 500 changes: all routes with each of them would be 500 attempts.
    assert!(used < attempt * 5, "{used:?}, and {attempt:?} for one attempt of all");
}
