//! A planted bug for each invariant, and that the campaign sees it.

use std::fs::{Permissions, write};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::program::campaign;

/// Runs until told to stop, and obeys.
const OBEDIENT: [&str; 4] = ["on now: exit 0", "on finish: exit 0", "hello all", "wait"];
/// Has nothing to do for long.
pub(crate) const SOON_DONE: [&str; 3] = ["hello all", "sleep 1500ms", "exit 0"];

/// The campaign, of one episode without any fault, says that this invariant is broken by a runner that is this script.
#[track_caller]
fn assert_seen(invariant: &str, script: &str) {
    assert_seen_on("static", &OBEDIENT, 4, invariant, script);
}

#[track_caller]
fn assert_seen_on(host: &str, worker: &[&str], seconds: u64, invariant: &str, script: &str) {
    assert_seen_with((host, worker, seconds), &json!([]), invariant, script);
}

#[track_caller]
fn assert_seen_with(episode: (&str, &[&str], u64), actions: &Value, invariant: &str, script: &str) {
    assert_seen_in(episode, (actions, "0.1"), invariant, script);
}

/// `patience` is the factor for all time limits.
#[track_caller]
fn assert_seen_in(
    (host, worker, seconds): (&str, &[&str], u64),
    (actions, patience): (&Value, &str),
    invariant: &str,
    script: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let runner = folder.path().join("runner");
    let head = "folder=$(dirname \"$1\")\ncache=$folder/disk/cache/run.json";
    write(&runner, format!("#!/bin/sh\n{head}\n{script}\n")).unwrap();
    std::fs::set_permissions(&runner, Permissions::from_mode(0o755)).unwrap();
    let more = ["--patience", patience, "--runner", runner.to_str().unwrap()];
    let (code, report) = run_with(host, worker, seconds, actions, &more);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains(&format!("BROKEN {invariant} ")), "{report}");
}

/// Runs an episode without faults. Returns the exit code and the output.
fn run(host: &str, worker: &[&str], seconds: u64, more: &[&str]) -> (Option<i32>, String) {
    run_with(host, worker, seconds, &json!([]), more)
}

/// Runs an episode with these faults.
pub(crate) fn run_with(
    host: &str,
    worker: &[&str],
    seconds: u64,
    actions: &Value,
    more: &[&str],
) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.json");
    let episode = json!({
        "number": 1, "host": host, "cache": true, "seconds": seconds, "credentialsLife": 345_600,
        "restart": "on-failure", "onReboot": "auto", "servicePauseMs": 300, "workers": [worker], "actions": actions,
    });
    write(&plan, episode.to_string()).unwrap();
    let output = campaign(["--file", plan.to_str().unwrap()].iter().chain(more));
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn nothing_is_seen_where_nothing_is_planted() {
    for (host, worker) in [("static", &OBEDIENT[..]), ("google", &SOON_DONE)] {
        let (code, report) = run(host, worker, 4, &[]);
        assert_eq!(code, Some(0), "{report}");
    }
}

