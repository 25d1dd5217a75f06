//! What is known to differ from other runtimes, and why.

use super::specs::Entry;

/// Something that differs.
pub(super) struct Difference {
    /// The other runtime.
    pub(super) runtime: &'static str,
    /// `GROUP/NAME` of the spec, or the beginning of it.
    pub(super) spec: &'static str,
    /// A section of the report and a part of its line; without, whether the spec runs at all.
    pub(super) line: Option<(&'static str, &'static str)>,
    pub(super) reason: &'static str,
}

impl Difference {
    /// Whether it is about this runtime and spec; a combination of specs has the differences of each.
    pub(super) fn concerns(&self, runtime: &str, entry: &Entry) -> bool {
        debug_assert!(!self.reason.is_empty());
        self.runtime == runtime && entry.parts.iter().any(|name| name.starts_with(self.spec))
    }
}

/// All of them.
pub(super) const DIFFERENCES: &[Difference] = &[];
