//! The files that belong to start-worker alone: written as a whole, and removed as a whole. PURE: names in, text out.

use super::keyfile;
use super::name::{SessionName, Tty, UserName};

/// The file name of each.
pub const NAME: &str = "90-start-worker-autologin.conf";

const NOTE: &str = "# Written by start-worker. `start-worker autologin clear` removes this file.\n";

/// agetty's command line before the user's name.
const AGETTY: &str = "-/sbin/agetty --autologin ";

/// The content of the file for `/etc/lightdm/lightdm.conf.d`.
pub fn lightdm(user: &UserName, session: Option<&SessionName>) -> String {
    let session = session.map(|name| format!("autologin-session={}\n", name.as_str())).unwrap_or_default();
    format!("{NOTE}[Seat:*]\nautologin-user={user}\nautologin-user-timeout=0\n{session}")
}

/// The content of the file for `/etc/sddm.conf.d`.
pub fn sddm(user: &UserName, session: Option<&SessionName>) -> String {
    let session = session.map(|name| format!("Session={}\n", name.as_str())).unwrap_or_default();
    format!("{NOTE}[Autologin]\nUser={user}\n{session}Relogin=false\n")
}

/// The content of the unit's drop-in. The empty `ExecStart=` removes the unit's own command.
pub fn getty(user: &UserName) -> String {
    format!("{NOTE}[Service]\nExecStart=\nExecStart={AGETTY}{user} --noclear %I $TERM\n")
}

/// The unit that serves a terminal: systemd's `getty@` for virtual terminals, `serial-getty@` for all others.
pub fn unit(tty: &Tty) -> String {
    let name = tty.as_str();
    let number = name.strip_prefix("tty").filter(|number| !number.is_empty());
    let is_virtual = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let kind = if is_virtual { "getty" } else { "serial-getty" };
    format!("{kind}@{name}.service")
}

/// The user whom a lightdm file logs in.
pub fn lightdm_user(file: &[u8]) -> Option<String> {
    let seat = |name: &[u8]| name.starts_with(b"Seat:") || name == b"SeatDefaults";
    keyfile::value(file, seat, "autologin-user")
}

/// The user whom an sddm file logs in.
pub fn sddm_user(file: &[u8]) -> Option<String> {
    keyfile::value(file, |name| name == b"Autologin", "User")
}

/// The user whom our drop-in logs in.
pub fn getty_user(file: &[u8]) -> Option<String> {
    let command = keyfile::value(file, |name| name == b"Service", "ExecStart")?;
    command.strip_prefix(AGETTY)?.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_as_its_reader_wants_it() {
        let (user, session) = (UserName::parse("task_1").unwrap(), SessionName::parse("ubuntu").unwrap());
        insta::assert_snapshot!(lightdm(&user, Some(&session)), @"
        # Written by start-worker. `start-worker autologin clear` removes this file.
        [Seat:*]
        autologin-user=task_1
        autologin-user-timeout=0
        autologin-session=ubuntu
        ");
        insta::assert_snapshot!(sddm(&user, Some(&session)), @"
        # Written by start-worker. `start-worker autologin clear` removes this file.
        [Autologin]
        User=task_1
        Session=ubuntu
        Relogin=false
        ");
        insta::assert_snapshot!(getty(&user), @"
        # Written by start-worker. `start-worker autologin clear` removes this file.
        [Service]
        ExecStart=
        ExecStart=-/sbin/agetty --autologin task_1 --noclear %I $TERM
        ");
        assert!(!lightdm(&user, None).contains("session") && !sddm(&user, None).contains("Session"));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let user = UserName::parse("task_1").unwrap();
        let some = Some("task_1".to_owned());
        assert_eq!(lightdm_user(lightdm(&user, None).as_bytes()), some);
        assert_eq!(sddm_user(sddm(&user, None).as_bytes()), some);
        assert_eq!(getty_user(getty(&user).as_bytes()), some);
    }

    #[test]
    fn serial_terminals_have_a_unit_of_their_own() {
        let unit = |tty| unit(&Tty::parse(tty).unwrap());
        assert_eq!(unit("tty1"), "getty@tty1.service");
        for tty in ["ttyS0", "ttyAMA0", "hvc0"] {
            assert_eq!(unit(tty), format!("serial-getty@{tty}.service"));
        }
    }
}
