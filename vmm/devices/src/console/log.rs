//! The file behind the console.

use std::fs::File;
use std::io::{self, Write};

/// Most bytes that one guest may have written: the file is on the host's disk.
const LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// A line that is longer is written in parts.
const LINE_BYTES: usize = 256;
/// What the file ends with when the guest reached the limit.
const FULL: &[u8] = b"\n[the console log is full; what follows is dropped]\n";

/// A bounded log, written line by line.
///
/// The UART hands over single bytes and flushes after each; a system call per byte would slow the guest's boot
/// down for nothing.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    line: Vec<u8>,
    left: u64,
}

impl Log {
    pub(super) fn new(file: File) -> Self {
        Self { file, line: Vec::with_capacity(LINE_BYTES), left: LIMIT_BYTES }
    }

    /// Writes what is there of the current line. What can't be written is dropped: a full disk must not stop a guest.
    pub(super) fn write_out(&mut self) {
        let bytes = self.line.len() as u64;
        if self.left > 0 {
            let mut result = self.file.write_all(&self.line);
            self.left = self.left.saturating_sub(bytes);
            if self.left == 0 {
                result = result.and_then(|()| self.file.write_all(FULL));
            }
            if let Err(error) = result {
                tracing::debug!(%error, "console output is lost");
            }
        }
        self.line.clear();
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() >= LINE_BYTES {
                self.write_out();
            }
        }
        Ok(bytes.len())
    }

    /// Called after every byte; the line's end writes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.write_out();
    }
}
