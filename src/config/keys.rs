//! All keys of the runner configuration: their sections, types and defaults.
//!
//! The reader knows only these keys and defaults, and a test compares `docs/configuration.md` with them.

#[derive(Debug)]
pub(super) struct Key {
    /// The key's section (`supervision.backoff`); empty at the top.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) default: Default,
    /// The provider types or worker implementations with this key; empty: all.
    pub(super) only: &'static [&'static str],
    /// True if its value, or a part of it, may be secret.
    pub(super) secret: bool,
}

/// The type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Section,
    /// Not empty, without control characters.
    Text,
    RootUrl,
    WorkerPoolId,
    StaticSecret,
    /// A string that contains a JSON object.
    Certificate,
    UserName,
    Tty,
    /// A name that is written to a display manager's file.
    SessionName,
    Path,
    /// A path, or `true` for the default path.
    PathOrTrue,
    /// More than zero.
    Duration,
    DurationOrZero,
    Boolean,
    Integer {
        least: i64,
        most: i64,
    },
    Choice(&'static [&'static str]),
    Strings,
    /// Absolute paths.
    Paths,
    /// Program and arguments.
    Command,
    /// An object of strings; integers are converted to strings.
    Environment,
    /// An object of strings only.
    Location,
    Object,
    Address,
}

