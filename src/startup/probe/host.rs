//! The conditions of a start on this host: the cached run, the worker's program, paths to write.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};

use super::{Outcome, Step, Surroundings};
use crate::config::{ProviderConfig, RunnerConfig, StatusSocket};
use crate::error_chain::ErrorChain;
use crate::host::atomic::parent_of;
use crate::host::mounts;
use crate::host::private_file::Access;
use crate::run_spec::cache::{self, CachedRun};
use crate::startup;
use crate::telemetry::status;
use crate::worker::{self, Launch, LaunchSpec};

/// The free space that a start requires for its files, in bytes: configurations are small.
const NEEDED_ROOM: u64 = 64 * 1024;

/// Checks all steps on this host. Also returns the cached run, if there is one.
pub(super) fn look(config: &RunnerConfig, surroundings: &Surroundings) -> (Vec<Step>, Option<CachedRun>) {
    let mut steps = Vec::new();
    let cached = cached(config, surroundings, &mut steps);
    if let Some(spec) = launch(config, &mut steps) {
        steps.push(program(&spec, surroundings));
        if let Some(file) = &spec.config_file {
            steps.push(writable("worker.configPath", &file.path, Outcome::Failed));
            let why = "the worker validates its own keys when it starts, and offers no command for that";
            steps.push(Step::new("worker configuration", Outcome::Skipped, why));
        }
    }
    steps.extend(sockets(config, surroundings));
    (steps, cached)
}

fn cached(config: &RunnerConfig, surroundings: &Surroundings, steps: &mut Vec<Step>) -> Option<CachedRun> {
    let path = config.cache_over_restarts.as_deref()?;
    steps.push(writable("cacheOverRestarts", path, Outcome::Warning));
    let (found, cached) = match cache::read(path, Access::Observe) {
        Err(cause) => {
            let advice = cause.advice(config.provider.is_dynamic());
            (Step::new("cached run", Outcome::Failed, format!("{}; {advice}", ErrorChain(&cause))), None)
        }
        Ok(None) => (Step::new("cached run", Outcome::Ok, "there is none yet"), None),
        Ok(Some(cached)) => match startup::outdated(config, &cached) {
            Some(why) => {
                (Step::new("cached run", Outcome::Ok, format!("stale: {why}; a start begins afresh")), None)
            }
            None => (usable(config, &cached, surroundings.clock.now()), Some(cached)),
        },
    };
    steps.push(found);
    cached
}

/// Checks whether a start can use this worker's own cached run.
fn usable(config: &RunnerConfig, cached: &CachedRun, now: Timestamp) -> Step {
    let credentials = &cached.run.credentials;
    let ends = credentials.expires.map_or("never".to_owned(), |end| format!("{end:.0}"));
    // A worker that may register again does so.
    let outcome = match (credentials.usable(now), &config.provider) {
        (true, _) => Outcome::Ok,
        (false, ProviderConfig::Static(_)) => Outcome::Warning,
        (false, _) => Outcome::Failed,
    };
    Step::new("cached run", outcome, format!("its credentials end: {ends}"))
}

/// The worker's launch, as far as it is known.
fn launch(config: &RunnerConfig, steps: &mut Vec<Step>) -> Option<LaunchSpec> {
    match worker::launch(&startup::offline(config).run, &config.worker) {
        Ok(Launch::Start(spec)) => Some(spec.on_this_host()),
        Ok(Launch::Show { .. }) => None,
        Err(cause) => {
            steps.push(Step::new("worker", Outcome::Failed, ErrorChain(&cause).to_string()));
            None
        }
    }
}

fn program(spec: &LaunchSpec, surroundings: &Surroundings) -> Step {
    let name = &spec.program;
    let candidates: Vec<PathBuf> = if name.components().count() > 1 {
        vec![name.clone()]
    } else {
        let path = surroundings.path.clone().unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).collect()
    };
    let mut why = format!("{}: not found in PATH", name.display());
    for candidate in candidates {
        match executable(&candidate) {
            Ok(()) => {
                return Step::new(
                    "worker.path",
                    Outcome::Ok,
                    format!("{} can be executed", candidate.display()),
                );
            }
            Err(cause) if candidate == *name => why = format!("{}: {cause}", candidate.display()),
            Err(_) => {}
        }
    }
    Step::new("worker.path", Outcome::Failed, why)
}

fn executable(path: &Path) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|cause| cause.to_string())?;
    if !found.is_file() {
        return Err("it is no file".to_owned());
    }
    access(path, AccessFlags::X_OK).map_err(|cause| match mounts::noexec_mount_of(path) {
        Some(mount) => format!("its file system, {}, is mounted noexec", mount.display()),
        None => cause.desc().to_owned(),
    })
}

/// Checks whether a file can be created or replaced at `path`. A start creates missing folders.
fn writable(what: &'static str, path: &Path, otherwise: Outcome) -> Step {
    let mut folder = parent_of(path);
    let found = loop {
        match std::fs::metadata(folder) {
            Ok(found) => break Ok(found.is_dir()),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => match folder.parent() {
                Some(above) if above != folder => {
                    folder = if above.as_os_str().is_empty() { Path::new(".") } else { above }
                }
                _ => break Err(cause.to_string()),
            },
            Err(cause) => break Err(cause.to_string()),
        }
    };
    let result = match found {
        Ok(true) => access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|cause| cause.desc().to_owned())
            .and_then(|()| has_room(folder)),
        Ok(false) => Err("it is no folder".to_owned()),
        Err(cause) => Err(cause),
    };
    match result {
        Ok(()) => Step::new(what, Outcome::Ok, format!("{} can be written", path.display())),
        Err(cause) => Step::new(
            what,
            otherwise,
            format!("{} cannot be written: {}: {cause}", path.display(), folder.display()),
        ),
    }
}

/// Checks that the directory's file system has room for another small file.
fn has_room(folder: &Path) -> Result<(), String> {
    let Ok(system) = statvfs(folder) else { return Ok(()) };
    // Root may use the reserved space.
    let blocks = if geteuid().is_root() { system.blocks_free() } else { system.blocks_available() };
    let inodes = if geteuid().is_root() { system.files_free() } else { system.files_available() };
    if blocks.saturating_mul(system.fragment_size()) < NEEDED_ROOM {
        return Err("no space left on its file system".to_owned());
    }
    // File systems without a fixed number of inodes report zero.
    if system.files() > 0 && inodes == 0 {
        return Err("no inodes left on its file system".to_owned());
    }
    Ok(())
}

/// Without these sockets, a start continues with a warning.
fn sockets(config: &RunnerConfig, surroundings: &Surroundings) -> Option<Step> {
    let path = match (&config.status_socket, &surroundings.runtime_directory) {
        (StatusSocket::None, _) => return None,
        (StatusSocket::At(path), _) => path.clone(),
        (StatusSocket::Default, Some(folder)) => status::default_path(folder),
        (StatusSocket::Default, None) => {
            return Some(Step::new("status.socket", Outcome::Warning, "there is no runtime directory"));
        }
    };
    let taken = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket());
    if taken {
        let found = format!("{}: what is there is no socket", path.display());
        return Some(Step::new("status.socket", Outcome::Warning, found));
    }
    Some(writable("status.socket", &path, Outcome::Warning))
}
