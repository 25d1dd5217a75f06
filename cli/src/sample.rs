//! A container that is started to learn what bake it would like, and removed.
//!
//! Which bake a container has depends on everything that its client writes into its specification. So the client writes it.

use std::cell::Cell;
use std::io::ErrorKind;

use supermachine::{RecordError, StartRecord};

use crate::host::Host;
use crate::nerdctl::{Nerdctl, NerdctlError};

/// Its bake is not made on the way: whoever starts it does that, and tells how.
const BY_HAND: [&str; 2] = ["--annotation", "io.supermachine.bake.automatic=false"];

/// Nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    #[error(transparent)]
    Nerdctl(#[from] NerdctlError),
    #[error(
        "the container has ended before it was asked what bake it would like; run it with `nerdctl run` to see why"
    )]
    Ended,
    #[error(transparent)]
    Record(RecordError),
    /// It can't be restored as it runs.
    #[error("there is no such bake for this container: {why}")]
    NeverWarm {
        /// What its start said.
        why: String,
    },
}

/// The container, which is there or not.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    nerdctl: Nerdctl<'a>,
    name: String,
    is_there: Cell<bool>,
}

impl<'a> Sample<'a> {
    pub(crate) fn new(nerdctl: Nerdctl<'a>) -> Self {
        Self { nerdctl, name: format!("supermachine-bake-{}", std::process::id()), is_there: Cell::new(false) }
    }

    /// Starts it, with these arguments of `nerdctl run`. Answers how it was started.
    pub(crate) async fn start(&self, host: &Host, arguments: &[String]) -> Result<StartRecord, SampleError> {
        let arguments: Vec<_> = BY_HAND.map(str::to_owned).into_iter().chain(arguments.iter().cloned()).collect();
        // Also if it doesn't get as far as running.
        self.is_there.set(true);
        let id = self.nerdctl.run(&self.name, &arguments).await?;
        StartRecord::read(&host.config.paths.sandbox(self.nerdctl.namespace, &id)).map_err(|error| match error {
            RecordError::Read { source, .. } if source.kind() == ErrorKind::NotFound => SampleError::Ended,
            other => SampleError::Record(other),
        })
    }

    /// Removes it, if it is there.
    pub(crate) async fn remove(&self) -> Result<(), NerdctlError> {
        if self.is_there.replace(false) { self.nerdctl.remove(&self.name).await } else { Ok(()) }
    }
}