/// The value of a key that is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Default {
    Required,
    /// No value; the text describes the effect.
    Absent(&'static str),
    /// In the form of the file.
    Value(&'static str),
}

impl Key {
    /// `provider.workerPoolID`.
    pub(super) fn path(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }

    pub(super) fn is_for(&self, variant: Option<&str>) -> bool {
        self.only.is_empty() || variant.is_none_or(|variant| self.only.contains(&variant))
    }

    const fn default(self, text: &'static str) -> Self {
        Self { default: Default::Value(text), ..self }
    }

    const fn absent(self, meaning: &'static str) -> Self {
        Self { default: Default::Absent(meaning), ..self }
    }

    const fn only(self, variants: &'static [&'static str]) -> Self {
        Self { only: variants, ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

/// A required key of all variants.
const fn key(section: &'static str, name: &'static str, takes: Takes) -> Key {
    Key { section, name, takes, default: Default::Required, only: &[], secret: false }
}

impl Takes {
    /// The type in words: `a duration`.
    pub(super) fn in_words(self) -> String {
        let words = match self {
            Self::Section => "a section",
            Self::Text => "a string",
            Self::RootUrl => "an http or https URL",
            Self::WorkerPoolId => "a worker pool ID (`provisioner/type`)",
            Self::StaticSecret => "44 characters of `a-z A-Z 0-9 _ -`",
            Self::Certificate => "a string that holds a JSON object",
            Self::UserName => "a user name",
            Self::Tty => "a terminal's name",
            Self::SessionName => "a session's name",
            Self::Path => "a path",
            Self::PathOrTrue => "a path, or true",
            Self::Duration => "a duration",
            Self::DurationOrZero => "a duration, may be 0s",
            Self::Boolean => "true or false",
            Self::Integer { least, most } => return format!("an integer from {least} to {most}"),
            Self::Choice(options) => return format!("one of {}", options.join(", ")),
            Self::Strings => "a list of strings",
            Self::Paths => "a list of absolute paths",
            Self::Command => "a list of strings: program and arguments",
            Self::Environment | Self::Location => "an object of strings",
            Self::Object => "an object",
            Self::Address => "an IP address and a port",
        };
        words.to_owned()
    }
}

/// A description of a key of the runner configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyInfo {
    /// `supervision.stopTimeout`.
    pub path: String,
    /// The type: `a duration`.
    pub takes: String,
    /// The default, in backticks if it could be written in the file; `required`.
    pub default: String,
    /// The provider types or worker implementations with this key; empty: all.
    pub only: &'static [&'static str],
}

/// All known keys. A key that depends on the provider or the worker may occur more than once.
pub fn known_keys() -> Vec<KeyInfo> {
    let info = |key: &&Key| KeyInfo {
        path: key.path(),
        takes: key.takes.in_words(),
        default: match key.default {
            Default::Required => "required".to_owned(),
            Default::Absent(meaning) => meaning.to_owned(),
            Default::Value(text) => format!("`{text}`"),
        },
        only: key.only,
    };
    ALL.iter().map(info).collect()
}

const FIXED: &[&str] = &["standalone", "static"];
const CLOUDS: &[&str] = &["aws", "azure", "google", "aws-provisioner"];
const WITH_FILES: &[&str] = &["generic-worker", "docker-worker", "command"];

macro_rules! keys {
    ($($constant:ident = $key:expr;)*) => {
        $(pub(super) static $constant: Key = $key;)*
        /// All keys, in the order of the sections.
        pub(super) static ALL: &[&Key] = &[$(&$constant),*];
    };
}

keys! {
    PROVIDER = key("", "provider", Takes::Section);
    WORKER = key("", "worker", Takes::Section);
    WORKER_CONFIG = key("", "workerConfig", Takes::Object).default("{}");
    GET_SECRETS = key("", "getSecrets", Takes::Boolean).default("true");
    CACHE = key("", "cacheOverRestarts", Takes::PathOrTrue).absent("no cache");
    LOGGING = key("", "logging", Takes::Section).default("{}");
    SUPERVISION = key("", "supervision", Takes::Section).default("{}");
    DEPLOYMENT = key("", "deployment", Takes::Section).default("{}");
    START_TIMEOUT = key("", "startTimeout", Takes::Duration).absent("15m on clouds; never on static and standalone");
    HOST = key("", "host", Takes::Section).default("{}");
    HOOKS = key("", "hooks", Takes::Section).default("{}");
    EVENTS = key("", "events", Takes::Section).default("{}");
    AUTOLOGIN = key("", "autologin", Takes::Section).default("{}");
    STATUS = key("", "status", Takes::Section).default("{}");
    METRICS = key("", "metrics", Takes::Section).default("{}");

    PROVIDER_TYPE = key("provider", "providerType",
        Takes::Choice(&["standalone", "static", "aws", "azure", "google", "aws-provisioner"]));
    ROOT_URL = key("provider", "rootURL", Takes::RootUrl).only(FIXED);
    PROVIDER_ID = key("provider", "providerID", Takes::Text).only(&["static"]);
    WORKER_POOL_ID = key("provider", "workerPoolID", Takes::WorkerPoolId).only(FIXED);
    WORKER_GROUP = key("provider", "workerGroup", Takes::Text).only(FIXED);
    WORKER_ID = key("provider", "workerID", Takes::Text).only(FIXED);
    STATIC_SECRET = key("provider", "staticSecret", Takes::StaticSecret).only(&["static"]).secret();
    CLIENT_ID = key("provider", "clientID", Takes::Text).only(&["standalone"]);
    ACCESS_TOKEN = key("provider", "accessToken", Takes::Text).only(&["standalone"]).secret();
    CERTIFICATE = key("provider", "certificate", Takes::Certificate).only(&["standalone"]).absent("none").secret();
    PROVIDER_METADATA = key("provider", "providerMetadata", Takes::Object).only(FIXED).default("{}");
    WORKER_LOCATION = key("provider", "workerLocation", Takes::Location).only(FIXED).default("{}");
    ON_REBALANCE = key("provider", "onRebalance", Takes::Choice(&["drain", "ignore"])).only(&["aws"])
        .default("ignore");
    ACKNOWLEDGE_EVENTS = key("provider", "acknowledgeEvents", Takes::Boolean).only(&["azure"]).default("false");
    FINISH_TASKS = key("provider", "finishTasksIfDeadlineOver", Takes::Duration).only(CLOUDS).absent("never");

    IMPLEMENTATION = key("worker", "implementation",
        Takes::Choice(&["generic-worker", "docker-worker", "command", "dummy"]));
    WORKER_PATH = key("worker", "path", Takes::Path).only(WITH_FILES);
    CONFIG_PATH = key("worker", "configPath", Takes::Path).only(&["generic-worker", "docker-worker"]);
    OPTIONAL_CONFIG_PATH = key("worker", "configPath", Takes::Path).only(&["command"]).absent("no file");
    SERVICE = key("worker", "service", Takes::Text).only(&["generic-worker"]).absent("Windows only");
    PROTOCOL_PIPE = key("worker", "protocolPipe", Takes::Text).only(&["generic-worker"]).absent("Windows only");
    CREDENTIALS_IN_ENVIRONMENT = key("worker", "credentialsInEnvironment", Takes::Boolean).only(&["command"])
        .default("false");
    SHOW_SECRETS = key("worker", "showSecrets", Takes::Boolean).only(&["dummy"]).default("false");
    ARGS = key("worker", "args", Takes::Strings).default("[]").secret();
    ENV = key("worker", "env", Takes::Environment).default("{}").secret();
    CWD = key("worker", "cwd", Takes::Path).absent("where the runner is");
    USER = key("worker", "user", Takes::Text).absent("the runner's");
    HELLO_TIMEOUT = key("worker", "helloTimeout", Takes::Duration).default("30s");
    RESTART_IN_PLACE = key("worker", "restartInPlace", Takes::Choice(&["auto", "true", "false"])).default("auto");
    OOM_SCORE_ADJ = key("worker", "oomScoreAdj", Takes::Integer { least: -1000, most: 1000 }).default("0");

    LOG_FORMAT = key("logging", "implementation", Takes::Choice(&["stdio", "json", "journald"])).default("stdio");

    RESTART = key("supervision", "restart", Takes::Choice(&["never", "on-failure", "always"])).default("on-failure");
    MAX_RESTARTS = key("supervision", "maxRestarts", Takes::Integer { least: 0, most: 1_000_000 }).default("5");
    RESTART_WINDOW = key("supervision", "restartWindow", Takes::Duration).default("10m");
    REPORT_OUTPUT_LINES = key("supervision", "reportOutputLines", Takes::Integer { least: 0, most: 10_000 })
        .default("0");
    KILL_DESCENDANTS = key("supervision", "killDescendants", Takes::Boolean).default("true");
    BACKOFF = key("supervision", "backoff", Takes::Section).default("{}");
    FAILURE_BACKOFF = key("supervision", "failureBackoff", Takes::Section).default("{}");
    DRAIN_TIMEOUT = key("supervision", "drainTimeout", Takes::Duration).default("24h");
    STOP_TIMEOUT = key("supervision", "stopTimeout", Takes::Duration).default("60s");
    KILL_TIMEOUT = key("supervision", "killTimeout", Takes::Duration).default("10s");
    DRAIN_IDLE_TIMEOUT = key("supervision", "drainIdleTimeout", Takes::Duration).default("60s");
    ON_REBOOT = key("supervision", "onReboot", Takes::Choice(&["auto", "wait", "restart", "reboot", "exit"]))
        .default("auto");
    AFTER_RUN = key("supervision", "afterRun", Takes::Choice(&["exit", "reboot", "poweroff"])).default("exit");
    MAX_TASKS = key("supervision", "maxTasks", Takes::Integer { least: 1, most: 1_000_000 }).absent("no limit");
    MAX_UPTIME = key("supervision", "maxUptime", Takes::Duration).absent("no limit");
    ON_UNFIT = key("supervision", "onUnfit", Takes::Choice(&["restart", "exit", "hold", "quarantine"]))
        .default("restart");
    QUARANTINE_FOR = key("supervision", "quarantineFor", Takes::Duration).default("24h");
    REBOOT_TIMEOUT = key("supervision", "rebootTimeout", Takes::Duration).default("5m");

    BACKOFF_INITIAL = key("supervision.backoff", "initial", Takes::DurationOrZero).default("1s");
    BACKOFF_MAX = key("supervision.backoff", "max", Takes::DurationOrZero).default("1m");

    FAILURE_BACKOFF_INITIAL = key("supervision.failureBackoff", "initial", Takes::DurationOrZero).default("30s");
    FAILURE_BACKOFF_MAX = key("supervision.failureBackoff", "max", Takes::DurationOrZero).default("30m");

    POLL = key("deployment", "poll", Takes::Boolean).default("true");
    INTERVAL = key("deployment", "interval", Takes::Duration).default("5m");

    SHUTDOWN_ON_START_FAILURE = key("host", "shutdownOnStartFailure", Takes::Boolean).default("true");
    START_FAILURE_DELAY = key("host", "startFailureDelay", Takes::DurationOrZero).default("10m");
    SHUTDOWN_STATIC = key("host", "shutdownStatic", Takes::Boolean).default("false");
    SHUTDOWN_COMMAND = key("host", "shutdownCommand", Takes::Command).default("[shutdown, -h, now]");
    REBOOT_COMMAND = key("host", "rebootCommand", Takes::Command).default("[systemctl, reboot]");
    FORCE_SHUTDOWN_COMMAND = key("host", "forceShutdownCommand", Takes::Command)
        .absent("[systemctl, poweroff, --force] with the default shutdownCommand, else none");
    FORCE_REBOOT_COMMAND = key("host", "forceRebootCommand", Takes::Command)
        .absent("[systemctl, reboot, --force] with the default rebootCommand, else none");

    WAIT_FOR = key("hooks", "waitFor", Takes::Paths).default("[]");
    HOOK_BEFORE_START = key("hooks", "beforeStart", Takes::Section).absent("no hook");
    HOOK_AFTER_RUN = key("hooks", "afterRun", Takes::Section).absent("no hook");
    BEFORE_START_COMMAND = key("hooks.beforeStart", "command", Takes::Command);
    BEFORE_START_TIMEOUT = key("hooks.beforeStart", "timeout", Takes::Duration).default("10m");
    AFTER_RUN_COMMAND = key("hooks.afterRun", "command", Takes::Command);
    AFTER_RUN_TIMEOUT = key("hooks.afterRun", "timeout", Takes::Duration).default("10m");

    EVENTS_FILE = key("events", "file", Takes::Path).absent("no event log");

    DISPLAY_MANAGER = key("autologin", "displayManager",
        Takes::Choice(&["auto", "gdm", "lightdm", "sddm", "getty", "none"])).default("auto");
    AUTOLOGIN_USER = key("autologin", "user", Takes::UserName).absent("only when the worker asks");
    SESSION = key("autologin", "session", Takes::SessionName).absent("the display manager's");
    TTY = key("autologin", "tty", Takes::Tty).default("tty1");
    AUTOLOGIN_ROOT = key("autologin", "root", Takes::Path).default("/");
    ALLOWED_USERS = key("autologin", "allowedUsers", Takes::Text).absent("any existing user with uid ≥ 1000");

    SOCKET = key("status", "socket", Takes::Path).default("/run/start-worker/status.sock");

    LISTEN = key("metrics", "listen", Takes::Address).absent("none");
}
