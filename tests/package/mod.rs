//! The Debian package: its contents, and its life on a machine, from the installation to the purge.
//!
//! [`build`] makes it with cargo-deb from the program that cargo has built for this test, without another build.
//! [`machine`] is the host's own disk under an overlay in memory, in which the real dpkg works without changing the
//! host. Missing prerequisites are reported, and the tests are skipped; with `CI` that is a failure.

pub(crate) mod build;
mod contents;
mod life;
mod machine;
mod manual;

/// The package of the program that cargo has built for this test.
fn built() -> Option<&'static build::Built> {
    build::built(std::path::Path::new(env!("CARGO_BIN_EXE_start-worker")))
}
