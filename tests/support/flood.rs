//! Floods: one message or line, repeated as fast as the runner accepts it. The test worker uses them; the tests use
//! their names.

/// A kind: its name, and a function that creates its line without the newline.
type Kind = (&'static str, fn() -> String);

/// All kinds.
pub const KINDS: &[Kind] = &[
    ("hello", || r#"~{"type":"hello","capabilities":["log","graceful-termination"]}"#.to_owned()),
    ("hello-huge", || {
        format!(r#"~{{"type":"hello","capabilities":[{}"log"]}}"#, r#""x","#.repeat(1_000_000))
    }),
    ("log", || log(&"x".repeat(60))),
    ("log-escapes", || log(&r"\n".repeat(2_000_000))),
    ("log-unicode", || log(&r"\u001b".repeat(650_000))),
    ("log-members", || {
        format!(
            r#"~{{"type":"log","body":{{{}"z":1}}}}"#,
            (0..9_000).fold(String::new(), |all, key| all + &format!(r#""{key}":"\n","#))
        )
    }),
    ("log-many-members", || format!(r#"~{{"type":"log","body":{{{}"z":1}}}}"#, r#""":1,"#.repeat(700_000))),
    ("log-deep", || {
        format!(r#"~{{"type":"log","body":{{"a":{}{}}}}}"#, "[".repeat(1_900_000), "]".repeat(1_900_000))
    }),
    ("log-long-key", || format!(r#"~{{"type":"log","body":{{"{}":1}}}}"#, r"\u00e4".repeat(600_000))),
    ("metrics", || log(r#"WORKER_METRICS {\"eventType\":\"taskStart\"}"#)),
    ("report", || report("t", "d", "{}")),
    ("report-huge", || report(&r"\n".repeat(500_000), &r"\u00e4".repeat(400_000), r#"{"a":[[],{}]}"#)),
    ("report-extra", || report("t", "d", &format!(r#"{{"a":[{}1]}}"#, r#"{"":0},"#.repeat(500_000)))),
    ("reboot", || r#"~{"type":"reboot","reason":"again"}"#.to_owned()),
    ("reboot-huge", || format!(r#"~{{"type":"reboot","reason":"{}"}}"#, r"\t".repeat(1_900_000))),
    ("shutdown", || r#"~{"type":"shutdown"}"#.to_owned()),
    ("autologin", || r#"~{"type":"autologin","user":"somebody"}"#.to_owned()),
    ("autologin-huge", || format!(r#"~{{"type":"autologin","user":"{}"}}"#, "a".repeat(3_900_000))),
    ("malformed", || r#"~{"type":"log","body":7}"#.to_owned()),
    ("malformed-huge", || format!(r#"~{{"type":"log","body":"{}"}}"#, r"\n".repeat(1_900_000))),
    ("unknown", || r#"~{"type":"teleport","to":"mars"}"#.to_owned()),
    ("unknown-huge", || format!(r#"~{{"type":"{}"}}"#, r"\u0061".repeat(650_000))),
    ("unknown-members", || {
        format!(r#"~{{"type":"hello","capabilities":[],{}"z":0}}"#, r#""a":[{}],"#.repeat(400_000))
    }),
    ("too-long", || format!("~{{{}", "x".repeat(5 << 20))),
    ("almost", || format!(r#"~{{"type":"hello","x":"{}"}}}}"#, "x".repeat(3_900_000))),
    ("output", || "x".to_owned()),
    ("output-huge", || "\u{1b}".repeat(3 << 20)),
];

fn log(text: &str) -> String {
    format!(r#"~{{"type":"log","body":{{"textPayload":"{text}"}}}}"#)
}

fn report(title: &str, description: &str, extra: &str) -> String {
    format!(
        r#"~{{"type":"error-report","kind":"k","title":"{title}","description":"{description}","extra":{extra}}}"#
    )
}

/// Bytes to write repeatedly. `mixed`: some lines of every kind, in turn.
pub fn block(kind: &str) -> Option<Vec<u8>> {
    /// Small lines are written in blocks of about this size.
    const BLOCK: usize = 64 * 1024;
    if kind == "mixed" {
        let small = KINDS.iter().map(|(_, line)| line()).filter(|line| line.len() < 1000);
        let small: String = small.map(|line| line + "\n").collect::<String>().repeat(30);
        let lines = KINDS.iter().map(|(_, line)| line()).filter(|line| line.len() >= 1000);
        return Some(
            lines.flat_map(|line| [line, "\n".to_owned(), small.clone()]).collect::<String>().into_bytes(),
        );
    }
    let (_, line) = KINDS.iter().find(|(name, _)| *name == kind)?;
    let line = line() + "\n";
    Some(line.repeat((BLOCK / line.len()).max(1)).into_bytes())
}
