//! Scores for the OOM killer: no process that the runner starts has the runner's own score.

use serde_json::json;

use crate::harness::{Scene, named, write_program};

/// Gives the runner a unique score. -1000 where that is allowed, which takes `CAP_SYS_RESOURCE`: the runner sets it
/// itself, or has it from systemd. Elsewhere another score, which is inherited in the same way.
const SCORED: &str =
    "{ echo -1000 >/proc/self/oom_score_adj || echo 300 >/proc/self/oom_score_adj; } 2>/dev/null";

fn score(pid: i32) -> i32 {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// A script that writes its score and its environment to a file.
fn confession(path: &std::path::Path) -> String {
    format!("{{ cat /proc/self/oom_score_adj; env; }} >{}", path.display())
}

/// Checks a process's own report against the expected score.
#[track_caller]
fn assert_innocent(confession: &str, score: &str) {
    assert_eq!(confession.lines().next(), Some(score), "{confession}");
    for name in start_worker::host::service_manager::VARIABLES {
        assert!(
            !confession.lines().any(|line| line.starts_with(&format!("{name}="))),
            "{name}: {confession}"
        );
    }
}

/// With everything that systemd sets.
fn under_systemd(scene: Scene) -> Scene {
    let set = |scene: Scene, name: &&str| scene.env(name, "1");
    start_worker::host::service_manager::VARIABLES.iter().fold(scene.after(SCORED.to_owned()), set)
}

#[test]
fn a_worker_and_its_tasks_have_their_own_score_and_never_the_runners() {
    for (wanted, expected) in [(None, 0), (Some(500), 500), (Some(1000), 1000)] {
        let scene = Scene::new().after(SCORED.to_owned());
        let scene =
            wanted.into_iter().fold(scene, |scene, score: i32| scene.set("worker.oomScoreAdj", score));
        let runner = scene.worker(["spawn child", "spawn daemon", "note spawned", "wait"]).start();
        runner.wait_for_note("spawned");
        assert!([-1000, 300].contains(&score(runner.pid())), "{runner}");
        let events = runner.events();
        let started = named(&events, "start").into_iter().chain(named(&events, "descendant"));
        let scores: Vec<i32> = started.map(|event| score(event.pid())).collect();
        assert_eq!(scores, [expected; 3], "{runner}");
    }
}

#[test]
fn the_question_for_the_version_has_the_workers_score_and_nothing_of_systemds() {
    let scene = Scene::generic_worker().set("worker.restartInPlace", "auto");
    let (program, confessed) = (scene.path("worker.sh"), scene.path("confessed"));
    let says = confession(&confessed);
    // Crashes at its first start; then the runner checks whether it can be started again.
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then {says}; echo 'generic-worker (simple engine) 1.0.0'; exit; fi\n[ -e {0} ] || exit 69\n",
        confessed.display()
    );
    write_program(&program, script);
    let scene = scene.set("worker.path", program.to_str().unwrap()).set("worker.oomScoreAdj", 400);
    let runner = under_systemd(scene).start();
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    assert_innocent(&std::fs::read_to_string(confessed).unwrap(), "400");
}

#[test]
fn a_host_command_has_the_common_score_and_nothing_of_systemds() {
    let scene = Scene::new().worker(["hello all", r#"send {"type":"shutdown"}"#, "exit 0"]);
    let confessed = scene.path("confessed");
    let command = json!(["/bin/sh", "-c", format!("{}; kill -TERM $PPID", confession(&confessed))]);
    let scene = scene.set("host.shutdownCommand", command).set("host.shutdownStatic", true);
    let runner = under_systemd(scene).start();
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    assert_innocent(&std::fs::read_to_string(confessed).unwrap(), "0");
}
