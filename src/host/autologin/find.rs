//! Finds a host's display manager, and the file in which it is configured.

use std::path::Path;

use super::root::Root;
use super::{AutologinError, DisplayManager, Known};

/// systemd's alias for the enabled display manager.
const UNIT: &str = "/etc/systemd/system/display-manager.service";

/// The file in which Debian records the selected display manager: the path of a program.
const DEFAULT: &str = "/etc/X11/default-display-manager";

const RELEASE: &str = "/etc/os-release";

const UBUNTU: &str = "/etc/gdm3/custom.conf";
const DEBIAN: &str = "/etc/gdm3/daemon.conf";
const OTHERS: &str = "/etc/gdm/custom.conf";

/// Resolves the configured display manager; `Auto` is replaced by the host's own.
pub(super) fn display_manager(root: &Root, wanted: DisplayManager) -> Result<Known, AutologinError> {
    match wanted {
        DisplayManager::Gdm => Ok(Known::Gdm),
        DisplayManager::Lightdm => Ok(Known::Lightdm),
        DisplayManager::Sddm => Ok(Known::Sddm),
        DisplayManager::Getty => Ok(Known::Getty),
        DisplayManager::None => Err(AutologinError::None),
        DisplayManager::Auto => the_hosts_own(root),
    }
}

fn the_hosts_own(root: &Root) -> Result<Known, AutologinError> {
    if let Some(target) = root.link(UNIT) {
        // A masked unit is not started: the host has only consoles.
        if target == Path::new("/dev/null") {
            return Ok(Known::Getty);
        }
        return named(UNIT, &target.to_string_lossy());
    }
    let chosen = root.read(DEFAULT)?.unwrap_or_default();
    let chosen = String::from_utf8_lossy(&chosen);
    match chosen.trim() {
        "" => Ok(Known::Getty),
        chosen => named(DEFAULT, chosen),
    }
}

/// Identifies a display manager by the name of its unit or program: `/lib/systemd/system/gdm3.service`,
/// `/usr/sbin/gdm3`.
fn named(source: &'static str, path: &str) -> Result<Known, AutologinError> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".service").unwrap_or(name);
    match name {
        "gdm" | "gdm3" => Ok(Known::Gdm),
        "lightdm" => Ok(Known::Lightdm),
        "sddm" => Ok(Known::Sddm),
        _ => Err(AutologinError::Unknown { source_path: source, name: name.to_owned() }),
    }
}

/// gdm's file: the distribution's own if it exists, otherwise the first one that exists, otherwise the distribution's
/// own.
pub(super) fn gdm_file(root: &Root) -> Result<&'static str, AutologinError> {
    let own = distributions_gdm_file(&root.read(RELEASE)?.unwrap_or_default());
    let there = [own, UBUNTU, DEBIAN, OTHERS].into_iter().find(|path| root.has(path));
    Ok(there.unwrap_or(own))
}

fn distributions_gdm_file(release: &[u8]) -> &'static str {
    let release = String::from_utf8_lossy(release);
    let names = |key: &str| {
        let value = release.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let (id, like) = (names("ID"), names("ID_LIKE"));
    let is = |name| id == name || like.split_ascii_whitespace().any(|like| like == name);
    match () {
        () if is("ubuntu") => UBUNTU,
        () if is("debian") => DEBIAN,
        () => OTHERS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_tells_where_gdm_reads() {
        for (release, file) in [
            ("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", UBUNTU),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", UBUNTU),
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", DEBIAN),
            ("ID=kali\nID_LIKE=debian\n", DEBIAN),
            ("ID=\"fedora\"\n", OTHERS),
            ("VERSION_ID=ubuntu\n", OTHERS),
            ("", OTHERS),
        ] {
            assert_eq!(distributions_gdm_file(release.as_bytes()), file, "{release}");
        }
    }
}
