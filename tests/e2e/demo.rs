//! The README's first command, and the examples beside it.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::Scene;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_demonstration_runs_and_ctrl_c_ends_it_gracefully() {
    // A copy, because the runner tightens the file's mode. The worker's path in it is relative to the checkout.
    let runner = Scene::new().text(&example("demo.yml")).start();
    runner.wait_for_log("demo worker is up");
    runner.wait_for_log("task finished; seconds: 1; task: 1");
    runner.signal_group(Signal::SIGINT);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("asked to stop (stopping): cleaning up"), "{}", ended.log);
    assert!(ended.log.contains("demo worker ends after"), "{}", ended.log);
    runner.assert_nothing_left();
}

#[test]
fn the_demonstration_finishes_its_task_when_it_is_drained() {
    let runner = Scene::new().text(&example("demo.yml")).start();
    runner.wait_for_log("task 1: working");
    runner.wait_for_log("hello");
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("demo worker ends after 1 tasks"), "{}", ended.log);
}

#[test]
fn the_dummy_example_shows_a_run_with_its_secrets_masked() {
    let ended = Scene::new().text(&example("dummy-standalone.yml")).start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("example/linux"), "{}", ended.log);
    assert!(!ended.log.contains("not-a-real-token"), "{}", ended.log);
    let open = example("dummy-standalone.yml").replace("# showSecrets: true", "showSecrets: true");
    let ended = Scene::new().text(&open).shows_secrets().start().ended();
    assert!(ended.log.contains("not-a-real-token"), "{}", ended.log);
}

#[test]
fn every_example_passes_the_strict_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let scene = Scene::new().text(&std::fs::read_to_string(&path).unwrap());
        let copy = scene.write();
        let ended = scene.start_with(["check".as_ref(), "--strict".as_ref(), copy.as_os_str()]).ended();
        assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{}", path.display());
        checked += 1;
    }
    assert_eq!(checked, 13);
}
