//! Files that come with the worker configuration, on a disk that does not answer.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::hung_disk::{Wait, somebody_waits, with_hung_disk};
use crate::harness::{eventually, is_root};
use crate::registration::site::{Site, file};

#[test]
fn a_file_or_an_archive_on_a_disk_that_does_not_answer_does_not_keep_the_runner_from_a_stop() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    for (format, from_a_secret) in [("file", false), ("zip", false), ("file", true)] {
        for wait in [Wait::Killable, Wait::Endless] {
            let site = Site::new();
            let _runner = with_hung_disk(wait, |disk| {
                let path = disk.path("tools");
                let files = json!([file(path.to_str().unwrap(), "tools", b"PK\x05\x06", format)]);
                if from_a_secret {
                    site.set_pool_secret(&json!({"files": files}));
                } else {
                    site.set_worker_config(&json!({"command": {"config": {}, "files": files}}));
                }
                let runner = site.scene().set("getSecrets", from_a_secret).start();
                let waits = eventually(|| somebody_waits(&runner).then_some(()));
                waits.unwrap_or_else(|| panic!("{format}: the disk is not used\n{runner}"));
                runner.signal(Signal::SIGTERM);
                let ended = runner.ended();
                assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{format}: {}", ended.log);
                runner
            });
        }
    }
}
