//! Tests of the cache writer: with real files for its effects, with paused time and a scripted disk for its order.

use std::fmt::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

use secrecy::ExposeSecret;
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;

/// The lines logged at info level and above on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn listen() -> (Self, DefaultGuard) {
        // With a single subscriber, a call site that another thread reaches first would be cached as disabled for all
        // threads.
        static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
        ANOTHER.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
        let log = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
        (log, guard)
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = event.metadata().level();
        if *level <= Level::INFO && event.metadata().target().starts_with("start_worker::run_spec::cache") {
            let mut line = Line(level.to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }
}

fn keeper(path: &Path) -> CacheWriter {
    CacheWriter::new(Some(path.to_owned()))
}

fn snapshot(text: &str) -> SecretString {
    text.to_owned().into()
}

/// A path below a regular file: nothing can be written there until the file gives way to a folder.
fn blocked() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let block = folder.path().join("block");
    std::fs::write(&block, "").unwrap();
    let path = block.join("run.json");
    (folder, block, path)
}

fn content(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Waits for an event on another thread, while the paused time stands still.
async fn until(happened: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "it does not happen");
        tokio::task::yield_now().await;
    }
}

/// A disk that writes when the test lets it, and records its requests.
struct Disk {
    asked: Receiver<String>,
    answers: Sender<bool>,
}

impl Disk {
    fn new() -> (Self, CacheWriter) {
        let (ask, asked) = channel();
        let (answers, answer) = channel();
        let answer = Arc::new(Mutex::new(answer));
        let carry_out = move |state: &DesiredState, _: &Path| {
            ask.send(match state {
                DesiredState::Holds(snapshot) => snapshot.expose_secret().to_owned(),
                DesiredState::Gone => "gone".to_owned(),
            })
            .unwrap();
            match answer.lock().unwrap().recv() {
                Ok(true) => Ok(()),
                // Any error will do.
                _ => atomic::remove(Path::new("/")),
            }
        };
        let writer = Writer::start(Path::new("/run.json").into(), carry_out);
        (Self { asked, answers }, CacheWriter { writer: Some(Arc::new(writer)) })
    }

    /// Takes all requests since the last call.
    fn asked(&self) -> Vec<String> {
        self.asked.try_iter().collect()
    }

    /// Waits for a request.
    async fn next(&self) -> String {
        let next = std::cell::OnceCell::new();
        until(|| self.asked.try_recv().is_ok_and(|asked| next.set(asked).is_ok())).await;
        next.into_inner().unwrap()
    }
}

#[tokio::test]
async fn without_a_cache_all_that_is_asked_for_succeeds() {
    let keeper = CacheWriter::new(None);
    assert!(keeper.save(snapshot("one")).await);
    assert!(keeper.remove().await);
    assert!(keeper.flush().await);
}

