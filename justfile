# Names for the commands in CONTRIBUTING.md. `just` lists them.

_default:
    @just --list --unsorted

# Format, lints and dependencies, without the tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check bans licenses sources

# All tests.
test *args:
    cargo test {{args}}

# Measure the release binary; the table is in target/bench/summary.md.
bench:
    cargo bench --bench end_to_end

# Measure, and put the table into docs/performance.md.
bench-docs: bench
    sed -i -e '/^<!-- figures/,/^<!-- end of figures/{//!d}' -e '/^<!-- figures/r target/bench/summary.md' docs/performance.md

# A worker to play with. Ctrl-C ends it.
demo:
    cargo run --release -- config-examples/demo.yml

# The Debian package, in target/debian.
deb:
    packaging/deb

# All that must pass before a merge.
ci:
    .ci/run
