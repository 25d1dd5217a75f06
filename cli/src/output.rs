//! Printing.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Standard output doesn't take what is printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output can't be written; check that what it leads to isn't full")]
pub(crate) struct OutputError(#[source] io::Error);

impl OutputError {
    /// Whether whoever read it has gone, which is no fault.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints data as JSON, or as the text that it makes.
pub(crate) fn show<T: Serialize>(json: bool, data: &T, text: impl FnOnce(&T) -> String) -> Result<(), OutputError> {
    if json {
        let json = serde_json::to_string_pretty(data).map_err(|error| OutputError(error.into()))?;
        return print(format!("{json}\n").as_bytes());
    }
    print(text(data).as_bytes())
}

/// Prints in one go.
pub(crate) fn print(bytes: &[u8]) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(OutputError)
}
