//! Where a process's output goes, as containerd names it.

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::StdioError;
use super::logger::Logger;

/// A destination of output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// A FIFO; empty for none.
    Fifo(&'a str),
    /// A file that output is appended to.
    File(PathBuf),
    /// A program that reads the output.
    Logger(Logger),
}

impl<'a> Target<'a> {
    /// Reads a path or URI.
    pub(super) fn parse(uri: &'a str) -> Result<Self, StdioError> {
        let unknown = || StdioError::UnknownTarget { uri: uri.to_owned() };
        match uri.split_once("://") {
            None => Ok(Self::Fifo(uri)),
            Some(("fifo", path)) => Ok(Self::Fifo(path)),
            Some(("file", path)) => {
                let path = path.split('?').next().unwrap_or_default();
                Ok(Self::File(decode(path).filter(|path| path.starts_with('/')).ok_or_else(unknown)?.into()))
            }
            Some(("binary", rest)) => {
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                let path = decode(path).filter(|path| path.starts_with('/')).ok_or_else(unknown)?.into();
                Ok(Self::Logger(Logger { path, arguments: arguments(query).ok_or_else(unknown)? }))
            }
            Some(_) => Err(unknown()),
        }
    }
}

/// A logging program's arguments are the query's keys, each followed by its value, as containerd passes them.
fn arguments(query: &str) -> Option<Vec<String>> {
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(decode(&key.replace('+', " "))?);
        arguments.push(decode(&value.replace('+', " "))?);
    }
    Some(arguments)
}

/// Percent-decoding (RFC 3986 §2.1). None if malformed.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Opens a file for appending and makes it, with its directory, if it isn't there.
pub(super) fn open_file(path: &Path) -> io::Result<tokio::fs::File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(tokio::fs::File::from_std)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        assert_eq!(Target::parse("").unwrap(), Target::Fifo(""));
        assert_eq!(Target::parse("/run/f").unwrap(), Target::Fifo("/run/f"));
        assert_eq!(Target::parse("fifo:///run/f").unwrap(), Target::Fifo("/run/f"));
        assert_eq!(Target::parse("file:///var/log/a%20b?maxsize=1").unwrap(), Target::File("/var/log/a b".into()));
        let logger = Logger {
            path: "/usr/bin/nerdctl".into(),
            arguments: vec!["_NERDCTL_INTERNAL_LOGGING".into(), "/var/lib/nerdctl/1".into()],
        };
        let uri = "binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fnerdctl%2F1";
        assert_eq!(Target::parse(uri).unwrap(), Target::Logger(logger));
        for uri in ["http://x", "file://relative", "binary:///p?a=%zz", "binary:///p?a=%4", "file:///%ff"] {
            assert!(matches!(Target::parse(uri), Err(StdioError::UnknownTarget { .. })), "{uri}");
        }
    }
}
