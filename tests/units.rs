//! The shipped units: systemd accepts them without a warning, and they agree with the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use start_worker::config::Supervision;

const SERVICES: [&str; 2] = ["start-worker.service", "start-worker@.service"];
const AUTOLOGIN: &str = "start-worker-autologin.service";
const HARDENING: &str = "start-worker.service.d/hardening.conf.example";
const CLOUD_IMAGE: &str = "start-worker.service.d/cloud-image.conf.example";

/// The program that the unit runs; the package installs it.
const PROGRAM: &str = "/usr/bin/start-worker";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// `Section.Key` to all its values, in order.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(shipped(name)).unwrap();
    let mut section = String::new();
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            settings.entry(format!("{section}.{key}")).or_default().push(value.to_owned());
        }
    }
    settings
}

fn setting(name: &str, key: &str) -> String {
    let values = unit(name).remove(key).unwrap_or_default();
    assert_eq!(values.len(), 1, "{name}: {key}: {values:?}");
    values.into_iter().next().unwrap()
}

/// `systemd-analyze`, where this machine has it; where not, CI must say so, and others skip.
fn analyze() -> Option<Command> {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !there {
        let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!must, "systemd-analyze is missing (package systemd)");
        eprintln!("skipped: systemd-analyze is missing (package systemd)");
    }
    there.then(|| Command::new("systemd-analyze"))
}

/// The units as a package installs them, but with this very program.
fn installed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in SERVICES.into_iter().chain([AUTOLOGIN]) {
        let text = fs::read_to_string(shipped(name)).unwrap();
        fs::write(folder.path().join(name), text.replace(PROGRAM, env!("CARGO_BIN_EXE_start-worker")))
            .unwrap();
    }
    folder
}

