//! The liveness of a loop, checked by a request that the loop answers. Costs nothing without requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// A loop's liveness. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Liveness(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// The number of requests so far.
    asked: watch::Sender<u64>,
    beat: watch::Sender<Beat>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Beat {
    /// The last request that was answered.
    answered: u64,
    /// True while the loop exists.
    attended: bool,
}

/// The loop's side. Dropping it means that the loop has ended.
#[derive(Debug)]
pub struct Responder {
    liveness: Liveness,
    asked: watch::Receiver<u64>,
}

impl Liveness {
    /// Registers the loop that answers from now on.
    pub fn attend(&self) -> Responder {
        self.0.beat.send_modify(|beat| beat.attended = true);
        // Makes the requests to an earlier loop visible, too.
        let mut asked = self.0.asked.subscribe();
        asked.mark_changed();
        Responder { liveness: self.clone(), asked }
    }

    /// Returns true if the loop answers within `limit`. Without a loop, nothing hangs, and this returns true.
    pub async fn beats(&self, limit: Duration) -> bool {
        let mut beat = self.0.beat.subscribe();
        if !beat.borrow().attended {
            return true;
        }
        let mut number = 0;
        self.0.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let answered = beat.wait_for(|beat| beat.answered >= number || !beat.attended);
        timeout(limit, answered).await.is_ok()
    }
}

impl Responder {
    /// Waits for a request. Cancel-safe.
    pub async fn asked(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Answers after an iteration of the loop.
    pub fn answer(&mut self) {
        let answered = *self.asked.borrow_and_update();
        self.liveness.0.beat.send_modify(|beat| beat.answered = answered);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.liveness.0.beat.send_modify(|beat| beat.attended = false);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_comes_round_has_a_pulse_and_one_that_hangs_has_none() {
        let liveness = Liveness::default();
        let mut attendant = liveness.attend();
        let (hang, mut told_to_hang) = oneshot::channel::<()>();
        let looping = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut told_to_hang => std::future::pending::<()>().await,
                    () = attendant.asked() => attendant.answer(),
                }
            }
        });
        for _ in 0..3 {
            assert!(liveness.beats(LIMIT).await);
        }
        let both = tokio::join!(liveness.beats(LIMIT), liveness.beats(LIMIT));
        assert_eq!(both, (true, true));
        hang.send(()).unwrap();
        assert!(!liveness.beats(LIMIT).await);
        looping.abort();
        let _ = looping.await;
        assert!(liveness.beats(LIMIT).await, "without a loop nothing hangs");
    }
}
