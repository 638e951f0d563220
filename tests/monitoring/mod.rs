//! What an operator sees from outside: the status in every state, metrics as a real Prometheus scrapes them, health, and
//! what `check --online` tells before anything is started.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

mod export;
mod files;
mod online;
mod prometheus;
mod states;
mod terminal;
