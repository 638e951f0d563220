//! A fleet on one machine: many release runners against one fake Taskcluster. `cargo bench --bench fleet`.
//!
//! All start at the same second, register, and look for new deployments; then the fake fails for a minute. What it
//! prints is docs/scale.md's table, and `target/bench/fleet.svg` its plot. `FLEET=100` makes a smaller fleet.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement on a terminal"
)]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times};

const POOL: &str = "fleet/linux";
/// `deployment.interval`, a fifth of the default, so that the measurement has five times as many.
const INTERVAL: Duration = Duration::from_secs(60);
/// The phases of the fake: it answers, fails, and answers again.
const CALM: Duration = Duration::from_secs(140);
const FAILURE: Duration = Duration::from_secs(60);
const AFTER: Duration = Duration::from_secs(90);

fn main() {
    let count: usize = std::env::var("FLEET").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeTaskcluster::start();
    fake.set_pool(
        POOL,
        json!({
            "providerId": "static",
            "config": {"workerConfig": {"command": {"config": {"deploymentId": "d1"}}}},
        }),
    );
    fake.grant("worker-pool:fleet/linux", &["worker-manager:get-worker-pool:fleet/linux"]);
    fake.set_secret("worker-pool:fleet/linux", json!({"config": {"from": "the secret"}}));
    let configs: Vec<_> = (0..count).map(|number| configure(&fake, folder.path(), number)).collect();
    let began = Instant::now();
    let fleet = Fleet(configs.iter().map(|config| start(config, folder.path())).collect());
    let spawned = began.elapsed();
    while fake.count("registerWorker") < count || fleet.workers() < count {
        assert!(began.elapsed() < Duration::from_secs(300), "not all have started");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("| all processes executed after | {:.1} s |", spawned.as_secs_f64());
    println!("| all registered, and their workers started after | {:.1} s |", began.elapsed().as_secs_f64());
    until(began, Duration::from_secs(60));
    println!("| memory of all runners, together (PSS) | {} MiB |", fleet.pss() / 1024);
    let (cpu, polls, since) = (fleet.cpu(), fake.count("workerPool"), Instant::now());
    until(began, CALM);
    let (cpu, polls) = (fleet.cpu() - cpu, fake.count("workerPool") - polls);
    let share = cpu / since.elapsed().as_secs_f64() * 100.0;
    println!(
        "| CPU of all runners, at one poll a minute each | {share:.1} % of a core, {:.2} ms a poll |",
        cpu * 1000.0 / polls as f64
    );
    fake.fail("any", Times::UntilCleared, Fault::bad_gateway());
    until(began, CALM + FAILURE);
    fake.clear_faults();
    until(began, CALM + FAILURE + AFTER);
    report(&fake, began, count);
}

fn until(began: Instant, moment: Duration) {
    std::thread::sleep(moment.saturating_sub(began.elapsed()));
}

fn configure(fake: &FakeTaskcluster, folder: &Path, number: usize) -> std::path::PathBuf {
    let id = format!("w{number}");
    let secret = format!("{number:0>44}");
    fake.add_static_worker(POOL, "here", &id, &secret);
    let config = json!({
        "provider": {
            "providerType": "static", "rootURL": fake.url(), "providerID": "static", "workerPoolID": POOL,
            "workerGroup": "here", "workerID": id, "staticSecret": secret,
        },
        "worker": {"implementation": "command", "path": "sleep", "args": ["100000"], "helloTimeout": "1s"},
        "cacheOverRestarts": folder.join(format!("{id}.json")),
        "deployment": {"interval": format!("{}s", INTERVAL.as_secs())},
        "host": {
                "shutdownCommand": ["true"], "rebootCommand": ["true"],
                "forceShutdownCommand": ["true"], "forceRebootCommand": ["true"],
            },
        "status": {"socket": null},
    });
    let path = folder.join(format!("{id}.yml"));
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn start(config: &Path, folder: &Path) -> Child {
    let log = std::fs::File::create(config.with_extension("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .arg(config)
        .env("RUNTIME_DIRECTORY", folder)
        .env_remove("STATE_DIRECTORY")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// All runners. Dropping it ends them, and with them their workers.
struct Fleet(Vec<Child>);

impl Fleet {
    fn workers(&self) -> usize {
        let children = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        self.0.iter().filter(|runner| children(runner.id()).is_ok_and(|pids| !pids.is_empty())).count()
    }

    /// KiB.
    fn pss(&self) -> u64 {
        let pss = |pid: u32| {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
        };
        self.0.iter().filter_map(|runner| pss(runner.id())).sum()
    }

    /// Seconds, so far.
    fn cpu(&self) -> f64 {
        let ticks = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
        };
        self.0.iter().filter_map(|runner| ticks(runner.id())).sum::<f64>() / 100.0
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for runner in &mut self.0 {
            runner.kill().ok();
        }
        for runner in &mut self.0 {
            runner.wait().ok();
        }
    }
}

/// Requests per second, by phase, and the polls of each ten seconds.
fn report(fake: &FakeTaskcluster, began: Instant, count: usize) {
    let end = (CALM + FAILURE + AFTER).as_secs();
    let mut seconds = vec![0_u32; usize::try_from(end).unwrap() + 1];
    let mut polls = vec![0_u32; seconds.len() / 10 + 1];
    for request in fake.requests() {
        let second = usize::try_from(request.at.saturating_duration_since(began).as_secs()).unwrap();
        let Some(slot) = seconds.get_mut(second) else { continue };
        *slot += 1;
        if request.call == "workerPool" {
            polls[second / 10] += 1;
        }
    }
    println!("\n| phase | requests a second: mean | the busiest second |\n| --- | --- | --- |");
    let at = |duration: Duration| usize::try_from(duration.as_secs()).unwrap();
    let phases = [
        ("start", 0, at(INTERVAL) + 12),
        ("before the failure", at(INTERVAL) + 12, at(CALM)),
        ("while it fails", at(CALM), at(CALM + FAILURE)),
        ("after it", at(CALM + FAILURE), at(CALM + FAILURE + AFTER)),
    ];
    for (name, from, to) in phases {
        let phase = &seconds[from..to];
        let mean = f64::from(phase.iter().sum::<u32>()) / phase.len() as f64;
        println!("| {name} | {mean:.1} | {} |", phase.iter().max().unwrap());
    }
    let calm = &polls[(at(INTERVAL) + 12) / 10 + 1..at(CALM) / 10];
    let mean = f64::from(calm.iter().sum::<u32>()) / calm.len() as f64;
    let most = f64::from(*calm.iter().max().unwrap());
    println!(
        "\nPolls in ten seconds, {count} runners: mean {mean:.0}, at most {most:.0} ({:.2} of the mean).",
        most / mean
    );
    println!("{polls:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/fleet.svg");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, plot(&polls)).unwrap();
}

/// Bars, one for each ten seconds.
fn plot(polls: &[u32]) -> String {
    let most = polls.iter().copied().max().unwrap_or(1).max(1);
    let width = polls.len() * 14 + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"240\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <text x=\"10\" y=\"16\">deployment polls in ten seconds; the fake fails in the grey part</text>\n"
    );
    let x = |second: u64| 40 + second / 10 * 14;
    let (from, to) = (x(CALM.as_secs()), x((CALM + FAILURE).as_secs()));
    let _ =
        writeln!(svg, "<rect x=\"{from}\" y=\"30\" width=\"{}\" height=\"180\" fill=\"#ddd\"/>", to - from);
    for (slot, count) in polls.iter().enumerate() {
        let height = u64::from(*count) * 180 / u64::from(most);
        let (left, top) = (40 + slot * 14, 210 - height);
        let _ =
            writeln!(svg, "<rect x=\"{left}\" y=\"{top}\" width=\"12\" height=\"{height}\" fill=\"#357\"/>");
    }
    for minute in 0..=(polls.len() as u64 / 6) {
        let _ = writeln!(svg, "<text x=\"{}\" y=\"226\">{minute} min</text>", x(minute * 60));
    }
    let _ = writeln!(svg, "<text x=\"10\" y=\"40\">{most}</text>\n</svg>");
    svg
}
