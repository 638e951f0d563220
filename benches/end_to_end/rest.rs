//! The idle runner: memory, threads, wake-ups, and size on disk.
#![expect(clippy::cast_precision_loss, reason = "sizes and counts far below 2^52")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::measure::{Running, field, pause, switches};
use crate::scene::{Scene, binary};
use crate::table::{Row, Target};
use crate::taskcluster::Taskcluster;
use crate::{Result, worker};

/// Until the threads that helped at the start have ended (tokio's after 10 s).
const SETTLE: Duration = Duration::from_secs(12);

/// Time in which wake-ups are counted.
const WATCH: Duration = Duration::from_secs(10);

/// Pause after calls before wake-ups are counted: the resolver's thread exits after 15 s.
const SETTLE_AFTER_CALLS: Duration = Duration::from_secs(17);

/// Time in which the wake-ups of a runner with a client are counted.
const WATCH_CLIENT: Duration = Duration::from_secs(60);

const KIB_PER_MIB: f64 = 1024.0;

/// A runner whose worker has said hello and sleeps.
pub(crate) fn at_rest() -> Result<Vec<Row>> {
    let scene = Scene::with_worker(&["obey", "RECORD"])?;
    let running = Running::start(&mut scene.runner())?;
    pause(SETTLE);
    let what = "idle PSS / of that anonymous (Pss_Anon), standalone, worker running";
    let memory = memory(&running, what, "7.4 / 1.1 MiB", |all, anonymous| {
        vec![Target::at_most(all, 3.5, "≤ 3.5 MiB"), Target::at_most(anonymous, 0.5, "≤ 0.5 MiB")]
    })?;
    let (before, threads) = switches(&running)?;
    pause(WATCH);
    let (after, _) = switches(&running)?;
    stop(&scene, running)?;
    let wake_ups = after.saturating_sub(before);
    Ok(vec![
        memory,
        Row {
            what: "threads, at rest",
            go: "4",
            today: threads.to_string(),
            reference: String::new(),
            targets: vec![Target::at_most(threads as f64, 6.0, "6")],
        },
        Row {
            what: "idle cost, standalone",
            go: "0 wake-ups",
            today: format!("{wake_ups} wake-ups in {} s", WATCH.as_secs()),
            reference: String::new(),
            targets: vec![Target::at_most(wake_ups as f64, 0.0, "0 wake-ups")],
        },
    ])
}

/// A static worker that has registered and has its secrets: over HTTP, then over HTTPS with the system's roots.
pub(crate) fn after_calls() -> Result<Vec<Row>> {
    let taskcluster = Taskcluster::start();
    let mut rows = Vec::new();
    {
        let scene = Scene::registering(&taskcluster.http(), &["obey", "RECORD"])?;
        let running = Running::start(&mut scene.runner())?;
        pause(SETTLE_AFTER_CALLS);
        rows.push(memory(
            &running,
            "idle PSS / Pss_Anon after HTTP calls (static)",
            "–",
            |all, anonymous| {
                vec![Target::at_most(all, 4.5, "≤ 4.5 MiB"), Target::at_most(anonymous, 0.6, "≤ 0.6 MiB")]
            },
        )?);
        let (before, threads) = switches(&running)?;
        pause(WATCH_CLIENT);
        let (after, _) = switches(&running)?;
        stop(&scene, running)?;
        let wake_ups = after.saturating_sub(before);
        rows.push(Row {
            what: "threads, at rest after calls",
            go: "–",
            today: threads.to_string(),
            reference: String::new(),
            targets: vec![Target::at_most(threads as f64, 6.0, "6")],
        });
        rows.push(Row {
            what: "idle cost with a client",
            go: "–",
            today: format!("{wake_ups} wake-ups in {} s", WATCH_CLIENT.as_secs()),
            reference: String::new(),
            targets: vec![Target::at_most(wake_ups as f64, 2.0, "≤ 2 a minute")],
        });
    }
    let scene = Scene::registering(&taskcluster.https()?, &["obey", "RECORD"])?;
    let running = Running::start(scene.runner().env("SSL_CERT_FILE", scene.authorities()?))?;
    pause(SETTLE_AFTER_CALLS);
    let memory = memory(
        &running,
        "idle PSS / Pss_Anon after HTTPS calls, with the system's roots",
        "–",
        |all, anonymous| {
            vec![Target::at_most(all, 5.5, "≤ 5.5 MiB"), Target::at_most(anonymous, 1.1, "≤ 1.1 MiB")]
        },
    )?;
    stop(&scene, running)?;
    rows.insert(1, memory);
    Ok(rows)
}

/// Ends a runner; its worker must have been there.
fn stop(scene: &Scene, running: Running) -> Result<()> {
    kill(running.pid(), Signal::SIGTERM)?;
    running.end()?;
    scene.take_moments(&[worker::ASKED])?;
    Ok(())
}

fn memory(
    running: &Running,
    what: &'static str,
    go: &'static str,
    targets: impl FnOnce(f64, f64) -> Vec<Target>,
) -> Result<Row> {
    // Only root may look at a process that forbids dumps.
    let rollup = fs::read_to_string(running.proc_file("smaps_rollup"))
        .map_err(|error| format!("cannot read the runner's smaps_rollup (are you root?): {error}"))?;
    let size = |name| Ok::<_, String>(field(&rollup, name).ok_or(format!("no {name}"))? as f64 / KIB_PER_MIB);
    let (all, anonymous) = (size("Pss")?, size("Pss_Anon")?);
    let others = copies(running).saturating_sub(1);
    let reference = if others > 0 { format!("{others} other copies ran: too low") } else { String::new() };
    Ok(Row {
        what,
        go,
        today: format!("{all:.1} / {anonymous:.2} MiB"),
        reference,
        targets: targets(all, anonymous),
    })
}

/// Number of processes that run the same file and share its pages.
fn copies(running: &Running) -> usize {
    let Ok(own) = fs::read_link(running.proc_file("exe")) else { return 0 };
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == own))
        .count()
}

/// The binary's size.
pub(crate) fn binary_size() -> Result<Vec<Row>> {
    let size = fs::metadata(binary())?.size() as f64 / 1e6;
    Ok(vec![Row {
        what: "binary, stripped",
        go: "8.0 MB",
        today: format!("{size:.1} MB"),
        reference: String::new(),
        targets: vec![Target::at_most(size, 5.5, "≤ 5.5 MB")],
    }])
}
