//! Routes of a writer against what others do to them.

use std::time::Duration;

use ipnet::IpNet;
use mesh_reconcile::{Class, Status, Writer};
use mesh_routes::{NextHop, OtherRoute, RouteEvent, RouteTarget};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::sleep,
};

use crate::place::{in_namespace, ip, link, until};

struct Routes {
    writer: Writer<IpNet, NextHop>,
    events: UnboundedReceiver<RouteEvent>,
}

impl Routes {
    fn start() -> Self {
        let (sender, events) = unbounded_channel();
        let target = RouteTarget::open(sender).unwrap();
        let (writer, _) = Writer::spawn("routes", target, RouteTarget::options(1));
        Self { writer, events }
    }

    /// Wants routes as `range via`; `range -` for none.
    async fn want(&self, wanted: &[&str]) -> Status {
        let change = |text: &&str| {
            let (range, via) = text.split_once(' ').unwrap();
            (net(range), via.parse().ok().map(NextHop::Via))
        };
        self.writer.want(wanted.iter().map(change).collect());
        self.writer.settled().await.unwrap()
    }

    fn status(&self) -> Status {
        self.writer.status().borrow().clone()
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Our routes, as a user sees them.
fn ours() -> Vec<String> {
    let shown = ["-4", "-6"].map(|family| ip(&format!("{family} route show proto 201")));
    let lines = shown.iter().flat_map(|shown| shown.lines());
    let first = |line: &str| line.split(" dev ").next().unwrap().trim().to_owned();
    lines.map(first).collect()
}

#[test]
fn routes_of_both_families_come_change_and_go() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        let routes = Routes::start();
        let status = routes
            .want(&[
                "10.2.1.0/24 172.31.2.1",
                "10.2.2.0/24 172.31.2.2",
                "fd00:10:2::/64 fd00:172::2",
            ])
            .await;
        assert!(status.is_settled() && status.deferred == 0, "{status:?}");
        let via = ["10.2.1.0/24 via 172.31.2.1", "10.2.2.0/24 via 172.31.2.2"];
        assert_eq!(ours(), [via[0], via[1], "fd00:10:2::/64 via fd00:172::2"]);
        // The kernel distinguishes next hops by metric: by 172.31 xor 2.1, and 172.31 xor 2.2.
        let [first, second] =
            ["10.2.1.0/24", "10.2.2.0/24"].map(|r| ip(&format!("route show {r}")));
        assert!(
            first.contains("metric 1044574") && second.contains("metric 1044573"),
            "{first}{second}"
        );
        assert!(ip("-6 route show").contains("metric 1000000"));
        routes
            .want(&["10.2.1.0/24 172.31.2.9", "10.2.2.0/24 -", "fd00:10:2::/64 fd00:172::9"])
            .await;
        assert_eq!(ours(), ["10.2.1.0/24 via 172.31.2.9", "fd00:10:2::/64 via fd00:172::9"]);
        assert_eq!(routes.status().repairs, 0, "what we do ourselves is no repair");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(routes.status().repairs, 0, "nor are its late reports");
    });
}

#[test]
fn what_another_program_does_to_our_routes_is_undone_within_two_seconds_and_counted() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        let routes = Routes::start();
        routes.want(&["10.2.1.0/24 172.31.2.1", "fd00:10:2::/64 fd00:172::2"]).await;
        let before = ours();
        ip("route flush proto 201");
        ip("-6 route flush proto 201");
        let took = until("the routes are back", || ours() == before).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        until("it is counted", || routes.status().repairs == 2).await;
    });
}

#[test]
fn a_route_that_another_program_changes_is_changed_back_and_one_that_it_takes_is_left_and_reported()
{
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        let routes = Routes::start();
        routes.want(&["10.2.1.0/24 172.31.2.1", "fd00:10:2::/64 fd00:172::2"]).await;
        let before = ours();
        ip("route change 10.2.1.0/24 via 172.31.9.9 metric 1044574 proto 201");
        ip("-6 route replace fd00:10:2::/64 via fd00:172::9 metric 1000000 proto static");
        until("the first is led back", || ours()[0] == before[0]).await;
        let theirs = "another program has a route with our metric";
        until("the second is left and reported", || {
            routes.status().reasons.iter().any(|reason| reason.failure.reason() == theirs)
        })
        .await;
        assert!(ip("-6 route show proto static").contains("fd00:10:2::/64"));
        assert_eq!(routes.status().repairs, 2);
    });
}

/// Routes of IPv4 go with their link without a report.
#[test]
fn routes_that_went_with_their_link_are_back_when_it_is() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        let routes = Routes::start();
        routes.want(&["10.2.1.0/24 172.31.2.1", "fd00:10:2::/64 fd00:172::2"]).await;
        let before = ours();
        // The kernel's report of what we made names the interface.
        sleep(Duration::from_millis(500)).await;
        ip("link set eth0 down");
        until("the routes have no link", || routes.status().deferred == 2).await;
        assert_eq!(routes.status().repairs, 2);
        ip("link set eth0 up");
        ip("addr add fd00:172::1/64 dev eth0 nodad");
        until("the routes are back", || ours() == before).await;
        until("all is well", || routes.status().is_settled()).await;
    });
}