#[tokio::test]
async fn what_is_saved_is_on_the_disk_and_what_is_removed_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below/run.json");
    let (log, _guard) = Log::listen();
    let keeper = keeper(&path);
    assert!(keeper.remove().await, "there is nothing to remove");
    assert!(keeper.save(snapshot("one")).await);
    assert_eq!(content(&path).unwrap(), "one");
    assert!(keeper.clone().save(snapshot("two")).await);
    assert_eq!(content(&path).unwrap(), "two");
    assert!(keeper.remove().await);
    assert!(!path.exists());
    assert!(keeper.flush().await);
    assert!(!path.exists());
    assert!(log.take().is_empty(), "{:?}", log.take());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_and_tried_again_every_minute() {
    let (_folder, block, path) = blocked();
    let (log, _guard) = Log::listen();
    let keeper = keeper(&path);
    assert!(!keeper.save(snapshot("one")).await);
    let told = log.take().join("\n").replace(&block.display().to_string(), "/var");
    insta::assert_snapshot!(told, @r#"WARN message=the cached run cannot be written: after a restart the worker would start with an older one, or none; make room or repair it, it is tried again every minute path=/var/run.json error="cannot open the directory /var: Not a directory (os error 20)""#);

    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(log.take(), Vec::<String>::new());
    std::fs::remove_file(&block).unwrap();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(content(&path), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    until(|| !log.is_empty()).await;
    assert_eq!(content(&path).unwrap(), "one");
    let told = log.take().join("\n").replace(&block.display().to_string(), "/var");
    insta::assert_snapshot!(told, @"INFO message=the cached run can be written again, and is on the disk path=/var/run.json");
}

#[tokio::test(start_paused = true)]
async fn the_newest_snapshot_is_the_one_that_is_tried_again() {
    let (_folder, block, path) = blocked();
    let (log, _guard) = Log::listen();
    let keeper = keeper(&path);
    assert!(!keeper.save(snapshot("one")).await);
    assert!(!keeper.save(snapshot("two")).await);
    assert_eq!(log.take().len(), 1);
    std::fs::remove_file(&block).unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    until(|| content(&path).is_some()).await;
    assert_eq!(content(&path).unwrap(), "two");
    assert!(keeper.save(snapshot("three")).await);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(content(&path).unwrap(), "three");
}

#[tokio::test(start_paused = true)]
async fn a_removal_supersedes_what_is_tried_again() {
    let (_folder, block, path) = blocked();
    let keeper = keeper(&path);
    assert!(!keeper.save(snapshot("one")).await);
    assert!(keeper.remove().await, "there is nothing below a file");
    std::fs::remove_file(&block).unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    std::fs::create_dir(&path).unwrap();
    let (log, _guard) = Log::listen();
    let keeper = keeper(&path);
    assert!(!keeper.remove().await);
    assert!(log.take().concat().contains("cannot be removed"));
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "one").unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    until(|| !path.exists()).await;
    until(|| log.take().concat().contains("the cached run is removed")).await;
}

#[tokio::test]
async fn a_flush_does_not_wait_for_the_minute() {
    let (_folder, block, path) = blocked();
    let keeper = keeper(&path);
    assert!(!keeper.save(snapshot("one")).await);
    assert!(!keeper.flush().await);
    std::fs::remove_file(&block).unwrap();
    assert!(keeper.flush().await);
    assert_eq!(content(&path).unwrap(), "one");
}

#[tokio::test]
async fn one_is_written_at_a_time_and_never_an_older_after_a_newer() {
    let (disk, keeper) = Disk::new();
    let first = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.save(snapshot("0")).await }
    });
    assert_eq!(disk.next().await, "0");
    // Asked for while the first is being written.
    let later: Vec<_> = (1..=20)
        .map(|number| {
            let keeper = keeper.clone();
            tokio::spawn(async move { keeper.save(snapshot(&number.to_string())).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(disk.asked(), Vec::<String>::new());
    for _ in 0..21 {
        disk.answers.send(true).unwrap();
    }
    assert!(first.await.unwrap());
    for save in later {
        assert!(save.await.unwrap());
    }
    assert_eq!(disk.asked(), ["20"], "the newest stands for all");
}

#[tokio::test]
async fn a_save_is_carried_out_even_if_whoever_asked_does_not_wait() {
    let (disk, keeper) = Disk::new();
    let save = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.save(snapshot("two")).await }
    });
    tokio::task::yield_now().await;
    save.abort();
    assert!(save.await.unwrap_err().is_cancelled());
    disk.answers.send(true).unwrap();
    assert!(keeper.flush().await);
    assert_eq!(disk.asked(), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_keeps_nobody_waiting_for_ever() {
    let (disk, keeper) = Disk::new();
    let (log, _guard) = Log::listen();
    let save = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.save(snapshot("one")).await }
    });
    assert_eq!(disk.next().await, "one");
    // Time does not pass by itself while something blocks.
    tokio::time::advance(PATIENCE).await;
    assert!(!save.await.unwrap());
    assert!(log.take().concat().contains("does not answer"));
    disk.answers.send(true).unwrap();
    assert!(keeper.flush().await);
    assert_eq!(disk.asked(), Vec::<String>::new(), "it is not written twice");
}

#[tokio::test]
async fn a_keeper_does_not_show_what_it_keeps() {
    let (_folder, _block, path) = blocked();
    let keeper = keeper(&path);
    assert!(!keeper.save(snapshot("hush")).await);
    assert!(!format!("{keeper:?}").contains("hush"));
}

#[tokio::test]
async fn what_was_removed_is_not_brought_back_by_a_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    let keeper = keeper(&path);
    assert!(keeper.renew(snapshot("first")).await);
    assert!(keeper.renew(snapshot("renewed")).await);
    assert_eq!(content(&path).as_deref(), Some("renewed"));
    assert!(keeper.remove().await);
    assert!(keeper.renew(snapshot("renewed again")).await);
    assert_eq!(content(&path), None);
    assert!(keeper.save(snapshot("another run")).await);
    assert!(keeper.renew(snapshot("the other run, renewed")).await);
    assert_eq!(content(&path).as_deref(), Some("the other run, renewed"));
}
