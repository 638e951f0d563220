# Names for the commands in CONTRIBUTING.md. `just` lists them.

_default:
    @just --list --unsorted

# Check format, lints and dependencies, without the tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check bans licenses sources

# Run all tests.
test *args:
    cargo test {{args}}

# Measure the release binary, and write the table to target/bench/summary.md.
bench:
    cargo bench --bench end_to_end

# Measure, and write the table into docs/performance.md.
bench-docs: bench
    sed -i -e '/^<!-- figures/,/^<!-- end of figures/{//!d}' -e '/^<!-- figures/r target/bench/summary.md' docs/performance.md

# Run the demo. Ctrl-C stops it.
demo:
    cargo run --release -- config-examples/demo.yml

# Build the Debian package in target/debian.
deb:
    packaging/deb

# Run everything that must pass before a merge.
ci:
    .ci/run
