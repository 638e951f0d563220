//! The table: measured values beside their references and targets.

use std::fmt::Write;

/// One row.
pub(crate) struct Row {
    /// The measured quantity.
    pub(crate) what: &'static str,
    /// The figure of the Go program (v106), measured once on a machine with 2 shared cores.
    pub(crate) go: &'static str,
    /// Today's figure.
    pub(crate) today: String,
    /// The reference that was measured alongside; empty for none.
    pub(crate) reference: String,
    /// The targets.
    pub(crate) targets: Vec<Target>,
}

/// A target, and whether it is met.
pub(crate) struct Target {
    words: &'static str,
    met: bool,
}

impl Target {
    /// `words` go into the table.
    pub(crate) fn at_most(value: f64, limit: f64, words: &'static str) -> Self {
        Self { words, met: value <= limit }
    }

    /// `words` go into the table.
    pub(crate) fn at_least(value: f64, limit: f64, words: &'static str) -> Self {
        Self { words, met: value >= limit }
    }
}

/// All rows as Markdown.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | Go program | today | reference in the same run | target | met |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for Row { what, go, today, reference, targets } in rows {
        let reference = if reference.is_empty() { "–" } else { reference };
        let all: Vec<&str> = targets.iter().map(|target| target.words).collect();
        let missed: Vec<&str> =
            targets.iter().filter(|target| !target.met).map(|target| target.words).collect();
        let met = if missed.is_empty() { "yes".to_owned() } else { format!("**no**: {}", missed.join(", ")) };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {what} | {go} | {today} | {reference} | {} | {met} |", all.join(", "));
    }
    text
}

/// A whole number with commas between thousands.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
