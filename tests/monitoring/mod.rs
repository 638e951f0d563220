//! The operator's view: the status in every state, metrics as a real Prometheus scrapes them, health, and the report of
//! `check --online` before a start.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

mod alerts;
mod export;
mod files;
mod online;
mod prometheus;
mod states;
mod terminal;
