//! What a check found.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    /// Containers run; something is slower, or missing.
    Warning,
    /// Containers don't run.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) status: Status,
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), remedy: None }
    }

    pub(crate) fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn problem(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// An error of the library as a problem. Its message has the remedy behind a semicolon.
    pub(crate) fn of_error(check: &'static str, message: &str) -> Self {
        match message.split_once("; ") {
            Some((found, remedy)) => Self::problem(check, found, remedy),
            None => Self { check, status: Status::Problem, found: message.to_owned(), remedy: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_remedy_is_what_follows_its_cause() {
        let finding = Finding::of_error("KVM", "this host has no /dev/kvm; load the module; or enable it");
        assert_eq!(finding, Finding::problem("KVM", "this host has no /dev/kvm", "load the module; or enable it"));
        assert_eq!(Finding::of_error("KVM", "broken").remedy, None);
    }
}
