//! Random combinations of the specs of other groups, the same ones every time.

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

/// Whether a spec changes nothing that another has changed already, but for adding to the same list.
fn can_join(whole: &Entry, part: &Entry) -> bool {
    let within = |inner: &str, outer: &str| {
        let inner = inner.trim_end_matches("/+");
        inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
    };
    part.changes.keys().all(|new| {
        let overlaps = |old: &&String| {
            let both_add = **old == *new && new.ends_with("/+");
            !both_add && (within(new, old.trim_end_matches("/+")) || within(old, new.trim_end_matches("/+")))
        };
        !whole.changes.keys().any(|old| overlaps(&old))
    })
}
