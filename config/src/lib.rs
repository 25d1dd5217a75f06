//! Typed configuration: built-in defaults, then `/etc/supermachine/config.toml`, then container annotations.
//!
//! Text is read once at the edge ([`Config::load`]) and typed values are passed on from there. An unknown or
//! ill-typed key is an error that names the file, the key and what to write instead: a typing mistake must not
//! silently leave a default in place.
#![forbid(unsafe_code)]

mod annotations;
mod bytes;
mod error;
mod raw;
mod resolved;

pub use annotations::{ANNOTATION_PREFIX, AnnotationKey};
pub use bytes::{Bytes, ParseBytesError};
pub use error::ConfigError;
pub use resolved::{Baking, Config, DEFAULT_CMDLINE, Log, MAX_MEMORY, MAX_VCPUS, MEMORY_STEP, Paths, Upper, Vm};

/// Where the configuration of an installed host lives.
pub const CONFIG_FILE: &str = "/etc/supermachine/config.toml";
/// Environment variable that names another configuration file.
pub const CONFIG_ENV: &str = "SUPERMACHINE_CONFIG";

#[cfg(test)]
mod tests;
