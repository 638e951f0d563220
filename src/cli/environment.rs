//! The runner's environment variables. No other module reads them.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use start_worker::host::service_manager::Address;
use start_worker::provider::MetadataOrigins;
use start_worker::taskcluster::Proxies;

/// The relevant part of the environment.
#[derive(Debug)]
pub(crate) struct Environment {
    /// `START_WORKER_LOG`: the log filter.
    pub(crate) log_level: Option<String>,
    /// systemd's `RUNTIME_DIRECTORY`, otherwise `/run/start-worker` for root and `start-worker` in `XDG_RUNTIME_DIR`
    /// for other users.
    pub(crate) runtime_directory: Option<PathBuf>,
    /// systemd's `STATE_DIRECTORY`.
    pub(crate) state_directory: Option<PathBuf>,
    /// `SUDO_USER`: the user who became root by sudo.
    pub(crate) sudo_user: Option<String>,
    /// `JOURNAL_STREAM`: device and inode of the pipe that a journal reads.
    pub(crate) journal_stream: Option<String>,
    /// `START_WORKER_JOURNAL_SOCKET`, for tests, otherwise the socket of systemd's journal.
    pub(crate) journal_socket: PathBuf,
    /// `NOTIFY_SOCKET`, and `WATCHDOG_USEC` if `WATCHDOG_PID` names this process.
    pub(crate) service_manager: Address,
    /// `START_WORKER_EC2_METADATA_URL`, `START_WORKER_AZURE_METADATA_URL`, `START_WORKER_GCE_METADATA_URL`: origins, for
    /// tests.
    pub(crate) metadata: MetadataOrigins,
    /// `COLUMNS`: overrides the width of the terminal.
    pub(crate) columns: Option<usize>,
    /// False where the user wants no colours (`NO_COLOR`), or the terminal has none (`TERM=dumb`).
    pub(crate) colours: bool,
    /// `PATH`.
    pub(crate) path: Option<OsString>,
    /// `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`, in lower or upper case; `SSL_CERT_FILE`, `SSL_CERT_DIR`.
    pub(crate) proxies: Proxies,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let by_default = || {
            if nix::unistd::geteuid().is_root() {
                return Some(PathBuf::from("/run/start-worker"));
            }
            directory("XDG_RUNTIME_DIR").map(|folder| folder.join("start-worker"))
        };
        Self {
            log_level: text("START_WORKER_LOG"),
            runtime_directory: directory("RUNTIME_DIRECTORY").or_else(by_default),
            state_directory: directory("STATE_DIRECTORY"),
            sudo_user: text("SUDO_USER"),
            metadata: MetadataOrigins {
                ec2: text("START_WORKER_EC2_METADATA_URL"),
                azure: text("START_WORKER_AZURE_METADATA_URL"),
                gce: text("START_WORKER_GCE_METADATA_URL"),
            },
            journal_stream: text("JOURNAL_STREAM"),
            journal_socket: text("START_WORKER_JOURNAL_SOCKET")
                .map_or_else(|| PathBuf::from("/run/systemd/journal/socket"), PathBuf::from),
            service_manager: Address {
                notify_socket: env::var_os("NOTIFY_SOCKET"),
                watchdog: watchdog(text("WATCHDOG_PID").as_deref(), text("WATCHDOG_USEC").as_deref()),
            },
            columns: text("COLUMNS").and_then(|count| count.parse().ok()).filter(|count| *count > 0),
            colours: text("NO_COLOR").is_none() && text("TERM").is_none_or(|terminal| terminal != "dumb"),
            path: env::var_os("PATH"),
            proxies: Proxies { authorities: authorities(), ..proxies(|name| env::var(name).ok()) },
        }
    }
}

/// Treats an empty variable as unset.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// The variables that name TLS trust anchors.
fn authorities() -> Vec<(&'static str, PathBuf)> {
    let set =
        |name| env::var_os(name).filter(|value| !value.is_empty()).map(|path| (name, PathBuf::from(path)));
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(set).collect()
}

/// The first of several directories separated by colons: systemd lists the unit's own first.
fn directory(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name)?;
    env::split_paths(&value).next().filter(|path| path.is_absolute())
}

/// The interval at which the service manager expects a heartbeat of this process, if it does: `sd_watchdog_enabled(3)`.
fn watchdog(pid: Option<&str>, microseconds: Option<&str>) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let microseconds = microseconds?.parse().ok().filter(|time| *time > 0 && ours)?;
    Some(Duration::from_micros(microseconds))
}

/// Reads the proxy variables: lower case takes precedence, empty means unset, and `all_proxy` replaces unset ones.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Proxies {
    let set =
        |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_uppercase()));
    let all = either("all_proxy");
    Proxies {
        http: either("http_proxy").or_else(|| all.clone()),
        https: either("https_proxy").or(all),
        no_proxy: either("no_proxy"),
        authorities: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> [Option<String>; 3] {
        let Proxies { http, https, no_proxy, .. } = proxies(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        [http, https, no_proxy]
    }

    #[test]
    fn a_heartbeat_is_given_where_it_is_expected_of_this_process() {
        let own = std::process::id().to_string();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(watchdog(Some(&own), Some("60000000")), minute);
        assert_eq!(watchdog(None, Some("60000000")), minute);
        for (pid, time) in
            [(Some("1"), Some("60000000")), (None, None), (None, Some("0")), (None, Some("soon"))]
        {
            assert_eq!(watchdog(pid, time), None, "{pid:?}, {time:?}");
        }
    }

    #[test]
    fn proxies_are_read_in_small_letters_first() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[]), [None, None, None]);
        let set = [("http_proxy", "a"), ("HTTP_PROXY", "b"), ("HTTPS_PROXY", "c"), ("no_proxy", "d")];
        assert_eq!(read(&set), [some("a"), some("c"), some("d")]);
        assert_eq!(
            read(&[("all_proxy", "a"), ("https_proxy", ""), ("HTTP_PROXY", "b")]),
            [some("b"), some("a"), None]
        );
    }
}
