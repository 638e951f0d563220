//! `start-worker check` on a host that has a cached run: where each value came from, its secrets masked.

use std::process::Command;

use serde_json::json;

use crate::registration::site::{STATIC_SECRET, Site, assert_discreet, once};

/// The output of `check`, with the parts replaced that differ from run to run.
fn check(site: &Site, runner: &std::path::Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_start-worker")).arg("check").arg(runner).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(&site.taskcluster.url(), "http://tc");
    // The column of the comments depends on the length of the URL.
    let line = |line: &str| match line.split_once("  #") {
        Some((value, source)) => format!("{}  #{source}\n", value.trim_end()),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn check_shows_the_cached_run_with_the_source_of_every_value() {
    let site = Site::new();
    let from_the_pool =
        json!({"list": ["pool"], "who": "pool", "password": "hidden-from-the-pool", "size": 3});
    site.set_worker_config(&json!({"command": {"config": from_the_pool}}));
    site.set_pool_secret(
        &json!({"config": {"list": ["hidden-from-the-secret"], "plain": "hidden-too", "number": 7}}),
    );
    let own = json!({"list": ["runner"], "who": "runner", "nested": {"empty": {}, "yes": true}});
    let scene = || site.cached_scene().set("getSecrets", true).set("workerConfig", own.clone());
    once(scene());
    let connections = site.taskcluster.connections();
    let (before, scene) = (site.cache(), scene());
    let text = check(&site, &scene.write());
    let worker = &text[text.find("# worker configuration").unwrap()..];
    insta::assert_snapshot!(worker, @r#"
    # worker configuration as far as it is known offline, and the source of each value
    list[0]: "runner"  # runner file
    list[1]: "pool"  # provider
    list[2]: "(masked)"  # secret worker-pool:demo/linux
    nested.empty: {}  # runner file
    nested.yes: true  # runner file
    number: "(masked)"  # secret worker-pool:demo/linux
    password: "(masked)"  # provider
    plain: "(masked)"  # secret worker-pool:demo/linux
    size: 3  # provider
    taskcluster.accessToken: "(masked)"  # start-worker
    taskcluster.certificate: "(masked)"  # start-worker
    taskcluster.clientId: "worker/static/demo/linux/here/worker-1"  # start-worker
    taskcluster.rootUrl: "http://tc"  # start-worker
    taskcluster.workerGroup: "here"  # start-worker
    taskcluster.workerId: "worker-1"  # start-worker
    taskcluster.workerPoolId: "demo/linux"  # start-worker
    who: "pool"  # provider
    # added at start: nothing, if Taskcluster cannot be reached; else the worker registers anew

    # verdict: valid
    "#);
    let credentials = ["accessToken", "certificate"].map(|key| before["Credentials"][key].as_str().unwrap());
    assert_discreet(&text, &credentials);
    assert_discreet(&text, &[STATIC_SECRET, "hidden-"]);
    assert_eq!(site.cache(), before);
    assert_eq!(site.taskcluster.connections(), connections);
}
