//! Event identifiers: stable names of log messages, for alerts and dashboards that must survive a change of wording.
//!
//! An identifier is the `name:` of a `tracing` event. JSON records have it as `event`, journal entries as
//! `START_WORKER_EVENT`. docs/events.md lists all of them.

use tracing::Metadata;

/// Returns the identifier of an event; `None` for a message that has none.
pub fn id_of(metadata: &Metadata<'static>) -> Option<&'static str> {
    // An event without a name is called after its place in the source.
    let name = metadata.name();
    (!name.starts_with("event ")).then_some(name)
}

/// The journal's `MESSAGE_ID` (systemd's catalog, sd-id128(3)) of the events that operators look for first.
pub const MESSAGE_IDS: &[(&str, &str)] = &[
    ("runner-started", "fbf89da200114dacb0438fd8c583b196"),
    ("runner-ended", "e9ed916078934f28abe096c39df6b9fd"),
    ("worker-started", "995677363c4b4b0a82dc3778b21a9a00"),
    ("worker-exited", "0f1d013c75a94c3bb849c72f1c9214f3"),
    ("worker-gave-up", "bfefa9c4a0d74ad8a044bc559f1e83fe"),
    ("registered", "e1f2472512c24a4e914628fbc09bee35"),
    ("credentials-renewed", "d0212b5654a9428b9ec4628492f92aca"),
    ("credentials-renewal-failed", "44e63a6bb9eb4561b153cd95b494d9ff"),
    ("interruption-notice", "c05a32e022e541ffb628ae168cf1ffad"),
    ("deregistered", "11c88b792eb74f16a2d682e1cee66dd3"),
];

/// Returns the `MESSAGE_ID` of an event, if it has one.
pub fn message_id(id: &str) -> Option<&'static str> {
    MESSAGE_IDS.iter().find(|(known, _)| *known == id).map(|(_, message_id)| *message_id)
}
