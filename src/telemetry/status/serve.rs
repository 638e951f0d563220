//! Handles the connections, with limits on their number, their time and the length of lines, and only for authorized
//! users.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::answer::StatusAnswer;
use super::request::{Answer, Request};
use super::{Counterparts, Resume};
use crate::event::{Phase, StopRequest, Strength};
use crate::hold::HoldError;
use crate::host::drain_marker::HoldRecord;
use crate::redact::cut;
use crate::telemetry::logging::Filter;

/// Maximum number of connections. Further ones wait until they are accepted.
const CONNECTIONS: usize = 32;

/// Maximum number of additional clients that wait for a drain's end or for changes.
pub(super) const WAITING: usize = 64;

/// Time limit for a client to send its next request, and to read an answer.
const IDLE: Duration = Duration::from_secs(10);

/// Names the level that the runner was started with.
const CONFIGURED: &str = "configured";

/// Maximum duration of a temporary level.
const LONGEST_LEVEL: Duration = Duration::from_secs(24 * 3600);

/// Maximum length of the quoted cause if a level is invalid, in characters.
const LONGEST_CAUSE: usize = 200;

/// Maximum length of a request, in bytes.
const LONGEST_LINE: usize = 16 * 1024;

/// Delay of a retry after a failed accept (no more file descriptors).
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// The state shared by all connections.
pub(super) struct Server {
    pub(super) counterparts: Counterparts,
    pub(super) waiting: Arc<Semaphore>,
    /// The runner's outcome, once it has ended.
    pub(super) ended: watch::Receiver<Option<String>>,
}

/// Accepts connections until the runner has ended.
pub(super) async fn serve(listener: UnixListener, server: Arc<Server>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => drop(tasks.spawn(server.clone().keep(stream, place))),
                Err(cause) => {
                    warn!(error = %cause, "the status socket cannot accept a connection");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = server.end() => {}
        () = accepting => {}
    }
}

/// A line from a client.
enum Line {
    Request(Vec<u8>),
    TooLong,
}

impl Server {
    /// Waits for the runner's outcome.
    async fn end(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        // If the sender is gone, the runner has ended without an outcome.
        ended.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }

    async fn keep(self: Arc<Self>, stream: UnixStream, place: OwnedSemaphorePermit) {
        if let Err(cause) = self.converse(stream, place).await {
            debug!(error = %cause, "a connection to the status socket has ended");
        }
    }

