//! What the kernel's reports mean for our routes.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::mirror::{Mirror, News};
use crate::{
    PROTOCOL,
    netlink::{
        Message, NLM_F_REPLACE,
        link::{self, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK},
        route::{self, Hop, RTM_NEWROUTE},
    },
};

/// Reports since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Reports {
    found: Findings,
    /// Ranges of ours to which another program's route was added or removed.
    other: BTreeSet<IpNet>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Networks that are on a link since.
    pub(super) on_link: BTreeSet<IpNet>,
    /// Ranges whose route is not as we made it.
    pub(super) gone: BTreeSet<IpNet>,
    /// Only a list shows what is there.
    pub(super) look: bool,
}

// === impl Reports ===

impl Reports {
    /// Nothing that has to do with us.
    pub(super) fn is_quiet(&self) -> bool {
        self.found == Findings::default()
    }

    pub(super) fn take(&mut self) -> Findings {
        std::mem::take(&mut self.found)
    }

    /// The ranges for which others' routes have to be requested.
    pub(super) fn take_other(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.other)
    }

    pub(super) fn look(&mut self) {
        self.found.look = true;
    }

    /// Takes a report. `port` is where our own requests come from.
    pub(super) fn read(&mut self, message: Message<'_>, mirror: &mut Mirror, port: u32) {
        match message.kind {
            RTM_NEWADDR => {
                self.found.on_link.extend(link::read_address(message).map(|a| a.on_link));
            }
            // IPv4 routes over an interface that goes down, or loses its address, are removed without a report.
            RTM_DELADDR | RTM_DELLINK => self.lost(message, mirror),
            RTM_NEWLINK if !link::is_up(message) => self.lost(message, mirror),
            RTM_NEWLINK => {}
            _ => self.read_route(message, mirror, port),
        }
    }

    fn lost(&mut self, message: Message<'_>, mirror: &Mirror) {
        self.found.look |= link::index(message).is_some_and(|index| mirror.leaves_by(index));
    }

    fn read_route(&mut self, message: Message<'_>, mirror: &mut Mirror, port: u32) {
        let Some(entry) = route::read(message) else { return };
        let (range, made) = (entry.range, message.kind == RTM_NEWROUTE);
        let own = message.port == port;
        // It replaced one of ours, whose removal has no report of its own.
        let replaces = !own && made && message.flags & NLM_F_REPLACE != 0;
        if replaces && mirror.remove_metric(&range, entry.metric) == News::New {
            self.found.gone.insert(range);
        }
        if entry.protocol != PROTOCOL {
            if made && entry.hop == Hop::OnLink {
                self.found.on_link.insert(range);
            }
            if mirror.contains(&range) {
                self.other.insert(range);
                self.found.look = true;
            }
            return;
        }
        let news = match made {
            // Reports come later than answers: one of our own may be of a route that we have changed again since.
            true if own => mirror.confirm(&entry),
            true => mirror.add(entry),
            false if own => News::Known,
            false => mirror.remove(&entry),
        };
        if news == News::New {
            self.found.gone.insert(range);
        }
    }
}
