//! Writes the files of the worker configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::{PrepareError, Preparer};
use crate::host::atomic;
use crate::run_spec::files::{self, ShippedFile};

/// Time limits: of the disk of a file, and of writing all files.
const LOOK: Duration = Duration::from_secs(30);
const WRITE_FILES: Duration = Duration::from_secs(10 * 60);

impl Preparer {
    /// Removes the temporary files that an earlier start left beside these files when it was killed.
    pub(super) async fn sweep_beside(&self, all: &[ShippedFile]) -> Result<(), PrepareError> {
        for directory in files::directories(all) {
            self.lanes.files.at(&directory.clone(), LOOK, move || atomic::sweep(&directory)).await?;
        }
        Ok(())
    }

    pub(super) async fn write_files(&self, all: Vec<ShippedFile>) -> Result<(), PrepareError> {
        for file in &all {
            // Checked separately, so that an error names the file.
            let path = PathBuf::from(&file.entry.path);
            self.lanes.files.at(&path.clone(), LOOK, move || drop(path.symlink_metadata())).await?;
        }
        let what = "the disk of the files that came with the worker configuration";
        Ok(self.lanes.files.ask(what, WRITE_FILES, move || files::write_all(&all)).await??)
    }
}
