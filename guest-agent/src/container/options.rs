//! Mount options as OCI specs write them.

use crate::sys::MountAttributes;

/// The options of one mount, sorted by who interprets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `bind` or `rbind` was given.
    pub(crate) bind: bool,
    /// `rbind`: with everything mounted below.
    pub(crate) recursive: bool,
    /// Attributes of the mount itself.
    pub(crate) attributes: MountAttributes,
    /// Attributes of the mount and of all below (`rro`, `rnosuid`, ...).
    pub(crate) recursive_attributes: MountAttributes,
    /// Propagation, applied last, and whether to the whole tree.
    pub(crate) propagation: Option<(u64, bool)>,
    /// Options for the file system: a flag, or a key with a value.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// An option that this runtime knows and can't honour.
    pub(crate) unsupported: Option<String>,
}

/// (name, attribute bit, whether the name sets the bit)
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", libc::MOUNT_ATTR_RDONLY, true),
    ("rw", libc::MOUNT_ATTR_RDONLY, false),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, true),
    ("suid", libc::MOUNT_ATTR_NOSUID, false),
    ("nodev", libc::MOUNT_ATTR_NODEV, true),
    ("dev", libc::MOUNT_ATTR_NODEV, false),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("exec", libc::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Access time modes exclude one another: setting one clears the field. (`relatime` is the zero of the field.)
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME),
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("norelatime", libc::MOUNT_ATTR_STRICTATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("nostrictatime", libc::MOUNT_ATTR_RELATIME),
];

const PROPAGATIONS: &[(&str, libc::c_ulong, bool)] = &[
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// Words that change nothing here: defaults, and notes for other tools.
const IGNORED: &[&str] = &[
    "defaults",
    "async",
    "nomand",
    "nodirsync",
    "noauto",
    "auto",
    "nofail",
    "user",
    "nouser",
    "notmpcopyup",
    "norecursive",
    "nolazytime",
    "loud",
];

/// Words this runtime knows and can't honour: saying so beats mounting something else.
const UNSUPPORTED: &[&str] = &["tmpcopyup", "idmap", "ridmap", "mand"];

impl MountOptions {
    /// Sorts the options of a mount. A later word wins over an earlier one.
    pub(crate) fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words.iter().filter(|word| !word.is_empty() && !IGNORED.contains(&word.as_str())) {
            options.add(word);
        }
        options
    }

    fn add(&mut self, word: &str) {
        if word == "bind" || word == "rbind" {
            self.bind = true;
            self.recursive |= word == "rbind";
        } else if UNSUPPORTED.contains(&word) {
            self.unsupported.get_or_insert_with(|| word.to_owned());
        } else if let Some((_, kind, tree)) = PROPAGATIONS.iter().find(|(name, ..)| *name == word) {
            self.propagation = Some((*kind, *tree));
        } else if add_attribute(&mut self.attributes, word)
            || word.strip_prefix('r').is_some_and(|word| add_attribute(&mut self.recursive_attributes, word))
        {
        } else if let Some((key, value)) = word.split_once('=') {
            self.data.push((key.to_owned(), Some(value.to_owned())));
        } else {
            self.data.push((word.to_owned(), None));
        }
    }
}

fn add_attribute(attributes: &mut MountAttributes, word: &str) -> bool {
    if let Some((_, bit, sets)) = ATTRIBUTES.iter().find(|(name, ..)| *name == word) {
        let (to, from) = if *sets {
            (&mut attributes.set, &mut attributes.clear)
        } else {
            (&mut attributes.clear, &mut attributes.set)
        };
        *to |= bit;
        *from &= !bit;
        return true;
    }
    if let Some((_, mode)) = ACCESS_TIMES.iter().find(|(name, _)| *name == word) {
        attributes.set = attributes.set & !libc::MOUNT_ATTR__ATIME | mode;
        attributes.clear |= libc::MOUNT_ATTR__ATIME;
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn parse(words: &[&str]) -> MountOptions {
        MountOptions::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn sorts_a_tmpfs() {
        let options = parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME);
        assert_eq!(options.attributes.clear, libc::MOUNT_ATTR__ATIME);
        let expected = [("mode", "755"), ("size", "65536k")];
        assert_eq!(options.data, expected.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))));
        assert!(!options.bind);
    }

    #[test]
    fn a_later_word_wins() {
        let options = parse(&["ro", "rw", "noatime", "relatime"]);
        assert_eq!(options.attributes.set, 0);
        assert_eq!(options.attributes.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn knows_binds_and_propagation() {
        let options = parse(&["rbind", "rprivate", "ro"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.propagation, Some((libc::MS_PRIVATE, true)));
        assert!(!parse(&["bind"]).recursive);
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = parse(&["rbind", "rro", "rnosuid"]);
        assert_eq!(options.attributes.set, 0);
        assert_eq!(options.recursive_attributes.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn the_host_is_told_all_words_that_are_interpreted() {
        let attributes = ATTRIBUTES.iter().map(|entry| entry.0).chain(ACCESS_TIMES.iter().map(|entry| entry.0));
        let recursive = attributes.clone().map(|name| format!("r{name}"));
        let words = attributes.chain(PROPAGATIONS.iter().map(|entry| entry.0)).chain(IGNORED.iter().copied());
        let words: BTreeSet<_> = words.chain(["bind", "rbind"]).map(str::to_owned).chain(recursive).collect();
        assert_eq!(words, agent_proto::MOUNT_OPTIONS.iter().map(ToString::to_string).collect());
    }

    #[test]
    fn says_what_it_cannot_do() {
        assert_eq!(parse(&["tmpcopyup", "ro"]).unsupported.as_deref(), Some("tmpcopyup"));
        assert_eq!(parse(&["newinstance"]).data, [("newinstance".to_owned(), None)]);
    }
}
