//! The commands, one a file. Each gathers what it tells as data, which is printed as JSON or as text.

pub(crate) mod bake;
pub(crate) mod completions;
pub(crate) mod df;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod prune;
pub(crate) mod rm;
pub(crate) mod trace;
