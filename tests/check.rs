//! `start-worker check` as an operator uses it: the real program, what it prints, and how it exits.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use insta::assert_snapshot;
use serde_json::{Value, json};

use test_support::secrets::Secrets;

/// A folder with runner configurations in it, which is all that the program sees.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A desk with one file, `r.yml`.
    fn with(text: &str) -> Self {
        let desk = Self::new();
        desk.put("r.yml", text);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        self.set_mode(name, 0o600);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn start_worker(&self, arguments: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .env("RUNTIME_DIRECTORY", self.0.path())
            .output()
            .unwrap();
        if !arguments.contains(&"--show-secrets") {
            let secrets = Secrets::of_folder(self.0.path());
            secrets.assert_kept(&output.stdout);
            secrets.assert_kept(&output.stderr);
        }
        output
    }

    fn check(&self, arguments: &[&str]) -> Output {
        self.start_worker(&[&["check"], arguments].concat())
    }

    /// The output and the exit status, without the effective runner configuration, which is long.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.check(arguments);
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        let worker = printed.find("# worker configuration").and_then(|start| printed.get(start..));
        format!("{}{}", worker.unwrap_or(&printed), end(&output))
    }

    /// Every file with its mode, its time of change and its content.
    fn everything(&self) -> String {
        let mut all = String::new();
        let mut names: Vec<_> =
            std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let about = std::fs::symlink_metadata(&path).unwrap();
            let content = if about.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            let (time, nanoseconds) = (about.ctime(), about.ctime_nsec());
            writeln!(all, "{} {:o} {time}.{nanoseconds} {content:?}", path.display(), about.mode()).unwrap();
        }
        all
    }
}

/// The text on stderr, and the exit code.
fn end(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    format!("stderr:\n{said}exit {}\n", output.status.code().unwrap())
}

fn json_of(output: &Output) -> Value {
    assert_eq!(output.stderr, b"", "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fixtures() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runner-configs");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
    };
    let mut all: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap().path())).collect();
    all.sort();
    all
}

const STANDALONE: &str = r#"
provider:
  providerType: standalone
  rootURL: https://tc.example.com
  clientID: project/ci
  accessToken: &token hunter2-access-token
  certificate: &certificate '{"version":1,"expiry":32472144000000,"signature":"hunter2-signature"}'
  workerPoolID: ci/linux
  workerGroup: rack-1
  workerID: host-1
  providerMetadata: {instance-type: t3.large, bmcPassword: hunter2-bmc}
  workerLocation: {region: here}
worker:
  implementation: generic-worker
  path: /usr/local/bin/generic-worker
  configPath: worker.json
  env: {API_TOKEN: hunter2-env, LANG: C}
  args: [--token, *token]
cacheOverRestarts: cache.json
workerConfig:
  copies: [*token, "Bearer hunter2-access-token", *certificate]
  nested: {list: [1, {deep: true}, []], none: null, empty: {}}
  "a.b": quoted
  workerTypeMetadata: {mine: 1}
  livelogSecret: hunter2-livelog
  ssh_private_key: hunter2-key
  credentials: {user: hunter2-user, port: 8080, on: true, file: /etc/worker/credentials}
  dockerWorkerPrivateKey: /etc/worker/key
  tokenLifetime: 3600
  tokenizer: shown
  deploymentId: d1
"#;

const FIVE_FAULTS: &str = "\
provider: {providerType: google}
worker:
  implementation: dummy
  helloTimeout: 30
  oomScoreAdj: 2000
  helloTimout: 30s
supervision:
  restart: sometimes
  stopTimeout: soon
startTimeout: 0s
";

