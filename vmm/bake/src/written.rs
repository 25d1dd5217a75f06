//! Pages that a guest writes to every time it is restored.
//!
//! Each of them would leave the guest three times: to be read as the file has it, to be written to, which takes it out
//! again while it is copied, and to find the copy. A VMM that knows them copies them before the guest runs.

use serde::{Deserialize, Serialize};

use crate::extents::is_ram;

/// Most runs of one bake: with the extents, all must fit one control message.
pub const MAX_RUNS: usize = 2048;

/// Consecutive guest pages, as read from outside: nothing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First guest page number (guest physical address / 4096).
    pub guest_page: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Runs that fit a machine: in rising order, apart from each other, inside guest memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(Vec<Run>);

/// Runs that fit no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrittenError {
    /// More than [`MAX_RUNS`].
    #[error("{count} runs of written pages, at most {MAX_RUNS} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One is empty, or not behind the one before it, or not inside guest memory.
    #[error("run {index} of written pages is empty, out of order or outside of guest memory")]
    BadRun {
        /// Its position.
        index: usize,
    },
}

impl Written {
    /// Checks runs against the guest's memory size in bytes.
    pub fn check(runs: Vec<Run>, memory_bytes: u64) -> Result<Self, WrittenError> {
        if runs.len() > MAX_RUNS {
            return Err(WrittenError::TooMany { count: runs.len() });
        }
        let mut end = 0;
        for (index, run) in runs.iter().enumerate() {
            let run_end = run.guest_page.checked_add(run.pages).filter(|_| run.pages > 0 && run.guest_page >= end);
            let is_inside = |run_end: &u64| is_ram(run.guest_page, *run_end, memory_bytes);
            end = run_end.filter(is_inside).ok_or(WrittenError::BadRun { index })?;
        }
        Ok(Self(runs))
    }

    /// The runs.
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: u64 = 64 << 20;

    fn check(runs: &[(u64, u64)]) -> Result<Written, WrittenError> {
        let runs = runs.iter().map(|&(guest_page, pages)| Run { guest_page, pages });
        Written::check(runs.collect(), MEMORY)
    }

    #[test]
    fn runs_in_order_and_inside_memory_pass_and_others_do_not() {
        let end = MEMORY / 4096;
        assert_eq!(check(&[(0, 1), (1, 2), (end - 1, 1)]).unwrap().as_slice().len(), 3);
        for bad in [&[(0, 1), (4, 0)], &[(0, 1), (0, 1)], &[(0, 1), (end, 1)], &[(0, 1), (u64::MAX, 2)]] {
            assert_eq!(check(bad), Err(WrittenError::BadRun { index: 1 }), "{bad:?}");
        }
        let many: Vec<_> = (0..=MAX_RUNS as u64).map(|page| (page, 1)).collect();
        assert_eq!(check(&many), Err(WrittenError::TooMany { count: MAX_RUNS + 1 }));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_passes_or_fails_without_a_panic(
            raw in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20), memory: u64,
        ) {
            let runs = raw.into_iter().map(|(guest_page, pages)| Run { guest_page, pages }).collect();
            let _outcome = Written::check(runs, memory);
        }
    }
}
