//! Waits for answers of an etcd, and reports those that take long.

use std::time::Duration;

use mesh_etcd::EtcdError;

/// If an answer takes longer, the apiserver is not ready. As it asks every second, it detects an etcd that hangs within three
/// seconds.
const SLOW: Duration = Duration::from_secs(2);
/// If an answer takes longer, the connection fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for an answer to `to`. Calls `report` with a message when that takes long, and then with `None` when the wait is
/// over.
pub(super) async fn patiently<T, S: Future<Output = ()>>(
    to: &str,
    request: impl Future<Output = Result<T, EtcdError>>,
    sleep: impl Fn(Duration) -> S,
    report: impl Fn(Option<String>),
) -> Result<T, EtcdError> {
    let mut request = std::pin::pin!(request);
    tokio::select! {
        biased;
        answer = &mut request => return answer,
        () = sleep(SLOW) => report(Some(format!("no answer to {to} within {SLOW:?}"))),
    }
    let answer = tokio::select! {
        biased;
        answer = &mut request => answer,
        () = sleep(PATIENCE - SLOW) => {
            Err(EtcdError::Slow(format!("no answer to {to} within {PATIENCE:?}")))
        }
    };
    report(None);
    answer
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{Arc, Mutex},
    };

    use tokio::{
        sync::{mpsc, oneshot, watch},
        task::JoinHandle,
    };

    use super::*;
    use crate::writer::StoreState;

    /// A wait for an answer, the state to which it reports, and the test's clock.
    struct Wait {
        time: watch::Sender<Duration>,
        state: Arc<Mutex<StoreState>>,
        reported: mpsc::UnboundedReceiver<()>,
        waiting: JoinHandle<Result<u8, EtcdError>>,
    }

    fn wait_for(request: impl Future<Output = Result<u8, EtcdError>> + Send + 'static) -> Wait {
        let (time, clock) = watch::channel(Duration::ZERO);
        let sleep = move |length: Duration| {
            let mut clock = clock.clone();
            async move {
                let end = *clock.borrow() + length;
                // The test holds the other end.
                let _ = clock.wait_for(|now| *now >= end).await;
            }
        };
        let state = Arc::new(Mutex::new(StoreState::default()));
        // The apiserver was ready before.
        state.lock().unwrap().synced = true;
        let (sender, reported) = mpsc::unbounded_channel();
        let shared = Arc::clone(&state);
        let report = move |slow: Option<String>| {
            shared.lock().unwrap().slow = slow;
            let _ = sender.send(());
        };
        let waiting =
            tokio::spawn(async move { patiently("a question", request, sleep, report).await });
        Wait { time, state, reported, waiting }
    }

    impl Wait {
        fn unready(&self) -> Option<String> {
            self.state.lock().unwrap().unready()
        }
    }

    #[tokio::test]
    async fn the_apiserver_is_not_ready_while_its_etcd_hangs() {
        let mut hung = wait_for(pending());
        assert_eq!(hung.unready(), None);
        // Let the wait begin before the clock moves.
        tokio::task::yield_now().await;
        hung.time.send_replace(SLOW);
        hung.reported.recv().await.unwrap();
        assert_eq!(hung.unready().unwrap(), "etcd: slow: no answer to a question within 2s");
        tokio::task::yield_now().await;
        hung.time.send_replace(PATIENCE);
        let failed = hung.waiting.await.unwrap().unwrap_err().to_string();
        assert_eq!(failed, "the etcd is slow: no answer to a question within 30s");
    }

    #[tokio::test]
    async fn a_late_answer_ends_the_report() {
        let (answer, answered) = oneshot::channel();
        let mut late = wait_for(async move { Ok(answered.await.unwrap()) });
        tokio::task::yield_now().await;
        late.time.send_replace(SLOW);
        late.reported.recv().await.unwrap();
        assert!(late.unready().is_some());
        answer.send(7).unwrap();
        late.reported.recv().await.unwrap();
        assert_eq!(late.unready(), None);
        assert_eq!(late.waiting.await.unwrap().unwrap(), 7);

        let mut soon = wait_for(async { Ok(7) });
        assert_eq!(soon.waiting.await.unwrap().unwrap(), 7);
        assert!(soon.reported.try_recv().is_err(), "an answer in time is not reported");
    }
}