    /// Answers requests one after the other.
    async fn converse(&self, stream: UnixStream, place: OwnedSemaphorePermit) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        let peer_pid = peer.pid().unwrap_or(0);
        let (reader, mut writer) = stream.into_split();
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            warn!(name: "status-request-refused", uid = peer.uid(), from_pid = peer_pid, "another user speaks to the status socket: refused");
            let refusal = "only root and the runner's own user may speak to it".to_owned();
            return answer(&mut writer, &Answer::Error(refusal)).await;
        }
        let mut reader = BufReader::new(reader);
        loop {
            let line = tokio::select! {
                biased;
                _ = self.end() => return Ok(()),
                line = timeout(IDLE, next_line(&mut reader)) => line??,
            };
            let request = match line {
                None => return Ok(()),
                Some(Line::TooLong) => {
                    let complaint = format!("not a request: longer than {LONGEST_LINE} bytes");
                    return answer(&mut writer, &Answer::Error(complaint)).await;
                }
                Some(Line::Request(line)) => Request::parse(&line),
            };
            let said = match request {
                Ok(request @ Request::Drain { wait: true, .. }) => {
                    drop(place);
                    return self.drain_and_wait(self.perform(request, &peer).await, reader, writer).await;
                }
                Ok(Request::Status { watch: true }) => {
                    drop(place);
                    return self.tell_changes(reader, writer).await;
                }
                Ok(request) => self.perform(request, &peer).await,
                Err(complaint) => complaint,
            };
            answer(&mut writer, &said).await?;
        }
    }

    async fn perform(&self, request: Request, peer: &UCred) -> Answer {
        let from_pid = peer.pid().unwrap_or(0);
        let record = |by: Option<String>, reason: Option<String>| {
            let by = by.unwrap_or_else(|| format!("uid {}", peer.uid()));
            HoldRecord::new(Some(&by), Timestamp::now(), reason.as_deref())
        };
        match request {
            Request::Status { .. } => Answer::Status(Box::new(StatusAnswer::new(&self.counterparts.view))),
            Request::Drain { once, by, reason, .. } => {
                info!(name: "drain-asked", from_pid, once, "asked to drain through the status socket");
                self.drain(once, record(by, reason)).await
            }
            Request::Hold { by, reason } => {
                info!(name: "hold-asked", from_pid, "asked to hold through the status socket");
                match self.counterparts.hold.set(record(by, reason)).await {
                    Ok(held) => Answer::Hold(held.to_string()),
                    Err(cause) => Answer::Error(format!("this host is not held: {cause}")),
                }
            }
            Request::Resume {} => {
                info!(name: "resume-asked", from_pid, "asked to resume through the status socket");
                match self.counterparts.hold.release().await {
                    Ok(true) => Answer::RESUMED,
                    Ok(false) | Err(HoldError::NoPlace) => self.skip_pause().await,
                    Err(cause) => Answer::Error(format!("still holding: {cause}")),
                }
            }
            Request::LogLevel { level, seconds } => self.set_log_level(&level, seconds, from_pid),
        }
    }

    /// Sets the level of the runner's log. The configured level returns after `seconds`.
    fn set_log_level(&self, level: &str, seconds: u64, peer_pid: i32) -> Answer {
        let log = self.counterparts.log.clone();
        if level == CONFIGURED {
            log.reset();
            info!(name: "log-level-configured", from_pid = peer_pid, "logging at the configured level again");
            return Answer::LogLevel { level: level.to_owned(), until: None };
        }
        let filter = match level.parse::<Filter>() {
            Ok(filter) => filter,
            Err(cause) => return Answer::Error(cut(&cause.to_string(), LONGEST_CAUSE, "…").into_owned()),
        };
        let time = Duration::from_secs(seconds);
        if time.is_zero() || time > LONGEST_LEVEL {
            return Answer::Error("a log level is set for a second at least and a day at most".to_owned());
        }
        let until =
            Timestamp::now().saturating_add(time).map_or_else(|_| String::new(), |at| format!("{at:.0}"));
        info!(name: "log-level-asked", from_pid = peer_pid, level, until, "asked to log at another level through the status socket");
        let change = log.set(filter);
        drop(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if log.reset_if(change) {
                info!(name: "log-level-configured", "logging at the configured level again");
            }
        }));
        Answer::LogLevel { level: level.to_owned(), until: Some(until) }
    }

    /// Ends a pause before the next start.
    async fn skip_pause(&self) -> Answer {
        if self.counterparts.view.board.borrow().summary.phase != Phase::BackingOff {
            return Answer::NOT_HOLDING;
        }
        let (sender, answered) = oneshot::channel();
        if self.counterparts.resumes.send(Resume { answer: sender }).await.is_err() {
            return Answer::NOT_HOLDING;
        }
        match answered.await {
            Ok(Ok(())) => Answer::RESUMED,
            Ok(Err(cause)) => Answer::Error(format!("still waiting: {cause}")),
            // Another client was faster.
            Err(_) => Answer::NOT_HOLDING,
        }
    }

    /// The hold is on the disk before the worker is asked to finish: whatever happens from then on, no other worker is
    /// started. Where it cannot be, the drain goes on all the same.
    async fn drain(&self, once: bool, record: HoldRecord) -> Answer {
        let Counterparts { hold, stop, .. } = &self.counterparts;
        if once {
            hold.note_drain_once(record);
            stop.request(StopRequest::DRAIN_ONCE);
            return Answer::draining(None);
        }
        let not_held = hold.set(record).await.err().map(|cause| {
            warn!(name: "hold-failed", error = %cause, "drained, and the host is not held: a worker is started at the next start of the service");
            cause.to_string()
        });
        stop.request(StopRequest::operator(Strength::Drain));
        Answer::draining(not_held)
    }

    /// Answers now and after every change, until the runner ends or the client disconnects. Changes that come faster
    /// than the client reads are combined.
    async fn tell_changes(
        &self,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let Ok(_waiting) = self.waiting.clone().try_acquire_owned() else {
            let complaint = format!("{WAITING} wait for changes or a drain's end already");
            return answer(&mut writer, &Answer::Error(complaint)).await;
        };
        let mut view = self.counterparts.view.clone();
        loop {
            view.board.mark_unchanged();
            view.recent_warnings.mark_unchanged();
            view.hold.mark_unchanged();
            answer(&mut writer, &Answer::Status(Box::new(StatusAnswer::new(&view)))).await?;
            tokio::select! {
                biased;
                // Polled first, because the last change comes with the end.
                changed = view.changed() => if !changed { return Ok(()) },
                _ = self.end() => return Ok(()),
                more = reader.fill_buf() => {
                    if !more?.is_empty() {
                        let complaint = "nothing can follow a request that waits".to_owned();
                        answer(&mut writer, &Answer::Error(complaint)).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Answers when the runner ends, unless the client disconnects before.
    async fn drain_and_wait(
        &self,
        asked: Answer,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let not_held = if let Answer::Drain { not_held, .. } = asked { not_held } else { None };
        let Ok(_waiting) = self.waiting.clone().try_acquire_owned() else {
            let complaint = format!("the drain is asked for, but {WAITING} wait for its end already");
            return answer(&mut writer, &Answer::Error(complaint)).await;
        };
        tokio::select! {
            biased;
            outcome = self.end() => match outcome {
                Some(outcome) => answer(&mut writer, &Answer::ended(outcome, not_held)).await,
                None => Ok(()),
            },
            more = reader.fill_buf() => {
                if !more?.is_empty() {
                    let complaint = "the drain is asked for; nothing can follow a request that waits".to_owned();
                    answer(&mut writer, &Answer::Error(complaint)).await?;
                }
                Ok(())
            }
        }
    }
}

/// The next request, without its newline; `None`: the client has disconnected.
async fn next_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Line>> {
    let longest = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    if reader.take(longest + 1).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() && line.len() > LONGEST_LINE {
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(Line::Request(line)))
}

async fn answer(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    timeout(IDLE, writer.write_all(&answer.line())).await?
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;
    use crate::clock::SystemClock;
    use crate::hold::Hold;
    use crate::host::blocking::Lane;
    use crate::output::{Format, Output};
    use crate::stop::StopSignal;
    use crate::telemetry::View;
    use crate::telemetry::logging::LogLevel;
    use crate::telemetry::recent_warnings::{RecentWarnings, Warning};
    use crate::telemetry::status_board::StatusPublisher;

    const A_DAY: Duration = Duration::from_secs(24 * 3600);

    struct Runner {
        server: Arc<Server>,
        ended: watch::Sender<Option<String>>,
        publisher: StatusPublisher,
        recent_warnings: RecentWarnings,
    }

    fn runner() -> Runner {
        let (ended, end) = watch::channel(None);
        let (publisher, recent_warnings) =
            (StatusPublisher::new(Arc::new(SystemClock)), RecentWarnings::default());
        let sink = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let output = Output::start(sink.into(), Format::Text).unwrap();
        let counterparts = Counterparts {
            view: View::new(&publisher, &recent_warnings, output.counters(), "static", "generic-worker"),
            stop: StopSignal::default(),
            hold: Hold::new(None, Lane::default()),
            resumes: mpsc::channel(1).0,
            log: LogLevel::default(),
        };
        let server =
            Arc::new(Server { counterparts, waiting: Arc::new(Semaphore::new(WAITING)), ended: end });
        Runner { server, ended, publisher, recent_warnings }
    }

    impl Runner {
        fn connect(&self) -> (BufReader<UnixStream>, JoinHandle<io::Result<()>>) {
            let (client, server) = UnixStream::pair().unwrap();
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let listener = self.server.clone();
            (BufReader::new(client), tokio::spawn(async move { listener.converse(server, place).await }))
        }
    }

    /// Runs all tasks that can make progress without time passing. The clock is paused.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn answer(client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let runner = runner();
        let start = Instant::now();
        let (_client, connection) = runner.connect();
        assert_eq!(connection.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_let_go() {
        let runner = runner();
        let (mut client, connection) = runner.connect();
        let start = Instant::now();
        let error = tokio::select! {
            biased;
            error = connection => error.unwrap().unwrap_err(),
            () = async { while client.write_all(b"{\"request\":\"status\"}\n").await.is_ok() {} } => {
                panic!("the client was let go before its time")
            }
        };
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, IDLE.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_drain_may_wait_for_days_but_not_everybody_can() {
        let runner = runner();
        let mut clients = Vec::new();
        for _ in 0..=WAITING {
            let (mut client, _) = runner.connect();
            client.write_all(b"{\"request\":\"drain\",\"once\":true,\"wait\":true}\n").await.unwrap();
            settle().await;
            assert_eq!(runner.server.counterparts.stop.current(), Some(StopRequest::DRAIN_ONCE));
            clients.push(client);
        }
        let last = answer(clients.last_mut().unwrap()).await;
        assert!(last.contains("64 wait for its end already"), "{last}");
        tokio::time::sleep(A_DAY).await;
        // A client that gives up makes room for another.
        drop(clients.remove(0));
        let (mut another, _) = runner.connect();
        settle().await;
        another.write_all(b"{\"request\":\"drain\",\"once\":true,\"wait\":true}\n").await.unwrap();
        settle().await;
        clients.pop();
        clients.push(another);
        runner.ended.send_replace(Some("stopped as asked".to_owned()));
        for client in &mut clients {
            assert_eq!(answer(client).await, "{\"drain\":\"ended\",\"outcome\":\"stopped as asked\"}\n");
            assert_eq!(answer(client).await, "");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_follows_a_request_that_waits() {
        let runner = runner();
        let (mut client, _) = runner.connect();
        client.write_all(b"{\"request\":\"drain\",\"once\":true,\"wait\":true}\n").await.unwrap();
        settle().await;
        client.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
        assert!(answer(&mut client).await.contains("nothing can follow"));
        assert_eq!(answer(&mut client).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_is_told_of_every_change_until_the_end() {
        let runner = runner();
        let (mut client, connection) = runner.connect();
        client.write_all(b"{\"request\":\"status\",\"watch\":true}\n").await.unwrap();
        assert!(answer(&mut client).await.contains("\"state\":\"preparing\""));
        tokio::time::sleep(A_DAY).await;
        runner.publisher.publish(Phase::Starting.into());
        runner.publisher.publish(Phase::Running.into());
        assert!(answer(&mut client).await.contains("\"state\":\"running\""), "two at once are one change");
        runner.recent_warnings.note(Warning {
            at: Timestamp::UNIX_EPOCH,
            is_error: true,
            text: "oh dear".to_owned(),
        });
        assert!(answer(&mut client).await.contains("oh dear"));
        runner.publisher.publish(Phase::Ended.into());
        runner.ended.send_replace(Some("stopped as asked".to_owned()));
        assert!(answer(&mut client).await.contains("\"state\":\"ended\""));
        assert_eq!(answer(&mut client).await, "");
        connection.await.unwrap().unwrap();
    }
}
