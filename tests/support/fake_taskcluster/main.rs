//! `cargo run --example fake-taskcluster`: a Taskcluster to try start-worker with, without an account.
//!
//! It has one pool with one static worker, the one that `config-examples/static-demo.yml` is for.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use serde_json::json;

use test_support::fake_taskcluster::control::HELP;
use test_support::fake_taskcluster::{FakeTaskcluster, Request};

const POOL: &str = "demo/linux";
const GROUP: &str = "here";
const WORKER: &str = "demo-worker";
const STATIC_SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";

/// A Taskcluster to try start-worker with: it keeps its state in memory, and verifies what it is sent.
#[derive(Parser)]
#[command(after_help = HELP)]
struct Arguments {
    /// Where to listen, on loopback
    #[arg(long, default_value_t = 8085)]
    port: u16,
    /// How long credentials last (90s, 10m, 96h)
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    credentials_life: Duration,
    /// Answer workers that ask for their pool's definition with 403, as a deployment without such a role does
    #[arg(long)]
    no_pool_scope: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), arguments.port);
    let taskcluster = match FakeTaskcluster::start_on(address) {
        Ok(taskcluster) => taskcluster,
        Err(error) => {
            writeln!(std::io::stderr(), "error: cannot listen at {address}: {error}; try another --port")
                .ok();
            return ExitCode::FAILURE;
        }
    };
    fill(&taskcluster, &arguments);
    // Before anybody can know that it is there: no request goes untold.
    taskcluster.observe(|request| say(&line(request)));
    let url = taskcluster.url();
    say(&format!(
        "a fake Taskcluster is at {url} until Ctrl-C\n\n  workerPoolID  {POOL}\n  workerGroup   {GROUP}\n  \
         workerID      {WORKER}\n  providerID    static\n  staticSecret  {STATIC_SECRET}\n\nin another terminal:\n\n  \
         cargo run -- config-examples/static-demo.yml\n\na new deployment:\n\n  \
         curl -d '{{\"deploymentId\": \"d2\"}}' {url}/fake/deployment/{POOL}\n\nmore: --help\n"
    ));
    loop {
        std::thread::park();
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}

/// A request in one line.
fn line(request: &Request) -> String {
    let status = request.status.map_or_else(|| "reset".to_owned(), |status| status.to_string());
    let signed = if request.signed { " (signed)" } else { "" };
    let refusal = request.refusal.as_ref().map(|refusal| format!(": {refusal}")).unwrap_or_default();
    let Request { call, method, path, .. } = request;
    format!("{status} {call}{signed} {method} {path}{refusal}")
}

/// A pool whose worker configuration is merged from two places, with a file from each.
fn fill(taskcluster: &FakeTaskcluster, arguments: &Arguments) {
    let file = |path: &str, description: &str, text: &str| {
        json!({
            "path": path, "description": description, "content": STANDARD.encode(text),
            "encoding": "base64", "format": "file",
        })
    };
    let greeting = file(
        "target/static-demo/from-the-pool.txt",
        "comes with the registration",
        "This file is in the pool's definition.\n",
    );
    let key = file(
        "target/static-demo/from-the-secret.txt",
        "comes with the pool's secret, so it is readable by its owner alone",
        "This file is in the secret worker-pool:demo/linux.\n",
    );
    let config = json!({
        "deploymentId": "d1", "idleTimeoutSecs": 600, "greeting": "from the pool", "list": ["pool"],
        "nested": {"pool": true},
    });
    taskcluster.set_pool(
        POOL,
        json!({
            "description": "to try start-worker with",
            "config": {"workerConfig": {"command": {"config": config, "files": [greeting]}}},
        }),
    );
    taskcluster.add_static_worker(POOL, GROUP, WORKER, STATIC_SECRET);
    taskcluster.set_secret(
        &format!("worker-pool:{POOL}"),
        json!({
            "config": {
                "greeting": "from the secret", "list": ["secret"], "nested": {"secret": true},
                "apiToken": "a-secret-value",
            },
            "files": [key],
        }),
    );
    if !arguments.no_pool_scope {
        let scope = format!("worker-manager:get-worker-pool:{POOL}");
        taskcluster.grant(&format!("worker-pool:{POOL}"), &[&scope]);
    }
    taskcluster.set_credentials_life(arguments.credentials_life);
    taskcluster.serve_control();
}
