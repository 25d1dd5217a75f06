//! Bakes as commands see them.

use serde::Serialize;
use supermachine::{Entry, Key, MachineFacts, Manifest};

/// Hexadecimal digits of a key that people are shown.
const SHORT: usize = 12;

/// A bake in the store.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) entry: Entry,
    /// What it is, or what is wrong with it.
    pub(crate) manifest: Result<Manifest, String>,
}

impl Listed {
    /// Whether it is of use only with the bake that has this key.
    pub(crate) fn lies_over(&self, key: Key) -> bool {
        let parent = self.manifest.as_ref().ok().and_then(|manifest| manifest.subject.parent());
        parent.is_some_and(|parent| parent.key() == key)
    }
}

/// The same bakes, of which those can't be used that lie over one that isn't there, or not as it was.
pub(crate) fn without_orphans(mut bakes: Vec<Listed>) -> Vec<Listed> {
    let known = |bake: &Listed| Some((bake.entry.key, bake.manifest.as_ref().ok()?.memory.digest));
    let needed = |bake: &Listed| {
        let manifest = bake.manifest.as_ref().ok()?;
        manifest.subject.parent().map(|parent| parent.key()).zip(manifest.over)
    };
    loop {
        let there: Vec<_> = bakes.iter().filter_map(known).collect();
        let is_orphan = |bake: &&mut Listed| needed(bake).is_some_and(|needed| !there.contains(&needed));
        // One that lay over this one is an orphan now, too.
        let Some(orphan) = bakes.iter_mut().find(is_orphan) else { return bakes };
        orphan.manifest = Err("the bake that it differs from is gone".to_owned());
    }
}

/// What this host is, to compare bakes with.
#[derive(Clone, Debug)]
pub(crate) enum Fits {
    Known(Box<MachineFacts>),
    /// Why not.
    Unknown(String),
}

/// Whether one bake fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fit {
    /// None if that can't be told.
    pub(crate) fits: Option<bool>,
    /// The fact that differs, or why it can't be told.
    pub(crate) why: Option<String>,
}

impl Fits {
    /// Whether some machine of this host, of whatever size, could be restored from a bake.
    pub(crate) fn judge(&self, bake: &Listed) -> Fit {
        let (fits, why) = match (&bake.manifest, self) {
            (Err(fault), _) => (Some(false), Some(fault.clone())),
            (Ok(_), Self::Unknown(why)) => (None, Some(why.clone())),
            (Ok(manifest), Self::Known(facts)) => {
                let difference = facts.difference_apart_from_shape(&manifest.subject.facts);
                (Some(difference.is_none()), difference)
            }
        };
        Fit { fits, why }
    }
}

/// No one bake is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    /// There is none.
    #[error("no bake has a key that begins with `{prefix}`; `supermachine ls` lists those there are")]
    None { prefix: String },
    /// There are several.
    #[error("`{prefix}` begins the keys of several bakes; write more of one of {candidates}")]
    Several { prefix: String, candidates: String },
}

/// The one bake whose key begins so.
pub(crate) fn find<'a>(bakes: &'a [Listed], prefix: &str) -> Result<&'a Listed, FindError> {
    let prefix = prefix.to_ascii_lowercase();
    let is_meant = |bake: &&Listed| !prefix.is_empty() && bake.entry.key.to_string().starts_with(&prefix);
    let found: Vec<_> = bakes.iter().filter(is_meant).collect();
    match found.as_slice() {
        [] => Err(FindError::None { prefix }),
        [bake] => Ok(bake),
        several => {
            // As much of each as tells them apart.
            let digits = (SHORT..64).find(|digits| {
                let mut keys: Vec<_> = several.iter().map(|bake| shortened(bake.entry.key, *digits)).collect();
                keys.sort();
                keys.dedup();
                keys.len() == several.len()
            });
            let keys = several.iter().map(|bake| shortened(bake.entry.key, digits.unwrap_or(64)));
            Err(FindError::Several { prefix, candidates: keys.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// The beginning of a key, for people.
pub(crate) fn short(key: Key) -> String {
    shortened(key, SHORT)
}

fn shortened(key: Key, digits: usize) -> String {
    key.to_string().chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Fixture, facts};

    #[test]
    fn a_bake_is_found_by_what_its_key_alone_begins_with() {
        let entry =
            |key: &str| Entry { key: key.parse().unwrap(), disk_bytes: 0, made_at: None, used_at: None, in_use: false };
        let listed = |key: String| Listed { entry: entry(&key), manifest: Err(String::new()) };
        let bakes = [listed(format!("ab{}", "0".repeat(62))), listed(format!("ab{}1", "0".repeat(61)))];
        let bakes = [&bakes[..], &[listed("c".repeat(64))]].concat();
        assert_eq!(find(&bakes, "C").unwrap().entry.key.to_string(), "c".repeat(64));
        assert!(matches!(find(&bakes, "d"), Err(FindError::None { .. })));
        assert!(matches!(find(&bakes, ""), Err(FindError::None { .. })));
        let several = find(&bakes, "ab").unwrap_err().to_string();
        assert!(several.contains(&"0".repeat(62)) && several.contains(&format!("{}1", "0".repeat(61))), "{several}");
    }

    #[test]
    fn a_bake_is_of_no_use_without_those_that_it_lies_over() {
        let fixture = Fixture::new();
        let base = fixture.publish(facts());
        let image = fixture.publish_image(facts());
        let warm = fixture.publish_warm(facts());
        let bakes = fixture.host().bakes().unwrap();
        assert_eq!(bakes.iter().filter(|bake| bake.manifest.is_ok()).count(), 3);
        assert!(find(&bakes, &image.to_string()).unwrap().lies_over(base));
        assert!(find(&bakes, &warm.to_string()).unwrap().lies_over(image));
        assert!(!find(&bakes, &base.to_string()).unwrap().lies_over(base));
        assert!(fixture.host().store.remove(&base).unwrap());
        let bakes = fixture.host().bakes().unwrap();
        assert_eq!(bakes.len(), 2);
        for bake in &bakes {
            let fit = fixture::fits(facts()).judge(bake);
            assert_eq!(fit, Fit { fits: Some(false), why: Some("the bake that it differs from is gone".into()) });
        }
    }

    #[test]
    fn a_bake_fits_whatever_its_size_unless_something_else_differs() {
        let fixture = Fixture::new();
        fixture.publish(facts());
        fixture.publish(MachineFacts { memory_bytes: 128 << 20, vcpus: 2, ..facts() });
        let bakes = fixture.host().bakes().unwrap();
        assert_eq!(bakes.len(), 2);
        for bake in &bakes {
            assert_eq!(fixture::fits(facts()).judge(bake), Fit { fits: Some(true), why: None });
            let here = MachineFacts { host_kernel: "6.13".into(), ..facts() };
            let why = Some("host kernel 6.12, here 6.13".to_owned());
            assert_eq!(fixture::fits(here).judge(bake), Fit { fits: Some(false), why });
            let unknown = Fits::Unknown("no KVM".into()).judge(bake);
            assert_eq!(unknown, Fit { fits: None, why: Some("no KVM".into()) });
        }
        let key = bakes[0].entry.key.to_string();
        std::fs::remove_file(fixture.host().store.directory().join(key).join("manifest")).unwrap();
        let fit = fixture::fits(facts()).judge(&fixture.host().bakes().unwrap()[1]);
        assert_eq!(fit, Fit { fits: Some(false), why: Some("the file `manifest` is missing".into()) });
    }
}