#[test]
fn a_next_hop_that_is_not_on_a_link_is_no_failure_and_waits_for_one_that_covers_it() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/24"]);
        let mut routes = Routes::start();
        let status = routes.want(&["10.2.1.0/24 172.31.2.1", "10.3.1.0/24 172.31.3.1"]).await;
        assert_eq!((status.failing, status.deferred), (0, 2), "{status:?}");
        let reason = &status.reasons[0];
        assert_eq!((reason.failure.class(), reason.count), (Class::Deferred, 2));
        assert_eq!(reason.failure.reason(), "the next hop is not on a link of this node");
        for _ in 0..2 {
            assert!(matches!(routes.events.recv().await, Some(RouteEvent::Failed(..))));
        }
        // Until pauses are long.
        sleep(Duration::from_secs(4)).await;
        link("pod0", &["10.1.0.7/32"]);
        ip("addr add 172.31.2.2/24 dev eth0");
        let took = until("the first is made", || ours() == ["10.2.1.0/24 via 172.31.2.1"]).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(routes.events.recv().await, Some(RouteEvent::Recovered(net("10.2.1.0/24"))));
        // A route to the neighbours themselves will do as well.
        ip("route add 172.31.3.0/24 dev eth0");
        until("the second is made", || ours().len() == 2).await;
        // A node moves to where nothing leads: its old address has the range no more.
        routes.want(&["10.2.1.0/24 192.0.2.1"]).await;
        assert_eq!(ours(), ["10.3.1.0/24 via 172.31.3.1"]);
    });
}

#[test]
fn others_routes_to_the_same_range_come_first_and_are_left_and_reported() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16"]);
        ip("route add 10.2.1.0/24 via 172.31.8.8 metric 20 proto bird");
        ip("route add 10.2.2.0/24 via 172.31.8.8 metric 1044573 proto bird");
        let mut routes = Routes::start();
        let status = routes.want(&["10.2.1.0/24 172.31.2.1", "10.2.2.0/24 172.31.2.2"]).await;
        assert_eq!(ours(), ["10.2.1.0/24 via 172.31.2.1"]);
        assert!(ip("route get 10.2.1.5").contains("via 172.31.8.8"), "theirs is used");
        let bird = OtherRoute { protocol: 12, metric: 20 };
        let mut events = [routes.events.recv().await, routes.events.recv().await];
        events.sort_by_key(|event| matches!(event, Some(RouteEvent::Failed(..))));
        assert_eq!(events[0], Some(RouteEvent::Other(net("10.2.1.0/24"), Some(bird))));
        assert!(
            matches!(&events[1], Some(RouteEvent::Failed(range, _)) if *range == net("10.2.2.0/24"))
        );
        assert_eq!(status.failing, 1, "{status:?}");
        // When theirs goes, ours is there.
        ip("route del 10.2.1.0/24 proto bird");
        assert!(ip("route get 10.2.1.5").contains("via 172.31.2.1"));
        assert_eq!(routes.events.recv().await, Some(RouteEvent::Other(net("10.2.1.0/24"), None)));
        ip("route add 10.2.1.0/24 via 172.31.8.8 metric 20 proto bird");
        assert_eq!(
            routes.events.recv().await,
            Some(RouteEvent::Other(net("10.2.1.0/24"), Some(bird)))
        );
        assert!(ip("route show proto bird").contains("10.2.2.0/24"));
    });
}

#[test]
fn routes_of_the_previous_run_stay_until_they_may_go_and_get_todays_form() {
    in_namespace(async || {
        link("eth0", &["172.31.1.1/16", "fd00:172::1/64"]);
        // As earlier releases made them.
        ip("route add 10.2.1.0/24 via 172.31.2.1 metric 1000000 proto 201");
        for range in ["10.2.2.0/24", "10.3.1.0/24"] {
            ip(&format!("route add {range} via 172.31.2.1 proto 201"));
        }
        ip("-6 route add fd00:10:2::/64 via fd00:172::2 proto 201");
        let routes = Routes::start();
        let status = routes.want(&["10.2.1.0/24 172.31.2.1", "fd00:10:2::/64 fd00:172::2"]).await;
        assert_eq!(ours().len(), 4);
        assert_eq!(ip("route show 10.2.1.0/24 metric 1044574").lines().count(), 1);
        assert_eq!(ip("route show 10.2.1.0/24").lines().count(), 1, "the old form is gone");
        assert_eq!(ip("-6 route show fd00:10:2::/64").lines().count(), 1);
        assert_eq!(status.pruned, 0);
        routes.writer.may_prune(|range| net("10.2.0.0/16").contains(range));
        until("what was listed and is not wanted goes", || ours().len() == 3).await;
        assert!(ours().iter().any(|route| route.starts_with("10.3.1.0/24")));
    });
}
