//! Capabilities: features of the protocol that both sides must support before their messages may be sent.

use std::fmt;

/// A capability. The order is that of the wire names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Capability {
    /// The worker selects the user whom the display manager logs in at the next boot. An extension: workers that do not
    /// know it ignore it.
    Autologin,
    /// The worker reports errors, which the runner forwards to worker-manager.
    ErrorReport,
    /// The runner asks the worker to terminate.
    GracefulTermination,
    /// The worker sends structured log records.
    Log,
    /// The runner sends new credentials to the worker.
    NewCredentials,
    /// The worker asks for a reboot of its host after its exit. An extension: workers that do not know it ignore it.
    Reboot,
    /// The worker asks for the shutdown of its host.
    Shutdown,
}

impl Capability {
    /// All capabilities, sorted by their wire names.
    pub const ALL: [Self; 7] = [
        Self::Autologin,
        Self::ErrorReport,
        Self::GracefulTermination,
        Self::Log,
        Self::NewCredentials,
        Self::Reboot,
        Self::Shutdown,
    ];

    /// The name in `welcome` and `hello`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Autologin => "autologin",
            Self::ErrorReport => "error-report",
            Self::GracefulTermination => "graceful-termination",
            Self::Log => "log",
            Self::NewCredentials => "new-credentials",
            Self::Reboot => "reboot",
            Self::Shutdown => "shutdown",
        }
    }

    /// The capability with this wire name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Adds a capability.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u8)
    }

    /// Returns true if the set contains the capability.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    /// The intersection of both sets: the capabilities in force.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The wire names, sorted.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Capability::ALL.into_iter().filter(move |capability| self.has(*capability)).map(Capability::name)
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(capabilities: T) -> Self {
        capabilities.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("none");
        }
        for (index, name) in self.names().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_are_sorted_and_read_back() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        let names: Vec<_> = all.names().collect();
        assert!(names.is_sorted());
        let read: Capabilities = names.into_iter().filter_map(Capability::named).collect();
        assert_eq!(read, all);
    }

    #[test]
    fn in_force_is_what_both_sides_have() {
        let ours = Capabilities::NONE.with(Capability::Log).with(Capability::Shutdown);
        let theirs = Capabilities::NONE.with(Capability::Log).with(Capability::NewCredentials);
        assert_eq!(ours.and(theirs), Capabilities::NONE.with(Capability::Log));
    }
}
