//! Calls that block, one at a time and with a time limit.

use tokio::{sync::oneshot, task::JoinHandle};

/// Something whose calls block (a socket, a folder), used on the runtime's threads for that. A call that does not
/// return keeps this resource and one thread, and nothing else: further calls fail immediately until it does.
#[derive(Debug)]
pub struct Blocking<R> {
    at: At<R>,
}

/// Why a call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The one before goes on.
    #[error("the call before has not returned yet")]
    Busy,
    /// One panicked, and the resource is gone.
    #[error("a call panicked")]
    Panicked,
}

#[derive(Debug)]
enum At<R> {
    Here(R),
    /// With a call; it brings it back.
    Away(JoinHandle<R>),
    Lost,
}

// === impl Blocking ===

impl<R: Send + 'static> Blocking<R> {
    /// Takes the resource.
    pub fn new(resource: R) -> Self {
        Self { at: At::Here(resource) }
    }

    /// Runs a call.
    ///
    /// Cancel safety: a dropped call goes on, and its result is lost; the resource is back when it ends.
    ///
    /// # Errors
    /// When the call before has not returned, or a call panicked.
    pub async fn run<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut R) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        if let At::Away(running) = &self.at
            && !running.is_finished()
        {
            return Err(CallError::Busy);
        }
        let mut resource = self.come_back().await?;
        let (sender, receiver) = oneshot::channel();
        self.at = At::Away(tokio::task::spawn_blocking(move || {
            let _ = sender.send(call(&mut resource));
            resource
        }));
        let result = receiver.await;
        let resource = self.come_back().await?;
        self.at = At::Here(resource);
        result.map_err(|_| CallError::Panicked)
    }

    /// The resource, once its call has ended. Dropped before that, the resource stays with its call.
    async fn come_back(&mut self) -> Result<R, CallError> {
        if let At::Away(running) = &mut self.at {
            self.at = running.await.map_or(At::Lost, At::Here);
        }
        match std::mem::replace(&mut self.at, At::Lost) {
            At::Here(resource) => Ok(resource),
            At::Away(_) | At::Lost => Err(CallError::Panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_is_not_followed_by_another_and_the_resource_comes_back() {
        let (release, held) = mpsc::channel::<()>();
        let mut blocking = Blocking::new(0_u32);
        for expected in 1..100 {
            let count = blocking.run(|count| {
                *count += 1;
                *count
            });
            assert_eq!(count.await, Ok(expected), "one call after another");
        }
        let hangs = blocking.run(move |_| held.recv().is_ok());
        assert!(tokio::time::timeout(Duration::ZERO, hangs).await.is_err());
        assert_eq!(blocking.run(|_| ()).await, Err(CallError::Busy));
        release.send(()).unwrap();
        let count = loop {
            match blocking.run(|count| *count).await {
                Ok(count) => break count,
                Err(error) => assert_eq!(error, CallError::Busy),
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(count, 99);
        assert_eq!(blocking.run(|_| panic!("on purpose")).await, Err::<(), _>(CallError::Panicked));
        assert_eq!(blocking.run(|_| ()).await, Err(CallError::Panicked));
    }
}
