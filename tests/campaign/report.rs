//! The report of a campaign.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::life::Lived;
use crate::plan::Episode;

/// Number of lines shown from the end of the log.
const LAST_LINES: usize = 40;

#[derive(Default)]
pub(crate) struct Report {
    seed: u64,
    episodes: usize,
    broken: usize,
    boots: usize,
    workers: usize,
    time: Duration,
    actions: BTreeMap<String, usize>,
    most: (u64, usize, u64),
    skipped: BTreeMap<String, usize>,
    answers: usize,
    given_up: usize,
    full: usize,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(crate) fn broken(&self) -> bool {
        self.broken > 0
    }

    /// Counts an episode; whether something was broken in it.
    pub(crate) fn add(&mut self, episode: &Episode, lived: &Lived) -> bool {
        self.episodes += 1;
        self.boots += lived.boots;
        self.workers += lived.watch.workers.len();
        self.time += lived.time;
        let (most, now) = (&mut self.most, lived.watch.most);
        *most = (most.0.max(now.0), most.1.max(now.1), most.2.max(now.2));
        for timed in &episode.actions {
            let value = serde_json::to_value(timed).unwrap_or_default();
            let name = match value["fault"].as_str() {
                Some(fault) => format!("{}: {fault}", text(&value, "do")),
                None => text(&value, "do"),
            };
            *self.actions.entry(name).or_default() += 1;
        }
        for reason in &lived.skipped {
            *self.skipped.entry(reason.clone()).or_default() += 1;
        }
        self.answers += lived.watch.answers();
        self.given_up += lived.watch.given_up;
        self.full += usize::from(lived.was_full);
        let broken = !lived.watch.breaks.is_empty();
        self.broken += usize::from(broken);
        broken
    }

    /// Tells of one in which something was broken.
    pub(crate) fn tell(&self, episode: &Episode, lived: &Lived, folder: &std::path::Path) {
        println!("==== seed {} episode {}", self.seed, episode.number);
        for broken in &lived.watch.breaks {
            println!("BROKEN {broken}");
        }
        println!("{}\nits log ends with", printed(episode));
        let text = String::from_utf8_lossy(&lived.log);
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
            println!("    {}", line.chars().take(300).collect::<String>());
        }
        println!(
            "its folder: {}\nagain: --seed {} --episode {}\n",
            folder.display(),
            self.seed,
            episode.number
        );
    }

    pub(crate) fn end(&mut self, wall: Duration) {
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        println!(
            "seed {}: {} episodes, {} broken; {} starts of the runner, {} workers; {:.1} min of episodes in {:.1} min",
            self.seed,
            self.episodes,
            self.broken,
            self.boots,
            self.workers,
            minutes(self.time),
            minutes(wall)
        );
        let (memory, files, threads) = self.most;
        println!("the most that a runner had: {memory} KiB, {files} files, {threads} threads");
        let actions: Vec<String> =
            self.actions.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("faults: {}", actions.join(", "));
        println!(
            "{} answers to questions for the status, {} workers given up in state D, {} episodes with all processes used up",
            self.answers, self.given_up, self.full
        );
        for (reason, count) in &self.skipped {
            println!("skipped {count} times: {reason}");
        }
    }
}

/// An episode, as `--file` takes it.
pub(crate) fn printed(episode: &Episode) -> String {
    serde_json::to_string(episode).unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
