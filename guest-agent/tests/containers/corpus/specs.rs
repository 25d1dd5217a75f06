//! The specs of the corpus, as changes to one that runs.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::verdict::Verdict;
use crate::trial;

/// Specs by the part of a spec that they change. A spec has a name and consists of what is changed: the JSON pointer of
/// a field and its new value, `null` to remove it; a pointer that ends in `/+` adds to a list. Besides:
///
/// - `error`: the spec is wrong, and our refusal must contain this;
/// - `needs`: controllers of cgroups and capabilities without which it can't be tried, `cc` for `syscalls.c`;
/// - `{ground}` stands for the folder with what can be mounted and joined (`site.rs`), `"{all}"` for all capabilities
///   that this process has,
///   `"{containerd}"`, `"{docker}"` and `"{strict}"` for filters like those of engines (`profiles.rs`).
///
/// The point of the group `further` is a further process in the container: `/further` is its `process` object.
const GROUPS: [(&str, &str); 9] = [
    ("process", include_str!("specs/process.json")),
    ("further", include_str!("specs/further.json")),
    ("terminal", include_str!("specs/terminal.json")),
    ("namespaces", include_str!("specs/namespaces.json")),
    ("mounts", include_str!("specs/mounts.json")),
    ("devices", include_str!("specs/devices.json")),
    ("cgroup", include_str!("specs/cgroup.json")),
    ("seccomp", include_str!("specs/seccomp.json")),
    ("wrong", include_str!("specs/wrong.json")),
];

/// Specs about one subject.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) entries: Vec<Entry>,
}

/// One spec.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) group: &'static str,
    pub(super) name: String,
    /// New values by JSON pointer.
    pub(super) changes: Map<String, Value>,
    pub(super) expected: Expected,
    pub(super) needs: Vec<String>,
    /// The names of the specs that it combines.
    pub(super) parts: Vec<String>,
}

/// What a spec must come to, whatever other runtimes make of it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Expected {
    Runs,
    /// A refusal that contains this.
    Fails(String),
    Either,
}

/// Reads all of them.
pub(super) fn groups() -> Result<Vec<Group>> {
    GROUPS
        .into_iter()
        .map(|(name, text)| {
            let entries: Map<String, Value> = serde_json::from_str(text).with_context(|| format!("{name}.json"))?;
            let entries = entries.into_iter().map(|(entry, changes)| Entry::read(name, entry, changes));
            Ok(Group { name, entries: entries.collect::<Result<_>>()? })
        })
        .collect()
}

impl Entry {
    fn read(group: &'static str, name: String, changes: Value) -> Result<Self> {
        let Value::Object(mut changes) = changes else { bail!("{group}/{name} is no object") };
        let expected = match changes.remove("error") {
            Some(text) => Expected::Fails(text.as_str().context("error is no text")?.to_owned()),
            None => Expected::Runs,
        };
        let needs = changes.remove("needs").map(serde_json::from_value).transpose()?.unwrap_or_default();
        let parts = vec![format!("{group}/{name}")];
        Ok(Self { group, name, changes, expected, needs, parts })
    }

    /// `corpus/GROUP/NAME`.
    pub(super) fn full_name(&self) -> String {
        format!("corpus/{}/{}", self.group, self.name)
    }

    /// The whole spec.
    pub(super) fn spec(&self) -> Result<Value> {
        let mut spec = trial::spec(&["/bin/probe"]);
        if self.group == "further" {
            spec["further"] = trial::process(&["/bin/probe"]);
            spec["process"]["args"] = json!(["sleep", "1000"]);
        }
        for (pointer, value) in &self.changes {
            change(&mut spec, pointer, value.clone()).with_context(|| format!("{pointer} of {}", self.name))?;
        }
        Ok(spec)
    }

    /// How our verdict isn't what was expected of it.
    pub(super) fn disappointment(&self, verdict: &Verdict) -> Option<String> {
        match (&self.expected, verdict) {
            (Expected::Runs, Verdict::Refused(message)) => Some(format!("refused: {message}")),
            (Expected::Fails(part), Verdict::Refused(message)) if !message.contains(part) => {
                Some(format!("refused without {part:?}: {message}"))
            }
            (Expected::Fails(_), Verdict::Ran(_)) => Some("ran".to_owned()),
            _ => None,
        }
    }
}

fn change(spec: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, key) = pointer.rsplit_once('/').context("is no pointer")?;
    let mut place = spec;
    for step in parent.split('/').skip(1) {
        place = match place {
            Value::Array(list) => list.get_mut(step.parse::<usize>()?).context("no such element")?,
            Value::Object(fields) => fields.entry(step).or_insert_with(|| Value::Object(Map::new())),
            _ => bail!("{step} is in nothing"),
        };
    }
    match (place, key, value) {
        (Value::Array(list), key, Value::Null) => drop(list.remove(key.parse()?)),
        (Value::Array(list), "+", Value::Array(more)) => list.extend(more),
        (Value::Array(list), key, value) => *list.get_mut(key.parse::<usize>()?).context("no such element")? = value,
        (Value::Object(fields), key, Value::Null) => drop(fields.remove(key)),
        (Value::Object(fields), key, value) => drop(fields.insert(key.to_owned(), value)),
        _ => bail!("{key} is in nothing"),
    }
    Ok(())
}
