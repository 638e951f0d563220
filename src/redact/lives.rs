//! The lifetime of known secrets, which is that of their owners.

use std::collections::VecDeque;

/// The owners of a secret, one bit for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Lives(pub(super) u16);

impl Lives {
    pub(super) const PROCESS: Self = Self(1);
    /// The number of remembered starts.
    pub(super) const STARTS: u16 = 4;
    /// The number of remembered renewals.
    pub(super) const RENEWALS: u32 = 8;

    pub(super) fn of_start(slot: u16) -> Self {
        Self(1 << (1 + slot))
    }

    pub(super) fn of_renewal(number: u32) -> Self {
        Self(1 << (8 + number % Self::RENEWALS))
    }
}

/// The last starts. The newest successful one is always among them, because its worker continues to run while others
/// fail.
#[derive(Default)]
pub(super) struct Starts {
    /// Slots, oldest first, and whether each start succeeded.
    last: VecDeque<(u16, bool)>,
}

impl Starts {
    /// Makes room for another start. Returns the slot that was freed for it.
    pub(super) fn begin(&mut self) -> u16 {
        let used = |slot: &u16| self.last.iter().any(|(other, _)| other == slot);
        let slot = (0..Lives::STARTS).find(|slot| !used(slot)).unwrap_or_else(|| {
            let newest = self.last.iter().rposition(|(_, succeeded)| *succeeded);
            let oldest = (0..self.last.len()).find(|at| Some(*at) != newest).unwrap_or_default();
            self.last.remove(oldest).map(|(slot, _)| slot).unwrap_or_default()
        });
        self.last.push_back((slot, false));
        slot
    }

    /// Marks the last start as successful.
    pub(super) fn succeeded(&mut self) {
        if let Some((_, succeeded)) = self.last.back_mut() {
            *succeeded = true;
        }
    }

    pub(super) fn now(&self) -> Lives {
        self.last.back().map_or(Lives::PROCESS, |(slot, _)| Lives::of_start(*slot))
    }
}
