//! The file as dotted keys. Whoever resolves it takes every key it knows; what remains is unknown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Value;

use crate::bytes::Bytes;
use crate::error::ConfigError;

/// Values by dotted key, and the keys that were asked for.
#[derive(Debug)]
pub(crate) struct Raw {
    origin: String,
    values: BTreeMap<String, Value>,
    asked: Vec<&'static str>,
}

impl Raw {
    pub(crate) fn parse(file: &std::path::Path, text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|source| ConfigError::Syntax { file: PathBuf::from(file), source: Box::new(source) })?;
        let mut values = BTreeMap::new();
        flatten("", table, &mut values);
        Ok(Self { origin: file.display().to_string(), values, asked: Vec::new() })
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.values.remove(key)
    }

    fn bad(&self, key: &str, found: String, remedy: impl Into<String>) -> ConfigError {
        ConfigError::BadValue { origin: self.origin.clone(), key: key.to_owned(), found, remedy: remedy.into() }
    }

    pub(crate) fn path(&mut self, key: &'static str, default: &str) -> Result<PathBuf, ConfigError> {
        match self.take(key) {
            None => Ok(PathBuf::from(default)),
            Some(Value::String(path)) if path.starts_with('/') => Ok(PathBuf::from(path)),
            Some(other) => {
                Err(self.bad(key, other.to_string(), format!("write an absolute path, for example \"{default}\"")))
            }
        }
    }

    pub(crate) fn text(&mut self, key: &'static str, default: &str) -> Result<String, ConfigError> {
        match self.take(key) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.bad(key, other.to_string(), "write a string in quotes")),
        }
    }

    pub(crate) fn switch(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Boolean(on)) => Ok(on),
            Some(other) => Err(self.bad(key, other.to_string(), "write true or false")),
        }
    }

    pub(crate) fn number(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        match value.as_integer().and_then(|number| u64::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(self.bad(key, value.to_string(), remedy)),
        }
    }

    pub(crate) fn size(&mut self, key: &'static str, default: Bytes) -> Result<Bytes, ConfigError> {
        let remedy = || format!("write a number of bytes or a text such as \"{default}\"");
        match self.take(key) {
            None => Ok(default),
            Some(Value::String(text)) => text
                .parse()
                .map_err(|error: crate::ParseBytesError| self.bad(key, format!("\"{}\"", error.text), remedy())),
            Some(Value::Integer(bytes)) if bytes >= 0 => Ok(Bytes(bytes.unsigned_abs())),
            Some(other) => Err(self.bad(key, other.to_string(), remedy())),
        }
    }

    pub(crate) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let texts =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.bad(key, value.to_string(), "write a list of strings")),
        }
    }

    /// Fails if a key is left that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(ConfigError::UnknownKey { origin: self.origin, hint: hint(&key, &self.asked), key }),
        }
    }
}

fn flatten(prefix: &str, table: toml::Table, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(table) => flatten(&key, table, into),
            value => {
                into.insert(key, value);
            }
        }
    }
}

/// Names the nearest known key, or all of them.
pub(crate) fn hint(key: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|candidate| (distance(key, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= 4 => format!("did you mean `{candidate}`?"),
        _ => format!("the known keys are {}", known.join(", ")),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
