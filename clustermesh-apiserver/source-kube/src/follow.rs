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
    config_map::ConfigMapResource,
    connection::Connection,
    drain::{self, FollowedDrain},
    events::{Closed, Events, FollowedKind, KubeEvent},
    failure::Failure,
    follower::{Event, Followed, Follower, Problems, Request},
    identities::{FollowedIdentities, MeshIdentityResource},
    identity_requests,
    liveness::{self, Liveness},
    object_events::{self, ObjectEvent},
    resource::{FOLLOWED, Resource},
    users::{self, FollowedUsers},
};

/// What the API server is asked for.
#[derive(Debug)]
pub struct KubeRequests {
    /// Requests about identities.
    pub identities: mpsc::UnboundedReceiver<IdentityRequest>,
    /// Events about objects.
    pub events: mpsc::UnboundedReceiver<ObjectEvent>,
}

/// Follows all kinds and the objects of identities, and executes requests, until a receiver of events is dropped. `wake` is
/// called after each that was sent to `sender`.
pub async fn follow(
    connection: Connection,
    sender: mpsc::Sender<KubeEvent>,
    users: mpsc::Sender<FollowedUsers>,
    requests: KubeRequests,
    wake: impl Fn() + Send + Sync + 'static,
) {
    let events = Events { sender, wake: Arc::new(wake) };
    let (drained_sender, drain_listed) = watch::channel(false);
    // Other versions than before: the history that watches go on from is not the API server's any more.
    let (restores, restored) = watch::channel(0_u64);
    let mut tasks = JoinSet::new();
    tasks.spawn(watch_liveness(connection.clone(), events.clone(), restores));
    let KubeRequests { identities, events: about_objects } = requests;
    tasks.spawn(identity_requests::execute(connection.clone(), events.clone(), identities));
    tasks.spawn(object_events::write(connection.clone(), events.clone(), about_objects));
    let of_users = Events { sender: users, wake: Arc::new(|| ()) };
    let of_users =
        Shared { connection: connection.clone(), events: of_users, restored: restored.clone() };
    let config_map = ConfigMapResource::new(&users::FILE, connection.namespace());
    let users = |followed, _: &ConfigMapResource<_>| FollowedUsers::new(followed);
    tasks.spawn(Task::new(&of_users, config_map, 8, users).run(None, None));
    let shared = Shared { connection, events, restored };
    let identities = |followed, _: &MeshIdentityResource| {
        KubeEvent::Identities(FollowedIdentities::new(followed))
    };
    tasks.spawn(Task::new(&shared, MeshIdentityResource, 0, identities).run(None, None));
    // Before the objects, so that an endpoint on a drained node is never exported as ready.
    let config_map = ConfigMapResource::new(&drain::FILE, shared.connection.namespace());
    let drained =
        |followed, _: &ConfigMapResource<_>| KubeEvent::Drain(FollowedDrain::new(followed));
    tasks.spawn(Task::new(&shared, config_map, 7, drained).run(Some(drained_sender), None));
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
        tasks.spawn(Task::new(&shared, kind, seed, of_kind).run(Some(first), after));
    }
    // One ends when the receiver of the events is dropped; the others end with this.
    tasks.join_next().await;
}

fn of_kind(followed: Followed<Kind>, kind: &Kind) -> KubeEvent {
    let Followed { events, problems } = followed;
    let events = events.into_iter().filter_map(|event| event.of_source(*kind)).collect();
    KubeEvent::Kind(FollowedKind { kind: *kind, events, problems })
}

/// What all tasks have.
struct Shared<E> {
    connection: Connection,
    events: Events<E>,
    /// Changes whenever the API server's history is another one.
    restored: watch::Receiver<u64>,
}

/// One resource's.
struct Task<R: Resource, E> {
    connection: Connection,
    follower: Follower<R>,
    events: Events<E>,
    restored: watch::Receiver<u64>,
    /// Makes an event of what the follower reports.
    event: fn(Followed<R>, &R) -> E,
    /// The problems that were reported.
    reported: Option<Problems<R::Key>>,
}

impl<R: Resource, E> Task<R, E> {
    fn new(shared: &Shared<E>, resource: R, seed: u64, event: fn(Followed<R>, &R) -> E) -> Self {
        Self {
            connection: shared.connection.clone(),
            follower: Follower::new(resource, seed),
            events: shared.events.clone(),
            restored: shared.restored.clone(),
            event,
            reported: None,
        }
    }

    /// `first`: to be set when this resource, that others wait for, was listed. `after`: set when it may begin.
    async fn run(
        mut self,
        first: Option<watch::Sender<bool>>,
        after: Option<watch::Receiver<bool>>,
    ) {
        if let Some(mut after) = after
            && after.wait_for(|listed| *listed).await.is_err()
        {
            return;
        }
        let mut restored = self.restored.clone();
        loop {
            let done = tokio::select! {
                done = self.advance() => done,
                changed = restored.changed() => match changed {
                    Ok(()) => self.restart().await,
                    Err(_) => Err(Closed),
                },
            };
            if done.is_err() {
                return;
            }
            if let (Some(first), Request::Watch { .. }) = (&first, self.follower.request()) {
                first.send_replace(true);
            }
        }
    }

    /// One request, whole, and the pause after it if it fails.
    async fn advance(&mut self) -> Result<(), Closed> {
        match self.step().await {
            Ok(()) => Ok(()),
            Err(Ended::Closed) => Err(Closed),
            Err(Ended::Failed(failure)) => {
                let absent = self.follower.absent(&failure);
                let (events, pause) =
                    absent.unwrap_or_else(|| (Vec::new(), self.follower.failed(&failure)));
                self.report(events).await?;
                time::sleep(pause).await;
                Ok(())
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
                Ok(self.report(events).await?)
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
    async fn restart(&mut self) -> Result<(), Closed> {
        self.follower.restart();
        // What was being reported may not have arrived.
        self.reported = None;
        self.report(vec![Event::Restarted]).await
    }

    async fn report(&mut self, events: Vec<Event<R>>) -> Result<(), Closed> {
        let problems = self.follower.problems();
        let problems = (self.reported.as_ref() != Some(problems)).then(|| problems.clone());
        if events.is_empty() && problems.is_none() {
            return Ok(());
        }
        if problems.is_some() {
            self.reported.clone_from(&problems);
        }
        let event = (self.event)(Followed { events, problems }, self.follower.resource());
        self.events.send(event).await
    }
}

/// Why a step came to an end.
enum Ended {
    Failed(Failure),
    Closed,
}

impl From<Closed> for Ended {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks until the receiver of the events is dropped; counts in `restores` how often versions went back.
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
