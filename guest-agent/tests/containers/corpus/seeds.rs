//! Random combinations of the specs of other groups, the same ones every time.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::specs::{Entry, Expected, Group};

/// How many there are, and how many specs make one.
const COMBINATIONS: u64 = 48;
const PARTS: usize = 4;

/// What they are made of.
const SOURCES: [&str; 4] = ["process", "namespaces", "mounts", "devices"];

/// One combination for each seed.
pub(super) fn group(groups: &[Group]) -> Group {
    let sources: Vec<&Entry> =
        groups.iter().filter(|group| SOURCES.contains(&group.name)).flat_map(|group| &group.entries).collect();
    let entries = (1..=COMBINATIONS).map(|seed| combination(seed, &sources)).collect();
    Group { name: "seeds", entries }
}

fn combination(seed: u64, sources: &[&Entry]) -> Entry {
    let mut whole = Entry {
        group: "seeds",
        name: seed.to_string(),
        changes: serde_json::Map::new(),
        expected: Expected::Either,
        needs: Vec::new(),
        parts: Vec::new(),
    };
    let mut state = seed;
    while whole.parts.len() < PARTS {
        // xorshift64*: enough to choose by, and the same everywhere.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let choice = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sources.len();
        let Some(part) = sources.get(choice).filter(|part| can_join(&whole, part)) else { continue };
        whole.name = format!("{} and {}", whole.name, part.name);
        whole.parts.push(format!("{}/{}", part.group, part.name));
        for (pointer, value) in &part.changes {
            match (whole.changes.get_mut(pointer), value) {
                (Some(Value::Array(list)), Value::Array(more)) => list.extend(more.iter().cloned()),
                _ => drop(whole.changes.insert(pointer.clone(), value.clone())),
            }
        }
    }
    whole
}

/// Whether a spec changes nothing that another has changed already, but for adding to the same list, and mounts nothing
/// where another does: that would be shared with the host where what is mounted there is.
fn can_join(whole: &Entry, part: &Entry) -> bool {
    let all = |entry: &Entry| entry.changes.clone().into_iter().collect::<Vec<_>>();
    let (old, new) = (all(whole), all(part));
    let pairs = old.iter().flat_map(|old| new.iter().map(move |new| (old, new)));
    pairs.into_iter().all(|((old, old_value), (new, new_value))| {
        if old == new && new.ends_with("/+") {
            let places = |value: &Value| -> Vec<PathBuf> {
                let destinations =
                    value.as_array().into_iter().flatten().filter_map(|item| item["destination"].as_str());
                destinations.map(|path| Path::new("/").join(path)).collect()
            };
            let (old, new) = (places(old_value), places(new_value));
            return !old.iter().any(|old| new.iter().any(|new| old.starts_with(new) || new.starts_with(old)));
        }
        let (old, new) = (Path::new(old.trim_end_matches("/+")), Path::new(new.trim_end_matches("/+")));
        !old.starts_with(new) && !new.starts_with(old)
    })
}