#[test]
fn a_second_worker_is_seen() {
    assert_seen("one-worker", r#""$WORKER" "hello all" "sleep 3s" & exec "$REAL" "$@""#);
}

#[test]
fn an_orphan_is_seen() {
    assert_seen("no-orphan", r#"(setsid sleep 60 >/dev/null 2>&1 &); exec "$REAL" "$@""#);
}

#[test]
fn an_orphan_whose_main_thread_has_exited_is_seen() {
    assert_seen(
        "no-orphan",
        r#"(setsid "$WORKER" descendant leaderless planted >/dev/null 2>&1 &); exec "$REAL" "$@""#,
    );
}

#[test]
fn a_chain_of_forks_is_seen() {
    assert_seen(
        "no-orphan",
        r#"(setsid "$WORKER" descendant chain planted >/dev/null 2>&1 &); exec "$REAL" "$@""#,
    );
}

#[test]
fn a_worker_whose_credentials_have_expired_is_seen() {
    let script =
        r#"TASKCLUSTER_CERTIFICATE="{\"expiry\": $(($(date +%s) + 2))000}" exec "$WORKER" "hello all" wait"#;
    assert_seen_on("static", &OBEDIENT, 13, "live-credentials", script);
}

#[test]
fn a_worker_that_starts_with_expired_credentials_is_seen() {
    assert_seen(
        "live-credentials",
        r#"TASKCLUSTER_CERTIFICATE='{"expiry": 1000}' exec "$WORKER" "hello all" wait"#,
    );
}

#[test]
fn a_cache_that_is_cut_off_is_seen() {
    let cut = r#"(sleep 1.5; cp -p "$cache" "$cache.x"; truncate -s 200 "$cache.x"; mv "$cache.x" "$cache")"#;
    assert_seen("whole-cache", &format!("{cut} & exec \"$REAL\" \"$@\""));
}

/// The cache as it was before the removal comes back.
const KEEP: &str = r#"keep() { until grep -q complete "$cache"; do sleep 0.05; done; cp -p "$cache" "$folder/kept"; }
restore() { cp -p "$folder/kept" "$cache.x" && mv "$cache.x" "$cache"; }"#;

#[test]
fn a_second_removal_is_seen() {
    let again = r#"keep 2>/dev/null & "$REAL" "$@"; restore; exec "$REAL" "$@""#;
    assert_seen_on("google", &SOON_DONE, 8, "removed-once", &format!("{KEEP}\n{again}"));
}

#[test]
fn a_worker_after_a_removal_is_seen() {
    let again = r#"if [ -e "$folder/kept" ]; then restore; else keep 2>/dev/null & fi; exec "$REAL" "$@""#;
    assert_seen_on("google", &SOON_DONE, 8, "removed-once", &format!("{KEEP}\n{again}"));
}

#[test]
fn a_runner_that_does_not_stop_is_seen() {
    assert_seen("stop-ends", r#"trap '' TERM INT; "$REAL" "$@" & wait"#);
}

/// Is in state D from then on.
const STUCK: [&str; 4] = ["on now: exit 0", "hello all", "print ready", "wait-file {hung}/x"];

/// A task that uses up every process.
const BOMB: [&str; 4] = ["on now: exit 0", "hello all", "spawn bomb ignore-term", "wait"];

/// Returns true if the campaign has skipped this fault, and prints the reason.
fn is_skipped(report: &str, fault: &str) -> bool {
    let reason = report.lines().find(|line| line.starts_with("skipped ") && line.contains(fault));
    if let Some(reason) = reason {
        eprintln!("{reason}");
    }
    reason.is_some()
}

/// Each folder in turn, at a time when the runner needs it: a worker is started, and then a stop.
#[test]
fn a_runner_gets_along_with_hung_disks() {
    let hang =
        |at: usize, folder: &str| json!({"at": at, "do": "hung-disk", "folder": folder, "for": 60_000});
    for folders in [["cache", "state"], ["worker", "runtime"], ["worker-config", "worker-config"]] {
        let stop = json!({"at": 4000, "do": "signal", "signal": "SIGTERM"});
        let actions = json!([hang(500, folders[0]), hang(600, folders[1]), stop]);
        let crashes = ["on now: exit 0", "hello all", "sleep 1s", "exit 1"];
        let (code, report) = run_with("static", &crashes, 5, &actions, &[]);
        assert_eq!(code, Some(0), "{folders:?}: {report}");
        if is_skipped(&report, "hung disk") {
            return;
        }
        assert!(!report.contains("\n0 answers"), "{report}");
    }
}

#[test]
fn a_runner_that_waits_for_a_hung_disk_is_seen() {
    let hang = json!({"at": 500, "do": "hung-disk", "folder": "runtime", "for": 60_000});
    let actions = json!([hang, {"at": 1500, "do": "signal", "signal": "SIGTERM"}]);
    let waits = r#""$REAL" "$@" & pid=$!; trap 'ls "$folder/runtime" >&2; kill $pid' TERM; wait; wait"#;
    let (_, report) = run_with("static", &OBEDIENT, 3, &actions, &[]);
    if !is_skipped(&report, "hung disk") {
        assert_seen_with(("static", &OBEDIENT, 8), &actions, "stop-ends", waits);
    }
}

#[test]
fn a_runner_that_does_not_answer_is_seen() {
    let deaf = r#""$REAL" "$@" & pid=$!; trap 'kill $pid' TERM; (sleep 1; kill -STOP $pid) & wait; wait"#;
    assert_seen_on("static", &OBEDIENT, 6, "answers", deaf);
}

#[test]
fn a_runner_gives_a_worker_in_state_d_up() {
    let stop = json!([{"at": 2000, "do": "signal", "signal": "SIGTERM"}]);
    let (code, report) = run_with("static", &STUCK, 4, &stop, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert!(is_skipped(&report, "state D") || !report.contains(" 0 workers given up"), "{report}");
}

#[test]
fn a_runner_that_does_not_give_a_worker_up_is_seen() {
    let stop = json!([{"at": 2000, "do": "signal", "signal": "SIGTERM"}]);
    let (_, report) = run_with("static", &STUCK, 3, &stop, &[]);
    if is_skipped(&report, "state D") {
        return;
    }
    let patient = r#"sed 's/"killTimeout": "1s"/"killTimeout": "1h"/' "$1" >"$1.x"; chmod 600 "$1.x"; exec "$REAL" "$1.x""#;
    assert_seen_with(("static", &STUCK, 8), &stop, "stop-ends", patient);
    // A runner that does not log the problem.
    let silent = r#"mkfifo "$folder/log.$$"; grep -v 'cannot be killed' <"$folder/log.$$" >&2 &
        "$REAL" "$@" 2>"$folder/log.$$" & pid=$!; trap 'kill $pid' TERM; wait $pid; wait $pid"#;
    assert_seen_in(("static", &STUCK, 8), (&stop, "1"), "given-up", silent);
    // A runner that exits as if nothing was wrong.
    let content = r#""$REAL" "$@" & pid=$!; trap 'kill $pid' TERM; wait $pid; wait $pid; exit 0"#;
    assert_seen_in(("static", &STUCK, 8), (&stop, "1"), "given-up", content);
}

#[test]
fn a_runner_gets_along_while_a_task_holds_every_process() {
    let (code, report) = run("static", &BOMB, 5, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert!(is_skipped(&report, "fork bomb") || report.contains(" 1 episodes with all"), "{report}");
}

/// As one that makes its threads when it needs them.
#[test]
fn a_runner_that_fails_for_want_of_a_process_is_seen() {
    let (_, report) = run("static", &BOMB, 3, &[]);
    if !is_skipped(&report, "fork bomb") {
        // Asked to stop, it needs one more.
        let needs =
            r#""$REAL" "$@" & pid=$!; trap 'kill $pid; sleep 0.01 || exit 101' TERM; wait; wait $pid"#;
        assert_seen_on("static", &BOMB, 8, "orderly-end", needs);
    }
}

#[test]
fn a_secret_in_the_log_is_seen() {
    assert_seen("no-secret", r#"grep staticSecret "$1" >&2; exec "$REAL" "$@""#);
}

#[test]
fn a_secret_with_escapes_in_the_log_is_seen() {
    let escape = r"od -An -v -tx1 | tr -d '\n' | sed 's/ /\\u00/g'";
    assert_seen("no-secret", &format!(r#"grep staticSecret "$1" | {escape} >&2; exec "$REAL" "$@""#));
}

#[test]
fn a_part_of_a_secret_in_the_log_is_seen() {
    assert_seen("no-secret", r#"grep -o a-static-secret-is-of-for "$1" >&2; exec "$REAL" "$@""#);
}

/// The output of a runner that quotes such an answer.
#[test]
fn a_quoted_answer_that_is_nearly_json_is_seen() {
    let quote = r#"until grep -q accessToken "$cache" 2>/dev/null; do sleep 0.1; done; printf ")]}'" >&2; cat "$cache" >&2"#;
    assert_seen("no-secret", &format!("({quote}) & exec \"$REAL\" \"$@\""));
}

#[test]
fn a_runner_is_discreet_whatever_is_repeated_to_it() {
    let faults = ["nearly-json", "secret-escaped", "secret-cut"];
    let fault = |(at, fault)| json!({"at": at, "do": "call", "call": "any", "fault": fault, "for": 1500});
    let actions: Vec<Value> = [0, 1600, 3200].into_iter().zip(faults).map(fault).collect();
    let (code, report) = run_with("static", &OBEDIENT, 6, &json!(actions), &[]);
    assert_eq!(code, Some(0), "{report}");
}

#[test]
fn a_runner_that_grows_is_seen() {
    let grow = r"x=$(head -c 50000000 /dev/zero | tr '\0' x)";
    assert_seen("bounded", &format!("{grow}; \"$REAL\" \"$@\" & trap \"kill $!\" TERM; wait; wait"));
}

#[test]
fn a_silent_runner_is_seen() {
    assert_seen("explained", r#"exec "$REAL" "$@" 2>/dev/null"#);
}

#[test]
fn a_runner_that_panics_is_seen() {
    assert_seen("orderly-end", "exit 101");
}

#[test]
fn a_runner_that_never_starts_a_worker_is_seen() {
    assert_seen("recovers", "echo \"error: no worker today\" >&2; sleep 0.2; exit 1");
}
