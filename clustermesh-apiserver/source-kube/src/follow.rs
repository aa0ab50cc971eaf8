//! Followers of all resources, each a task, with their requests executed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_alloc::IdentityRequest;
use mesh_model::object::Kind;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

use crate::{
    connection::Connection,
    drain::{DrainResource, FollowedDrain},
    events::{Closed, Events, FollowedKind, KubeEvent},
    follower::{Event, Failure, Followed, Follower, Request},
    identities::{FollowedIdentities, MeshIdentityResource},
    identity_requests,
    liveness::{self, Liveness},
    resource::{FOLLOWED, Resource},
};

/// Follows all kinds and the objects of identities, and executes requests about these, until nobody takes the events. `wake`
/// is called after each that was sent.
pub async fn follow(
    connection: Connection,
    sender: mpsc::Sender<KubeEvent>,
    requests: mpsc::UnboundedReceiver<IdentityRequest>,
    wake: impl Fn() + Send + Sync + 'static,
) {
    let events = Events { sender, wake: Arc::new(wake) };
    let (drain, drain_listed) = watch::channel(false);
    // Other versions than before: the history that watches go on from is not the API server's any more.
    let (restores, restored) = watch::channel(0_u64);
    let mut tasks = JoinSet::new();
    tasks.spawn(watch_liveness(connection.clone(), events.clone(), restores));
    tasks.spawn(identity_requests::execute(connection.clone(), events.clone(), requests));
    let task = Task {
        connection: connection.clone(),
        follower: Follower::new(MeshIdentityResource, 0),
        events: events.clone(),
        event: |followed, _| KubeEvent::Identities(FollowedIdentities::new(followed)),
        reported: None,
    };
    tasks.spawn(task.run(None, None, restored.clone()));
    let task = Task {
        connection: connection.clone(),
        follower: Follower::new(DrainResource::new(connection.namespace()), 7),
        events: events.clone(),
        event: |followed, _| KubeEvent::Drain(FollowedDrain::new(followed)),
        reported: None,
    };
    // Before the objects, so that an endpoint on a drained node is never exported as ready.
    tasks.spawn(task.run(Some(drain), None, restored.clone()));
    // A kind is listed after those that its records depend on. So none is written that lacks something, such as a service
    // without its backends, which would replace what the etcd has.
    let mut listed = BTreeMap::from([(None, drain_listed)]);
    for (kind, seed) in FOLLOWED.into_iter().zip(1..) {
        let (first, receiver) = watch::channel(false);
        let before = match kind {
            Kind::Node => Some(Kind::Namespace),
            Kind::Pod | Kind::EndpointSlice => Some(Kind::Node),
            Kind::Service => Some(Kind::EndpointSlice),
            _ => None,
        };
        let after = listed.get(&before).cloned();
        listed.insert(Some(kind), receiver);
        let task = Task {
            connection: connection.clone(),
            follower: Follower::new(kind, seed),
            events: events.clone(),
            event: of_kind,
            reported: None,
        };
        tasks.spawn(task.run(Some(first), after, restored.clone()));
    }
    // One ends when nobody takes its events; the others end with this.
    tasks.join_next().await;
}

fn of_kind(followed: Followed<Kind>, kind: &Kind) -> KubeEvent {
    let Followed { events, trouble, unreadable } = followed;
    let events = events.into_iter().filter_map(|event| event.of_source(*kind)).collect();
    KubeEvent::Kind(FollowedKind { kind: *kind, events, trouble, unreadable })
}

/// One resource's.
struct Task<R: Resource> {
    connection: Connection,
    follower: Follower<R>,
    events: Events,
    /// Makes an event of what the follower reports.
    event: fn(Followed<R>, &R) -> KubeEvent,
    /// What was reported of its state.
    reported: Option<Reported<R::Key>>,
}

/// The state of a follower.
#[derive(Clone, PartialEq, Eq)]
struct Reported<K> {
    trouble: Option<String>,
    unreadable: BTreeMap<K, String>,
}

impl<R: Resource> Task<R> {
    /// `first`: to be set when this resource, that others wait for, was listed. `after`: set when it may begin.
    async fn run(
        mut self,
        first: Option<watch::Sender<bool>>,
        after: Option<watch::Receiver<bool>>,
        mut restored: watch::Receiver<u64>,
    ) {
        if let Some(mut after) = after
            && after.wait_for(|listed| *listed).await.is_err()
        {
            return;
        }
        loop {
            let step = tokio::select! {
                step = self.step() => step,
                changed = restored.changed() => match changed {
                    Ok(()) => self.restart().await,
                    Err(_) => return,
                },
            };
            match step {
                Ok(()) => {}
                Err(Ended::Closed) => return,
                Err(Ended::Failed(failure)) => {
                    let pause = self.follower.failed(&failure);
                    if self.report(Vec::new()).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        () = time::sleep(pause) => {}
                        changed = restored.changed() => match changed {
                            Ok(()) if self.restart().await.is_ok() => {}
                            Ok(()) | Err(_) => return,
                        },
                    }
                }
            }
            if let (Some(first), Request::Watch { .. }) = (&first, self.follower.request()) {
                first.send_replace(true);
            }
        }
    }

    /// One request, whole.
    async fn step(&mut self) -> Result<(), Ended> {
        match self.follower.request() {
            Request::List { limit, next } => {
                let resource = self.follower.resource();
                let page = self.connection.list(resource, limit, next.as_deref()).await?;
                let events = self.follower.page(&page)?;
                self.report(events).await
            }
            Request::Watch { after } => {
                let mut stream = self.connection.watch(self.follower.resource(), after).await?;
                while let Some(line) = stream.line().await? {
                    let event = self.follower.line(&line)?;
                    self.report(event.into_iter().collect()).await?;
                }
                self.follower.ended();
                // An API server that ends each watch at once is not asked without pause.
                time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
        }
    }

    /// The API server's history is another one.
    async fn restart(&mut self) -> Result<(), Ended> {
        self.follower.restart();
        self.report(vec![Event::Restarted]).await
    }

    async fn report(&mut self, events: Vec<Event<R>>) -> Result<(), Ended> {
        let state = Reported {
            trouble: self.follower.trouble().map(ToOwned::to_owned),
            unreadable: self.follower.unreadable().clone(),
        };
        let changed = self.reported.as_ref() != Some(&state);
        if events.is_empty() && !changed {
            return Ok(());
        }
        let Reported { trouble, unreadable } = state.clone();
        let followed = Followed { events, trouble, unreadable: changed.then_some(unreadable) };
        self.reported = Some(state);
        let event = (self.event)(followed, self.follower.resource());
        self.events.send(event).await.map_err(|Closed| Ended::Closed)
    }
}

/// Why a step came to an end.
enum Ended {
    Failed(Failure),
    /// Nobody takes the events.
    Closed,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks for ever; counts in `restores` how often versions went back.
async fn watch_liveness(connection: Connection, events: Events, restores: watch::Sender<u64>) {
    let mut state = Liveness::default();
    let mut interval = time::interval(liveness::INTERVAL);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let answer = liveness::ask(&connection).await;
        let before = state.clone();
        if state.note(answer, Instant::now()) {
            restores.send_modify(|count| *count += 1);
        }
        if before == state {
            continue;
        }
        if events.send(KubeEvent::Liveness(state.clone())).await.is_err() {
            return;
        }
    }
}
