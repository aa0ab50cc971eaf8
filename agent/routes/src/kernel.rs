//! Routes in the kernel, over netlink.

use std::{io, net::IpAddr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};

use crate::{PROTOCOL, table::Op};

/// The routes of the network namespace that it was opened in.
pub struct KernelRoutes {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No netlink.
    #[error("netlink: {0}")]
    Open(#[from] io::Error),
    /// The next hop cannot be reached directly: what a packet to it would need is a tunnel.
    #[error("the next hop {via} is not on a link of this node")]
    NotOnLink {
        /// The next hop.
        via: IpAddr,
    },
    /// Somebody else has a route there.
    #[error("there is a route to {range} already, and it is not ours")]
    Taken {
        /// Where it leads.
        range: IpNet,
    },
    /// Anything else.
    #[error("route to {range}: {source}")]
    Kernel {
        /// Where it leads.
        range: IpNet,
        /// The kernel's words.
        source: rtnetlink::Error,
    },
    /// The list of routes.
    #[error("listing routes: {0}")]
    List(rtnetlink::Error),
}

impl KernelRoutes {
    /// Opens the current network namespace's routes.
    pub fn open() -> Result<Self, RouteError> {
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// All routes of ours.
    pub async fn list(&self) -> Result<Vec<(IpNet, IpAddr)>, RouteError> {
        let mut found = Vec::new();
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for message in [v4, v6] {
            let mut routes = self.handle.route().get(message).execute();
            while let Some(route) = routes.try_next().await.map_err(RouteError::List)? {
                found.extend(ours(&route));
            }
        }
        Ok(found)
    }

    /// Carries an op out.
    pub async fn execute(&self, op: Op) -> Result<(), RouteError> {
        match op {
            Op::Add { range, via } => self
                .handle
                .route()
                .add(message(range, via)?)
                .execute()
                .await
                .map_err(|e| explain(e, range, via)),
            Op::Replace { range, via } => {
                let request = self.handle.route().add(message(range, via)?).replace();
                request.execute().await.map_err(|e| explain(e, range, via))
            }
            Op::Remove { range, via } => {
                match self.handle.route().del(message(range, via)?).execute().await {
                    // Gone already.
                    Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -ESRCH => Ok(()),
                    other => other.map_err(|e| explain(e, range, via)),
                }
            }
        }
    }
}

impl Drop for KernelRoutes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

fn message(range: IpNet, via: IpAddr) -> Result<RouteMessage, RouteError> {
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::from(PROTOCOL));
    let builder = builder.destination_prefix(range.addr(), range.prefix_len());
    // Range and next hop are of one family: merge pairs no others.
    let builder = builder.and_then(|builder| builder.gateway(via));
    builder.map(RouteMessageBuilder::build).map_err(|_| RouteError::NotOnLink { via })
}

fn explain(error: rtnetlink::Error, range: IpNet, via: IpAddr) -> RouteError {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        match -message.raw_code() {
            ENETUNREACH | EHOSTUNREACH | EINVAL => return RouteError::NotOnLink { via },
            EEXIST => return RouteError::Taken { range },
            _ => {}
        }
    }
    RouteError::Kernel { range, source: error }
}

/// Where a route of ours leads, and over whom.
fn ours(route: &RouteMessage) -> Option<(IpNet, IpAddr)> {
    if route.header.protocol != RouteProtocol::from(PROTOCOL) {
        return None;
    }
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            _ => {}
        }
    }
    Some((IpNet::new(to?, route.header.destination_prefix_length).ok()?, via?))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
