//! Automatic login by a display manager. Where lightdm and Xvfb are not installed this is skipped, with `CI`, too: they
//! bring a desktop's libraries along. A machine has no screen and no virtual terminal, and lightdm gets along without.

use std::path::Path;

use crate::systemd::machine::{Machine, eventually};
use crate::systemd::possible::tell;
use crate::systemd::service::{Config, OBEDIENT, Service};

const NEEDED: [(&str, &str); 2] = [("/usr/sbin/lightdm", "lightdm"), ("/usr/bin/Xvfb", "xvfb")];

const LIGHTDM: &str = "[LightDM]\nlogind-check-graphical=false\n[Seat:*]\nxserver-command=/usr/local/bin/screenless\n\
    user-session=endless\n";

/// Xvfb, without the options that only a server with a screen understands.
const SCREENLESS: &str = r#"#!/bin/bash
args=()
while [ $# -gt 0 ]; do
    case $1 in -seat) shift ;; vt* | -novtswitch) ;; *) args+=("$1") ;; esac
    shift
done
exec Xvfb "${args[@]}"
"#;

const SESSION: &str = "[Desktop Entry]\nName=endless\nExec=/bin/sleep infinity\nType=Application\n";

#[test]
fn lightdm_logs_the_configured_user_in_at_the_boot_at_which_it_was_set() {
    if let Some((path, package)) = NEEDED.iter().find(|(path, _)| !Path::new(path).exists()) {
        return tell(&format!("skipped: there is no {path} (package {package})"));
    }
    let Some(machine) = Machine::borrow() else { return };
    let machine: &Machine = &machine;
    let user = "task_desktop";
    machine.ask(["useradd", "--create-home", "--shell=/bin/bash", user]);
    machine.write("/etc/lightdm/lightdm.conf.d/10-test.conf", LIGHTDM);
    machine.write("/usr/share/xsessions/endless.desktop", SESSION);
    machine.write("/usr/local/bin/screenless", SCREENLESS);
    machine.ask(["chmod", "0755", "/usr/local/bin/screenless"]);
    machine.ask([
        "chmod",
        "0644",
        "/etc/lightdm/lightdm.conf.d/10-test.conf",
        "/usr/share/xsessions/endless.desktop",
    ]);
    machine.ask([
        "ln",
        "-sf",
        "/lib/systemd/system/lightdm.service",
        "/etc/systemd/system/display-manager.service",
    ]);
    let config = Config::new(machine, OBEDIENT).set("autologin.user", user);
    let service = Service::install(machine, &config);
    machine.systemctl("add-wants multi-user.target lightdm.service");
    machine.systemctl("enable --quiet start-worker-autologin.service");
    let init = machine.init();
    machine.systemctl("reboot");
    machine.wait_for_boot_after(init);
    let who = || String::from_utf8(machine.run(["who"]).stdout).unwrap();
    let in_session = || machine.run(["pgrep", "--uid", user, "--exact", "sleep"]).status.success();
    let logged_in =
        eventually(|| (who().contains(user) && who().contains("(:0)") && in_session()).then_some(()));
    assert!(logged_in.is_some(), "{}\n{machine}", who());
    assert_eq!(service.starts(), 0);
    machine.systemctl("stop lightdm.service");
    machine.ask(["userdel", "--force", "--remove", user]);
    machine.ask([
        "rm",
        "/etc/lightdm/lightdm.conf.d/10-test.conf",
        "/etc/systemd/system/display-manager.service",
    ]);
}
