//! A metadata service to play with: `cargo run --example fake-metadata -- ec2 --listen 127.0.0.1:8086`.
//!
//! It shows an instance of that cloud (`ec2`, `azure`, `gce`), takes the commands of [`fake_metadata`] from its standard
//! input, a line each, and ends with it. Its first line on standard output is its origin.

use std::io::{BufRead, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use test_support::fake_metadata::{Cloud, FakeMetadata};

const USAGE: &str = "usage: fake-metadata ec2|azure|gce [--listen ADDRESS:PORT]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // A failure cannot be reported without a stderr.
            let _ = writeln!(stderr(), "fake-metadata: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (cloud, listen) = match arguments.as_slice() {
        [cloud] => (*cloud, "127.0.0.1:0"),
        [cloud, "--listen", listen] => (*cloud, *listen),
        _ => return Err(USAGE.to_owned()),
    };
    let cloud = match cloud {
        "ec2" => Cloud::Ec2,
        "azure" => Cloud::Azure,
        "gce" => Cloud::Gce,
        _ => return Err(USAGE.to_owned()),
    };
    let listen = listen.parse().map_err(|cause| format!("{listen}: {cause}"))?;
    let fake =
        FakeMetadata::start(cloud, listen).map_err(|cause| format!("cannot listen on {listen}: {cause}"))?;
    let say = |text: &str| writeln!(stdout(), "{text}").map_err(|cause| cause.to_string());
    say(&fake.origin())?;
    let mut seen = 0;
    for line in stdin().lock().lines() {
        let line = line.map_err(|cause| cause.to_string())?;
        match fake.tell(line.trim()) {
            Ok(answer) if answer.is_empty() => say("ok")?,
            Ok(answer) => say(&answer)?,
            Err(why) => say(&format!("error: {why}"))?,
        }
        seen = fake.requests().len().max(seen);
    }
    say(&format!("{seen} requests"))
}
