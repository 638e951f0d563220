//! The fault campaign (docs/reliability.md), short; and that it finds what it looks for: for each invariant a runner with
//! a planted bug, which is a shell script around the real one.
//!
//! The campaign itself is the example `campaign`, `by_hand.rs`.
#![cfg(test)]

mod found;
mod planted;

mod program {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    /// The campaign with these arguments.
    pub(crate) fn campaign<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
        let runner = Path::new(env!("CARGO_BIN_EXE_start-worker"));
        let kept = tempfile::tempdir().unwrap();
        let mut command = Command::new(example("campaign"));
        command.args(arguments).arg("--keep").arg(kept.path());
        command.env("REAL", runner).env("WORKER", example("test-worker"));
        command.output().unwrap()
    }

    fn example(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_BIN_EXE_start-worker")).parent().unwrap();
        let path = folder.join("examples").join(name);
        assert!(path.exists(), "no {}: build it with `--examples`", path.display());
        path
    }
}

/// Runs the same plan each time, so that it fails only because of a change in the code.
#[test]
fn nothing_breaks_in_a_short_campaign() {
    let arguments = ["--seed", "5", "--minutes", "0.1", "--jobs", "4", "--at-most", "8"];
    let output = program::campaign(arguments);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains(" 0 broken;"), "{report}");
}
