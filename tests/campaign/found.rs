//! Regression tests from campaigns, each with the reduced plan that showed the fault.

use serde_json::json;

use crate::planted::{SOON_DONE, run_with};

/// Seed 100, episode 2: the mark of the removal cannot be written, and the unit is started again.
#[test]
fn a_removal_on_a_full_disk_is_not_forgotten() {
    let full = json!([{"at": 500, "do": "disk-full", "for": 4000}]);
    let (code, report) = run_with("google", &SOON_DONE, 5, &full, &[]);
    assert_eq!(code, Some(0), "{report}");
}
