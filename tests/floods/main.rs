//! Floods: a worker sends one message, or a mixture, as fast as it is read. Memory stays bounded and is released, the
//! status socket answers, a stop is obeyed during the flood, and no line of the runner's own log is lost.
//!
//! `FLOOD_DURATION` (default `500ms`) sets the length of each flood, `START_WORKER_BINARY` the program. Each flood
//! prints its figures: `cargo test --test floods -- --nocapture --test-threads=1`.
#![cfg(test)]

mod flooded;

use flooded::{Format, flood};

/// The flood ends, and then there is another one in which the runner is stopped.
macro_rules! floods {
    ($($name:ident: $kind:literal, $format:expr;)*) => {
        $(
            #[test]
            fn $name() {
                flood($kind, $format);
            }
        )*

        #[test]
        fn every_kind_of_flood_has_its_test() {
            for (kind, _) in test_support::flood::KINDS {
                assert!([$($kind),*].contains(kind), "{kind}");
                assert!(test_support::flood::block(kind).is_some_and(|block| block.ends_with(b"\n")), "{kind}");
            }
        }
    };
}

floods! {
    hellos_without_end: "hello", Format::Text;
    hellos_of_a_million_capabilities: "hello-huge", Format::Text;
    log_records: "log", Format::Text;
    log_records_of_escapes: "log-escapes", Format::Text;
    log_records_of_escapes_in_json: "log-escapes", Format::Json;
    log_records_of_escaped_control_characters: "log-unicode", Format::Text;
    log_records_of_many_members: "log-members", Format::Text;
    log_records_of_more_members_than_are_looked_at: "log-many-members", Format::Text;
    log_records_nested_without_end: "log-deep", Format::Text;
    log_records_with_a_key_without_end: "log-long-key", Format::Text;
    log_records_that_tell_of_tasks: "metrics", Format::Text;
    error_reports: "report", Format::Text;
    error_reports_that_are_huge: "report-huge", Format::Text;
    error_reports_with_a_huge_extra: "report-extra", Format::Text;
    reboots: "reboot", Format::Text;
    reboots_for_a_reason_without_end: "reboot-huge", Format::Text;
    shutdowns: "shutdown", Format::Text;
    autologins: "autologin", Format::Text;
    autologins_of_a_huge_user: "autologin-huge", Format::Text;
    malformed_messages: "malformed", Format::Text;
    malformed_messages_that_are_huge: "malformed-huge", Format::Text;
    messages_of_an_unknown_type: "unknown", Format::Text;
    messages_of_an_unknown_type_with_a_name_without_end: "unknown-huge", Format::Text;
    messages_with_members_without_end: "unknown-members", Format::Text;
    messages_that_are_too_long: "too-long", Format::Text;
    huge_lines_that_are_almost_messages: "almost", Format::Text;
    lines_of_output: "output", Format::Text;
    huge_lines_of_output: "output-huge", Format::Json;
    ignored_messages_with_a_log_of_everything: "unknown", Format::Debug;
    tasks_with_a_log_of_everything: "metrics", Format::Debug;
    everything_mixed: "mixed", Format::Text;
    everything_mixed_in_json: "mixed", Format::Json;
}
