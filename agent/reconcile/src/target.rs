//! State outside this process.

use std::{collections::BTreeMap, error::Error, fmt::Debug, future::Future, time::Duration};

use crate::{failure::Failure, order::Order, reconciler::Job};

/// One kind of state outside this process, such as the routes of a node. [`crate::Writer`] brings it to what is wanted.
pub trait Target: Send + 'static {
    /// The name of a part of the state.
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    /// The value of such a part.
    type Value: PartialEq + Clone + Debug + Send + Sync + 'static;
    /// Which of several keys is written first.
    type Order: Order<Self::Key, Group: Send> + Send + 'static;
    /// Why the state cannot be listed.
    type Error: Error + Send;

    /// Writes some keys and returns the outcome of each, in their order. Setting a key to the value that it has and
    /// removing one that does not exist are no failures.
    ///
    /// Cancel safety: the writer drops this future when it takes too long, and treats all its keys as failed. An
    /// operation that was begun may still happen; the next call must tolerate that.
    fn apply(
        &mut self,
        jobs: &[Job<Self::Key, Self::Value>],
    ) -> impl Future<Output = Vec<Result<(), Failure>>> + Send;

    /// All of this state that is ours, whichever process wrote it.
    ///
    /// Cancel safety: as of [`Target::apply`].
    fn list(&mut self) -> impl Future<Output = Result<Listed<Self>, Self::Error>> + Send;

    /// Waits until the outside reports something, and returns what that means. Reports that the target's own writes
    /// cause are left out.
    ///
    /// Cancel safety: nothing is lost when this future is dropped.
    fn changed(&mut self) -> impl Future<Output = Vec<Report<Self::Key>>> + Send;

    /// A key in words, for an operator.
    fn describe(&self, key: &Self::Key) -> String;

    /// A key that could not be written before is as wanted, or could not be written for this new reason.
    fn outcome(&mut self, key: &Self::Key, result: Result<(), &Failure>) {
        let _ = (key, result);
    }

    /// How long a key that was just written is left alone, by how long that took.
    fn rest(&self, took: Duration) -> Duration {
        let _ = took;
        Duration::ZERO
    }
}

/// The present state, by key.
pub type Listed<T> = BTreeMap<<T as Target>::Key, <T as Target>::Value>;

/// The meaning of a report of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<K> {
    /// A write of this key may succeed now.
    Relevant(K),
    /// Another program changed or removed this key.
    Gone(K),
    /// Something may have changed, and only a list shows what.
    Look,
}