#[test]
fn every_configuration_from_the_field_passes() {
    for (name, text) in fixtures() {
        let desk = Desk::new();
        desk.put(&name, &text);
        let output = desk.check(&[&name]);
        let warning = "warning: docker-compose-static.json:14: provider.workerNodeType: unknown key, ignored; remove it\n";
        let expected = if name == "docker-compose-static.json" { warning } else { "" };
        assert_eq!(end(&output), format!("stderr:\n{expected}exit 0\n"), "{name}");
        let strict = desk.check(&["--strict", &name]).status.code();
        assert_eq!(strict, Some(if expected.is_empty() { 0 } else { 64 }), "{name}");
        let json = json_of(&desk.check(&["--json", &name]));
        assert_eq!(json["diagnostics"].as_array().unwrap().len(), expected.lines().count(), "{name}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "the answer is long")]
fn what_is_in_effect_is_shown_whole() {
    let (_, text) = fixtures().into_iter().find(|(name, _)| name == "static-hardware.yml").unwrap();
    let output = Desk::with(&text).check(&["r.yml"]);
    assert_snapshot!(String::from_utf8(output.stdout).unwrap(), @r#"
    # runner configuration in effect
    autologin:
      allowedUsers: null
      displayManager: auto
      root: /
      session: null
      tty: tty1
      user: null
    cacheOverRestarts: null
    deployment:
      interval: 5m
      poll: true
    events:
      file: null
    getSecrets: true
    hooks:
      afterRun: null
      beforeStart: null
      waitFor: []
    host:
      forceRebootCommand:
      - systemctl
      - reboot
      - --force
      forceShutdownCommand:
      - systemctl
      - poweroff
      - --force
      rebootCommand:
      - systemctl
      - reboot
      shutdownCommand:
      - shutdown
      - -h
      - now
      shutdownOnStartFailure: true
      shutdownStatic: false
      startFailureDelay: 10m
    logging:
      implementation: stdio
    metrics:
      listen: null
    provider:
      providerID: releng-hardware
      providerMetadata:
        rack: 12
        region: mdc1
      providerType: static
      rootURL: https://tc.example.com
      staticSecret: (masked)
      workerGroup: mdc1
      workerID: t-linux64-001
      workerLocation:
        dataCenter: mdc1
      workerPoolID: releng-hardware/linux-perf
    startTimeout: null
    status:
      socket: /run/start-worker/status.sock
    supervision:
      afterRun: exit
      backoff:
        initial: 1s
        max: 1m
      drainIdleTimeout: 1m
      drainTimeout: 24h
      failureBackoff:
        initial: 30s
        max: 30m
      killDescendants: true
      killTimeout: 10s
      maxRestarts: 5
      maxTasks: null
      maxUptime: null
      onReboot: auto
      onUnfit: restart
      quarantineFor: 24h
      rebootTimeout: 5m
      reportOutputLines: 0
      restart: on-failure
      restartWindow: 10m
      stopTimeout: 1m
    worker:
      args: []
      configPath: /etc/generic-worker.config
      cwd: null
      env: {}
      helloTimeout: 30s
      implementation: generic-worker
      oomScoreAdj: 0
      path: /usr/local/bin/generic-worker
      restartInPlace: auto
      user: null
    workerConfig:
      disableReboots: true
      idleTimeoutSecs: 0
      numberOfTasksToRun: 1
      tasksDir: /home

    # worker configuration as far as it is known offline, and the source of each value
    disableReboots: true   # runner file
    idleTimeoutSecs: 0     # runner file
    numberOfTasksToRun: 1  # runner file
    tasksDir: "/home"      # runner file
    # added at start: workerConfig and files that registerWorker returns (provider)
    # added at start: the secrets worker-type:<pool> and worker-pool:<pool>, where they exist (getSecrets)
    # added at start: what start-worker sets for generic-worker: accessToken, certificate, clientId, provisionerId, region, rootURL, workerGroup, workerId, workerLocation, workerType, workerTypeMetadata.rack, workerTypeMetadata.region

    # verdict: valid
    "#);
}

#[test]
fn a_provider_of_a_cloud_is_shown_as_far_as_it_is_known_offline() {
    let desk = Desk::new();
    for (name, text) in fixtures() {
        desk.put(&name, &text);
    }
    assert_snapshot!(desk.said(&["aws-provisioner-docker-worker.yml"]), @r#"
    # worker configuration as far as it is known offline, and the source of each value
    deviceManagement.loopbackAudio.enabled: true                  # runner file
    deviceManagement.loopbackVideo.enabled: true                  # runner file
    dockerWorkerPrivateKey: "/etc/taskcluster/secrets/worker_cot_key"  # runner file
    ed25519SigningKeyLocation: "/etc/taskcluster/secrets/worker_ed25519_cot_key"  # runner file
    ssl.certificate: "/etc/taskcluster/secrets/worker_livelog_tls_cert"  # runner file
    ssl.key: "/etc/taskcluster/secrets/worker_livelog_tls_key"    # runner file
    # added at start: data of the user-data (provider)
    # added at start: the secrets worker-type:<pool> and worker-pool:<pool>, where they exist (getSecrets)
    # added at start: what start-worker sets for docker-worker: host, instanceId, instanceType, privateIp, provisionerId, publicIp, region, rootUrl, shutdown.afterIdleSeconds, shutdown.enabled, taskcluster.accessToken, taskcluster.certificate, taskcluster.clientId, workerGroup, workerId, workerLocation, workerNodeType, workerType

    # verdict: valid
    stderr:
    exit 0
    "#);
}

#[test]
fn a_windows_set_up_passes_and_says_why_it_cannot_start_here() {
    let (_, text) = fixtures().into_iter().find(|(name, _)| name == "windows-azure.yml").unwrap();
    let desk = Desk::with(&text);
    assert_snapshot!(desk.said(&["r.yml"]), @"
    # worker configuration as far as it is known offline, and the source of each value
    # added at start: workerConfig and files that registerWorker returns (provider)
    # added at start: the secrets worker-type:<pool> and worker-pool:<pool>, where they exist (getSecrets)

    # verdict: valid, but this host cannot start it: worker.path is missing: worker.service and worker.protocolPipe start generic-worker as a Windows service, which does not exist here; set worker.path to the generic-worker binary
    stderr:
    exit 0
    ");
    let started = end(&desk.start_worker(&["r.yml"]));
    let told: Vec<_> =
        started.lines().filter_map(|line| line.split_once("ERROR ")).map(|(_, rest)| rest).collect();
    assert_snapshot!(told.join("\n"), @"start-worker ends: worker.path is missing: worker.service and worker.protocolPipe start generic-worker as a Windows service, which does not exist here; set worker.path to the generic-worker binary exit_code=64");
    assert!(started.ends_with("exit 64\n"), "{started}");
}

#[test]
fn no_secret_of_the_provider_is_shown() {
    let output = Desk::with(STANDALONE).check(&["r.yml"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    let (start, end) = (printed.find("\nprovider:").unwrap(), printed.find("\nstartTimeout:").unwrap());
    assert_snapshot!(printed.get(start..end).unwrap(), @"
    provider:
      accessToken: (masked)
      certificate: (masked)
      clientID: project/ci
      providerMetadata:
        bmcPassword: (masked)
        instance-type: t3.large
      providerType: standalone
      rootURL: https://tc.example.com
      workerGroup: rack-1
      workerID: host-1
      workerLocation:
        region: here
      workerPoolID: ci/linux
    ");
}

#[test]
fn no_secret_of_worker_and_its_configuration_is_shown() {
    let output = Desk::with(STANDALONE).check(&["r.yml"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    let (start, end) = (printed.find("\nworker:").unwrap(), printed.find("\n# worker conf").unwrap());
    assert_snapshot!(printed.get(start..end).unwrap(), @r#"
    worker:
      args:
      - --token
      - (masked)
      configPath: worker.json
      cwd: null
      env:
        API_TOKEN: (masked)
        LANG: C
      helloTimeout: 30s
      implementation: generic-worker
      oomScoreAdj: 0
      path: /usr/local/bin/generic-worker
      restartInPlace: auto
      user: null
    workerConfig:
      a.b: quoted
      copies:
      - (masked)
      - (masked)
      - (masked)
      credentials:
        file: /etc/worker/credentials
        on: true
        port: 8080
        user: (masked)
      deploymentId: d1
      dockerWorkerPrivateKey: /etc/worker/key
      livelogSecret: (masked)
      nested:
        empty: {}
        list:
        - 1
        - deep: true
        - []
        none: null
      ssh_private_key: (masked)
      tokenLifetime: 3600
      tokenizer: shown
      workerTypeMetadata:
        mine: 1
    "#);
}

#[test]
fn every_leaf_of_the_worker_configuration_has_its_source() {
    assert_snapshot!(Desk::with(STANDALONE).said(&["r.yml"]), @r#"
    # worker configuration as far as it is known offline, and the source of each value
    "a.b": "quoted"                                               # runner file
    accessToken: "(masked)"                                       # start-worker
    certificate: "(masked)"                                       # start-worker
    clientId: "project/ci"                                        # start-worker
    copies[0]: "(masked)"                                         # runner file
    copies[1]: "(masked)"                                         # runner file
    copies[2]: "(masked)"                                         # runner file
    credentials.file: "/etc/worker/credentials"                   # runner file
    credentials.on: true                                          # runner file
    credentials.port: 8080                                        # runner file
    credentials.user: "(masked)"                                  # runner file
    deploymentId: "d1"                                            # runner file
    dockerWorkerPrivateKey: "/etc/worker/key"                     # runner file
    instanceType: "t3.large"                                      # start-worker
    livelogSecret: "(masked)"                                     # runner file
    nested.empty: {}                                              # runner file
    nested.list[0]: 1                                             # runner file
    nested.list[1].deep: true                                     # runner file
    nested.list[2]: []                                            # runner file
    nested.none: null                                             # runner file
    provisionerId: "ci"                                           # start-worker
    rootURL: "https://tc.example.com"                             # start-worker
    ssh_private_key: "(masked)"                                   # runner file
    tokenLifetime: 3600                                           # runner file
    tokenizer: "shown"                                            # runner file
    workerGroup: "rack-1"                                         # start-worker
    workerId: "host-1"                                            # start-worker
    workerLocation: "{\"cloud\":\"standalone\",\"region\":\"here\"}"  # start-worker
    workerType: "linux"                                           # start-worker
    workerTypeMetadata.bmcPassword: "(masked)"                    # start-worker
    workerTypeMetadata.instance-type: "t3.large"                  # start-worker
    workerTypeMetadata.mine: 1                                    # runner file
    # added at start: the secrets worker-type:<pool> and worker-pool:<pool>, where they exist (getSecrets)
    # for start-worker, not in the worker's file: deploymentId

    # verdict: valid
    stderr:
    exit 0
    "#);
}

#[test]
fn secrets_are_shown_to_who_asks_for_them() {
    let desk = Desk::with(STANDALONE);
    let output = desk.check(&["--show-secrets", "r.yml"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!printed.contains("(masked)"), "{printed}");
    for secret in ["access-token", "signature", "bmc", "env", "livelog", "key", "user"] {
        assert!(printed.contains(&format!("hunter2-{secret}")), "{secret}: {printed}");
    }
    let json = json_of(&desk.check(&["--show-secrets", "--json", "r.yml"]));
    assert_eq!(json["runnerConfiguration"]["provider"]["accessToken"], "hunter2-access-token");
}

#[test]
fn a_static_secret_is_masked_wherever_it_stands() {
    let secret = "hunter2hunter2hunter2hunter2hunter2hunter2hu";
    let (_, text) = fixtures().into_iter().find(|(name, _)| name == "static-hardware.yml").unwrap();
    let line = text.lines().find(|line| line.contains("staticSecret")).unwrap();
    let indent = line.split("staticSecret").next().unwrap();
    let text = text.replace(line, &format!("{indent}staticSecret: {secret}"));
    let text = text.replace("  tasksDir:", &format!("  copy: 'x{secret}'\n  tasksDir:"));
    let desk = Desk::with(&text);
    for arguments in [&["r.yml"][..], &["--json", "r.yml"]] {
        let output = desk.check(arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("copy") && !printed.contains("hunter2"), "{printed}");
    }
}

/// A configuration of a static worker that is right, but for these lines of its provider section.
fn static_with(lines: &str) -> String {
    let given = |key: &str| lines.lines().any(|line| line.trim_start().starts_with(key));
    let rest = [
        ("rootURL:", "https://tc.example.com"),
        ("providerID:", "static-1"),
        ("workerPoolID:", "aa/bb"),
        ("workerGroup:", "wg"),
        ("workerID:", "wi"),
        ("staticSecret:", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR"),
    ];
    let mut text = "provider:\n  providerType: static\n".to_owned();
    for (key, value) in rest.into_iter().filter(|(key, _)| !given(key)) {
        writeln!(text, "  {key} {value}").unwrap();
    }
    format!("{text}{lines}\nworker: {{implementation: dummy}}\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of lines")]
fn no_diagnostic_shows_a_secret_whatever_yaml_takes_it_for() {
    const SECRET: &str = "hushhushhush22";
    for lines in [
        // A tag, an anchor, an alias, a directive, a comment, a block.
        "  staticSecret: !hushhushhush22",
        "  staticSecret: !hushhushhush22 x",
        "  staticSecret: !<hushhushhush22> x",
        "  staticSecret: !!hushhushhush22 x",
        "  staticSecret: !!int hushhushhush22",
        "  staticSecret: !h!hushhushhush22 x",
        "  staticSecret: &hushhushhush22",
        "  staticSecret: *hushhushhush22",
        "  staticSecret: &hushhushhush22 a\n  a: &hushhushhush22 b\n  c: *hushhushhush22",
        "  staticSecret: %hushhushhush22",
        "  staticSecret: @hushhushhush22",
        "  staticSecret: `hushhushhush22",
        "  staticSecret: |hushhushhush22",
        "  staticSecret: 'hushhushhush22",
        "  staticSecret: \"hushhushhush22\\q\"",
        "  staticSecret: [hushhushhush22]",
        "  staticSecret: {hushhushhush22: hushhushhush22}",
        "  staticSecret: {hushhushhush22: 1, hushhushhush22: 2}",
        "  staticSecret: hushhushhush22: x",
        "  staticSecret: # hushhushhush22",
        "  staticSecret: |\n    a\n    hushhushhush22",
        "  staticSecret: >-\n    hushhushhush22\n    hushhushhush22",
        "%hushhushhush22 x",
        // No space after the colon; the wrong key; a string for a section.
        "  staticSecret:hushhushhush22",
        "  staticSecret:hushhushhush22: x",
        "  staticSecrets: hushhushhush22",
        "  staticSecret=hushhushhush22: x",
        "  ? staticSecret:hushhushhush22",
        "  workerLocation: 'password: hushhushhush22'",
        "  workerLocation: password=hushhushhush22",
        "  providerMetadata: \"{staticSecret: hushhushhush22}\"",
        // Repeated where it does not do.
        "  staticSecret: hushhushhush22\n  workerPoolID: hushhushhush22",
        "  staticSecret: hushhushhush22\n  workerPoolID: aHVzaGh1c2hodXNoMjI=",
        "  staticSecret: hushhushhush22\n  hushhushhush22: x",
        "  staticSecret: hushhushhush22\n  x-hushhushhush22-and-a-key-of-more-than-eighty-characters-that-is-cut-where-the-secret-is-hushhushhush22: x",
        "  staticSecret: hushhushhush22\n  workerPoolID: a-string-of-sixty-characters-that-is-cut-in-the-secret-hushhushhush22",
        // URLs.
        "  rootURL: ftp://me:hushhushhush22@tc.example.com",
        "  rootURL: HTTPS://me:hushhushhush22@tc.example.com",
        "  rootURL: https://me:hushhushhush22@tc.example.com",
        "  rootURL: https//me:hushhushhush22@tc.example.com",
        "  rootURL: me:hushhushhush22@tc.example.com",
        "  rootURL: ftp://hushhushhush22@tc.example.com",
        "  rootURL: https://tc.example.com/?token=hushhushhush22",
        "  rootURL: ftp://tc.example.com/?sig=hushhushhush22",
        "  workerPoolID: https:me:hushhushhush22@tc.example.com",
        "  workerLocation: x https://me:hushhushhush22@tc.example.com/?a",
        "  https://me:hushhushhush22@tc.example.com: x",
    ] {
        let desk = Desk::with(&static_with(lines));
        for arguments in
            [&["check", "r.yml"][..], &["check", "--json", "r.yml"], &["check", "--strict", "r.yml"]]
        {
            let output = desk.start_worker(arguments);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(
                !said.contains(SECRET) && !said.contains("aHVzaGh1c2hod"),
                "{lines}: {arguments:?}: {said}"
            );
            assert!(!said.contains("hushhush"), "{lines}: {arguments:?}: {said}");
        }
    }
}

#[test]
fn programs_are_told_the_same() {
    let desk = Desk::with(STANDALONE);
    let json = json_of(&desk.check(&["--json", "r.yml"]));
    assert!(!json.to_string().contains("hunter2"), "{json}");
    let text = String::from_utf8(desk.check(&["r.yml"]).stdout).unwrap();
    let leaves = json["workerConfiguration"].as_array().unwrap();
    assert!(leaves.len() > 20);
    for leaf in leaves {
        let value = format!("{}: {}", leaf["path"].as_str().unwrap(), leaf["value"]);
        let source = leaf["source"].as_str().unwrap();
        let line = text.lines().find(|line| line.starts_with(&value)).unwrap_or(&value);
        assert!(line.ends_with(&format!("  # {source}")), "{leaf}: {line}");
    }
    let other: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        other,
        [
            "addedAtStart",
            "cannotStart",
            "diagnostics",
            "notWritten",
            "runnerConfiguration",
            "verdict",
            "workerConfiguration"
        ]
    );
    assert_eq!(json["notWritten"], json!(["deploymentId"]));
}

#[test]
fn five_faults_are_told_and_an_unknown_key_with_them() {
    let desk = Desk::with(FIVE_FAULTS);
    assert_snapshot!(desk.said(&["r.yml"]), @r#"
    # verdict: not valid: 5 errors and 1 warning
    stderr:
    error: r.yml:4: worker.helloTimeout: expected a duration, found the integer 30; add a unit, as in 90s
    error: r.yml:5: worker.oomScoreAdj: expected an integer from -1000 to 1000, found the integer 2000
    warning: r.yml:6: worker.helloTimout: unknown key, ignored; remove it
    error: r.yml:8: supervision.restart: expected one of never, on-failure, always, found "sometimes"
    error: r.yml:9: supervision.stopTimeout: expected a duration, found "soon"; write it as in 90s, 15m, 6h or 1h 30m
    error: r.yml:10: startTimeout: expected a duration of more than zero, found "0s"
    exit 64
    "#);
    let strict = desk.said(&["--strict", "r.yml"]);
    assert!(strict.contains("\nerror: r.yml:6: worker.helloTimout: unknown key"), "{strict}");
}

#[test]
fn faults_are_valid_json_too() {
    let desk = Desk::with(FIVE_FAULTS);
    let output = desk.check(&["--json", "r.yml"]);
    assert_eq!(output.status.code(), Some(64));
    let json = json_of(&output);
    let levels: Vec<_> = json["diagnostics"].as_array().unwrap().iter().map(|one| &one["level"]).collect();
    assert_eq!(levels, ["error", "error", "warning", "error", "error", "error"]);
    assert_eq!(
        json["diagnostics"][0],
        json!({
            "level": "error", "file": "r.yml", "line": 4, "path": "worker.helloTimeout",
            "message": "expected a duration, found the integer 30; add a unit, as in 90s",
        })
    );
    desk.put("broken.yml", "provider: {");
    let broken = json_of(&desk.check(&["--json", "broken.yml"]));
    assert_eq!(broken["diagnostics"].as_array().unwrap().len(), 1);
}

#[test]
fn an_unknown_key_is_a_warning_and_an_error_where_that_is_asked_for() {
    let desk =
        Desk::with("provider: {providerType: google}\nworker: {implementation: dummy}\nstartTimout: 1m\n");
    assert_snapshot!(end(&desk.check(&["r.yml"])), @"
    stderr:
    warning: r.yml:3: startTimout: unknown key, ignored; did you mean startTimeout?
    exit 0
    ");
    assert_snapshot!(end(&desk.check(&["--strict", "r.yml"])), @"
    stderr:
    error: r.yml:3: startTimout: unknown key, ignored; did you mean startTimeout?
    exit 64
    ");
    let json = json_of(&desk.check(&["--strict", "--json", "r.yml"]));
    assert_eq!(json["diagnostics"][0]["level"], "error");
    assert!(json["runnerConfiguration"].is_object());
}

#[test]
fn strictness_is_about_unknown_keys_alone() {
    let desk =
        Desk::with("provider: {providerType: google}\nworker: {implementation: dummy}\ngetSecrets: no\n");
    assert_snapshot!(end(&desk.check(&["--strict", "r.yml"])), @r#"
    stderr:
    warning: r.yml:3: getSecrets: expected true or false, found "no"; taken as false; write false
    exit 0
    "#);
}

#[test]
fn loose_permissions_are_a_warning_and_stay() {
    for mode in [0o644, 0o640, 0o666] {
        let desk = Desk::with(STANDALONE);
        desk.set_mode("r.yml", mode);
        let expected = format!(
            "stderr:\nwarning: r.yml: mode is {mode:04o}, others have access: chmod it 0600 and rotate the secrets \
             that are in it\nexit 0\n"
        );
        assert_eq!(end(&desk.check(&["r.yml"])), expected);
        assert_eq!(desk.path("r.yml").metadata().unwrap().mode() & 0o7777, mode);
    }
    for mode in [0o400, 0o500, 0o600, 0o700] {
        let desk = Desk::with(STANDALONE);
        desk.set_mode("r.yml", mode);
        assert_eq!(end(&desk.check(&["r.yml"])), "stderr:\nexit 0\n");
    }
}

#[test]
fn what_is_no_file_is_told_once_and_to_programs_too() {
    let desk = Desk::with(STANDALONE);
    symlink("r.yml", desk.path("link")).unwrap();
    std::fs::create_dir(desk.path("folder")).unwrap();
    nix::unistd::mkfifo(&desk.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let names = ["missing.yml", "r.yml/below", "link", "folder", "fifo"];
    assert_snapshot!(names.map(|name| desk.said(&[name])).concat(), @"
    # verdict: not valid: 1 error
    stderr:
    error: missing.yml: no such file; create it, or give the right path
    exit 64
    # verdict: not valid: 1 error
    stderr:
    error: r.yml/below: no such file; create it, or give the right path
    exit 64
    # verdict: not valid: 1 error
    stderr:
    error: link: expected a regular file, found a symbolic link; put a regular file there
    exit 77
    # verdict: not valid: 1 error
    stderr:
    error: folder: expected a regular file, found a directory; put a regular file there
    exit 77
    # verdict: not valid: 1 error
    stderr:
    error: fifo: expected a regular file, found a named pipe; put a regular file there
    exit 77
    ");
    for name in names {
        let output = desk.check(&["--json", name]);
        let json = json_of(&output);
        assert_eq!(json["diagnostics"][0]["file"], name);
        assert_eq!(json["diagnostics"][0]["level"], "error");
        assert_eq!(output.status.code(), Some(if name.contains(".yml") { 64 } else { 77 }));
    }
}

#[test]
fn nothing_is_written_anywhere() {
    let desk = Desk::with(STANDALONE);
    desk.put("faulty.yml", FIVE_FAULTS);
    desk.set_mode("faulty.yml", 0o644);
    let before = desk.everything();
    for arguments in [&["r.yml"][..], &["--json", "r.yml"], &["--strict", "faulty.yml"], &["missing.yml"]] {
        desk.check(arguments);
    }
    assert_eq!(desk.everything(), before);
}

#[test]
fn a_name_that_is_not_utf_8_is_a_name() {
    let desk = Desk::new();
    let name = OsStr::from_bytes(b"\xff.yml");
    let check = || {
        let program = env!("CARGO_BIN_EXE_start-worker");
        let output =
            Command::new(program).args(["check", "--json"]).arg(name).current_dir(desk.0.path()).output();
        let output = output.unwrap();
        (json_of(&output)["diagnostics"][0]["file"].clone(), output.status.code())
    };
    assert_eq!(check(), (json!("\u{fffd}.yml"), Some(64)));
    std::fs::write(desk.0.path().join(name), STANDALONE).unwrap();
    std::fs::set_permissions(desk.0.path().join(name), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(check(), (json!("\u{fffd}.yml"), Some(0)));
}

#[test]
#[cfg(target_os = "linux")]
fn an_answer_that_cannot_be_printed_is_a_failure() {
    let desk = Desk::with(STANDALONE);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(["check", "r.yml"])
        .current_dir(desk.0.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_snapshot!(end(&output), @"
    stderr:
    error: cannot print what is in effect: No space left on device (os error 28)
    exit 1
    ");
}

#[test]
fn a_configuration_is_needed() {
    let desk = Desk::new();
    assert_eq!(desk.check(&[]).status.code(), Some(2));
    assert_eq!(desk.check(&["--stric", "r.yml"]).status.code(), Some(2));
}

/// A standalone configuration whose certificate is valid from and to so many seconds from now, and the output of
/// `check` for it on stdout.
fn certificate_for(start: i64, expiry: i64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let certificate = format!(
        r#"{{"version":1,"start":{},"expiry":{},"seed":"x"}}"#,
        now + start * 1000,
        now + expiry * 1000
    );
    let desk = Desk::with(&format!(
        "provider:\n  providerType: standalone\n  rootURL: https://tc.example.com\n  clientID: c\n  \
         accessToken: hunter2-access-token\n  certificate: '{certificate}'\n  workerPoolID: pp/ww\n  workerGroup: wg\n  \
         workerID: wi\nworker: {{implementation: dummy}}\n"
    ));
    let output = desk.check(&["r.yml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_certificate_that_has_expired_or_soon_will_or_is_not_valid_yet_is_said_to_be_so() {
    let expired = certificate_for(-7200, -3600);
    assert!(expired.contains(
        "# verdict: valid, but this host cannot start it: provider.certificate: the credentials expired at "
    ));
    // Less than two minutes, less than half an hour.
    for (left, in_words) in [(55, "s; get new ones"), (1500, "m ")] {
        let soon = certificate_for(-86_400, left);
        let said = "# this host can start it, but: provider.certificate: the credentials expire at ";
        let (_, rest) = soon.split_once(said).expect(&soon);
        assert!(rest.contains(in_words) && !soon.contains("expired"), "{rest}");
        assert!(!rest.contains("in 0"), "{rest}");
    }
    let later = certificate_for(3600, 7200);
    let said = "# this host can start it, but: provider.certificate: the credentials are not valid before ";
    assert!(later.contains(said), "{later}");
    for (start, expiry) in [(-60, 86_400), (200, 86_400)] {
        let fine = certificate_for(start, expiry);
        assert!(!fine.contains("# this host"), "{fine}");
    }
}