fn with_drop_in(folder: &Path, text: &str) {
    let drop_ins = folder.join("start-worker.service.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("example.conf"), text).unwrap();
}

/// An example with all that is switched off in it.
fn switched_on(text: &str) -> String {
    let lines = text.lines().map(|line| {
        line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_uppercase)).unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn verify(mut analyze: Command, folder: &Path, names: &[&str]) -> String {
    analyze.args(["verify", "--man=no", "--recursive-errors=yes"]);
    analyze.args(names.iter().map(|name| folder.join(name)));
    let output = analyze.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let Some(analyze) = analyze() else { return };
    let folder = installed();
    let names = ["start-worker.service", "start-worker@first.service", AUTOLOGIN];
    fs::copy(folder.path().join("start-worker@.service"), folder.path().join(names[1])).unwrap();
    assert_eq!(verify(analyze, folder.path(), &names), "");
}

#[test]
fn systemd_has_nothing_to_say_about_the_hardening_nor_about_what_is_switched_off_in_it() {
    let text = fs::read_to_string(shipped(HARDENING)).unwrap();
    let all = switched_on(&text);
    assert!(all.contains("\nProtectSystem=strict\n"), "{all}");
    for text in [text.clone(), all] {
        let Some(analyze) = analyze() else { return };
        let folder = installed();
        with_drop_in(folder.path(), &text);
        assert_eq!(verify(analyze, folder.path(), &["start-worker.service"]), "");
    }
}

#[test]
fn systemd_has_nothing_to_say_about_the_drop_in_for_cloud_images_nor_about_what_is_switched_off_in_it() {
    let text = fs::read_to_string(shipped(CLOUD_IMAGE)).unwrap();
    for line in ["After=docker.service", "StandardOutput=journal+console", "StandardError=journal+console"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    for text in [text.clone(), switched_on(&text)] {
        let Some(analyze) = analyze() else { return };
        let folder = installed();
        // The host's own set-up is made up: a unit and a program that exist stand in for them.
        let text = text.replace("/usr/local/sbin/instance-storage", "/bin/true");
        fs::write(
            folder.path().join("instance-storage.service"),
            "[Service]\nType=oneshot\nExecStart=/bin/true\n",
        )
        .unwrap();
        with_drop_in(folder.path(), &text);
        assert_eq!(verify(analyze, folder.path(), &["start-worker.service"]), "");
    }
}

#[test]
fn the_time_to_stop_is_above_what_stopping_takes_by_default() {
    let supervision = Supervision::default();
    // The worker, and then what it left behind.
    let longest = supervision.stop_timeout + supervision.kill_timeout * 2;
    for name in SERVICES {
        let allowed = humantime::parse_duration(&setting(name, "Service.TimeoutStopSec")).unwrap();
        assert!(allowed > longest + Duration::from_secs(30), "{name}: {allowed:?}, {longest:?}");
    }
}

#[test]
fn exits_that_a_restart_does_not_help_against_are_those_of_the_program() {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/exit.rs")).unwrap();
    let code = |name: &str| {
        let line = source.lines().find(|line| line.contains(&format!("const {name}: u8 = "))).unwrap();
        line.trim_end_matches(';').rsplit(' ').next().unwrap().to_owned()
    };
    let codes = ["CONFIGURATION", "NEEDS_REBOOT", "PERMISSIONS"].map(code).join(" ");
    for name in SERVICES {
        assert_eq!(setting(name, "Service.RestartPreventExitStatus"), codes);
    }
}

#[test]
fn the_services_are_what_the_program_counts_on() {
    for name in SERVICES {
        for (key, value) in [
            ("Unit.Wants", "network-online.target"),
            ("Unit.StartLimitIntervalSec", "0"),
            ("Service.Type", "notify"),
            ("Service.NotifyAccess", "main"),
            ("Service.ExecReload", "/bin/kill -HUP $MAINPID"),
            ("Service.Restart", "on-failure"),
            ("Service.RestartSec", "30s"),
            ("Service.KillMode", "mixed"),
            ("Service.WatchdogSec", "5min"),
            ("Service.OOMPolicy", "continue"),
            ("Service.OOMScoreAdjust", "-1000"),
            ("Service.Delegate", "yes"),
            ("Service.StateDirectoryMode", "0700"),
            ("Service.RuntimeDirectoryMode", "0700"),
            ("Install.WantedBy", "multi-user.target"),
        ] {
            assert_eq!(setting(name, key), value, "{name}");
        }
        assert!(unit(name)["Unit.After"].contains(&"network-online.target".to_owned()), "{name}");
    }
    // The names of the Go program's units in the field.
    let old = "worker.service generic-worker.service docker-worker.service";
    for name in SERVICES {
        assert_eq!(setting(name, "Unit.Conflicts"), old);
        assert_eq!(unit(name)["Unit.After"], ["network-online.target", old], "{name}");
    }
    assert_eq!(setting(AUTOLOGIN, "Unit.Before"), "display-manager.service");
}

#[test]
fn instances_share_neither_configuration_nor_directories() {
    for (name, config, folder) in [
        (SERVICES[0], "/etc/start-worker.yml", "start-worker"),
        (SERVICES[1], "/etc/start-worker/%i.yml", "start-worker/%i"),
    ] {
        assert_eq!(setting(name, "Service.ExecStart"), format!("{PROGRAM} {config}"));
        assert_eq!(setting(name, "Service.StateDirectory"), folder);
        assert_eq!(setting(name, "Service.RuntimeDirectory"), folder);
    }
    let [one, many] = SERVICES.map(unit);
    let differing: Vec<&String> = one.keys().filter(|key| many.get(*key) != one.get(*key)).collect();
    let expected = [
        "Service.ExecStart",
        "Service.RuntimeDirectory",
        "Service.RuntimeDirectoryPreserve",
        "Service.StateDirectory",
        "Unit.Description",
    ];
    assert_eq!(differing, expected);
}

/// Each version weighs differently.
const VERSION: &str = "systemd 252 ";

#[test]
fn the_documentation_has_todays_exposure_figures() {
    let version = analyze().map(|mut analyze| analyze.arg("--version").output().unwrap().stdout);
    if !version.is_some_and(|version| version.starts_with(VERSION.as_bytes())) {
        eprintln!("skipped: the figures are those of {VERSION}");
        return;
    }
    let documentation =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let hardening = fs::read_to_string(shipped(HARDENING)).unwrap();
    for (what, hardening) in [("the unit as shipped", None), ("with the example drop-in", Some(hardening))] {
        let Some(mut analyze) = analyze() else { return };
        let folder = installed();
        if let Some(text) = hardening {
            with_drop_in(folder.path(), &text);
        }
        let output = analyze
            .args(["security", "--offline=true", "--no-pager"])
            .arg(folder.path().join("start-worker.service"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
        let figure = overall.split_whitespace().find(|word| word.parse::<f64>().is_ok()).unwrap();
        assert!(documentation.contains(&format!("| {what} | {figure} |")), "{what}: {figure}");
    }
}
