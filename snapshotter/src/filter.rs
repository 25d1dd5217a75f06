//! containerd's filter language: `kind==committed,labels."a.b"~=/x+/`. Within one filter all selectors must match;
//! of several filters any. An operator-less selector asks whether the field is there.

mod scanner;

#[cfg(test)]
mod tests;

use regex::Regex;

use crate::record::{Kind, Named};
use scanner::Scanner;

/// What is wrong with a filter's text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("at byte {at}: expected {expected}")]
    Expected { at: usize, expected: &'static str },
    #[error("at byte {at}: this escape doesn't exist or isn't complete")]
    Escape { at: usize },
    #[error("at byte {at}: the quote isn't closed")]
    Unclosed { at: usize },
    #[error("the pattern {pattern:?} is no regular expression")]
    Pattern {
        pattern: String,
        #[source]
        source: Box<regex::Error>,
    },
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

/// Selectors of which all must match.
#[derive(Debug)]
pub(crate) struct Filter(Vec<Selector>);

impl Filter {
    /// An empty text matches everything.
    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        let mut selectors = Vec::new();
        if text.is_empty() {
            return Ok(Self(selectors));
        }
        let mut scanner = Scanner::new(text);
        loop {
            selectors.push(selector(&mut scanner)?);
            if scanner.at_end() {
                return Ok(Self(selectors));
            }
            if !scanner.take(",") {
                return Err(scanner.expected("a comma"));
            }
        }
    }

    pub(crate) fn matches(&self, snapshot: &Named) -> bool {
        self.0.iter().all(|selector| selector.matches(snapshot))
    }
}

impl Selector {
    /// An absent field is the empty text to `!=` and `~=`, but equals nothing.
    fn matches(&self, snapshot: &Named) -> bool {
        let found = field(snapshot, &self.path);
        let text = found.unwrap_or_default();
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(value) => found == Some(value),
            Test::NotEqual(value) => text != value,
            Test::Matches(pattern) => pattern.is_match(text),
        }
    }
}

fn field<'a>(snapshot: &'a Named, path: &[String]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "kind" => Some(match snapshot.record.kind {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }),
        "name" => Some(&snapshot.name),
        "parent" => Some(snapshot.record.parent.as_deref().unwrap_or_default()),
        "labels" => snapshot.record.labels.get(&rest.join(".")).map(String::as_str),
        _ => None,
    }
}

fn selector(scanner: &mut Scanner<'_>) -> Result<Selector, FilterError> {
    let mut path = vec![scanner.field()?];
    while scanner.take(".") {
        path.push(scanner.field()?);
    }
    let test = if scanner.take("==") {
        Test::Equal(scanner.value(false)?)
    } else if scanner.take("!=") {
        Test::NotEqual(scanner.value(false)?)
    } else if scanner.take("~=") {
        let pattern = scanner.value(true)?;
        let regex = Regex::new(&pattern);
        Test::Matches(regex.map_err(|source| FilterError::Pattern { pattern, source: Box::new(source) })?)
    } else {
        Test::Present
    };
    Ok(Selector { path, test })
}
