use std::path::PathBuf;

/// The configuration can't be used. Every message says where the value came from and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file exists and can't be read.
    #[error("cannot read the configuration file {}; make it readable for root or remove it to use the defaults", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is not valid TOML; correct it at the place named below", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key that doesn't exist.
    #[error("{origin}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// The file, or `annotations`.
        origin: String,
        /// The key with its table, for example `vm.memry`.
        key: String,
        /// What was probably meant.
        hint: String,
    },
    /// A value of the wrong type or outside its range.
    #[error("{origin}: `{key}` is {found}; {remedy}")]
    BadValue {
        /// The file, or `annotations`.
        origin: String,
        /// The key with its table.
        key: String,
        /// What was read.
        found: String,
        /// What to write instead.
        remedy: String,
    },
    /// An annotation that the host doesn't let containers set.
    #[error("the annotation `{annotation}` is not allowed on this host; remove it, or add \"{key}\" to `annotations.allow` in {}", file.display())]
    NotAllowed {
        /// Full name of the annotation.
        annotation: String,
        /// The key it would override.
        key: String,
        /// The file that decides.
        file: PathBuf,
    },
}
