//! Mount options as OCI specs write them.

use std::ffi::c_ulong;

use mount_tree::MountAttributes;

/// The options of one mount, sorted by who interprets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `MS_*` flags that are named, `MS_BIND` and `MS_REC` among them.
    set: c_ulong,
    /// Flags whose opposite is named, and later than they are.
    cleared: c_ulong,
    /// Attributes of the mount and of all below (`rro`, `rnosuid`, ...).
    pub(crate) recursive_attributes: MountAttributes,
    /// Propagation types, applied in turn, and whether to the whole tree.
    pub(crate) propagations: Vec<(c_ulong, bool)>,
    /// Options for the file system: a flag, or a key with a value.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// `tmpcopyup`: the new file system begins with what was there.
    pub(crate) copies_up: bool,
    /// `idmap` or `ridmap`, which isn't supported.
    pub(crate) maps_ids: Option<String>,
}

/// (name, flag, whether the name sets the flag)
const FLAGS: &[(&str, c_ulong, bool)] = &[
    ("async", libc::MS_SYNCHRONOUS, false),
    ("atime", libc::MS_NOATIME, false),
    ("bind", libc::MS_BIND, true),
    ("dev", libc::MS_NODEV, false),
    ("diratime", libc::MS_NODIRATIME, false),
    ("dirsync", libc::MS_DIRSYNC, true),
    ("exec", libc::MS_NOEXEC, false),
    ("iversion", libc::MS_I_VERSION, true),
    ("lazytime", MS_LAZYTIME, true),
    ("loud", libc::MS_SILENT, false),
    ("mand", libc::MS_MANDLOCK, true),
    ("noatime", libc::MS_NOATIME, true),
    ("nodev", libc::MS_NODEV, true),
    ("nodiratime", libc::MS_NODIRATIME, true),
    ("noexec", libc::MS_NOEXEC, true),
    ("noiversion", libc::MS_I_VERSION, false),
    ("nolazytime", MS_LAZYTIME, false),
    ("nomand", libc::MS_MANDLOCK, false),
    ("norelatime", libc::MS_RELATIME, false),
    ("nostrictatime", libc::MS_STRICTATIME, false),
    ("nosuid", libc::MS_NOSUID, true),
    ("nosymfollow", MS_NOSYMFOLLOW, true),
    ("rbind", libc::MS_BIND | libc::MS_REC, true),
    ("relatime", libc::MS_RELATIME, true),
    ("ro", libc::MS_RDONLY, true),
    ("rw", libc::MS_RDONLY, false),
    ("silent", libc::MS_SILENT, true),
    ("strictatime", libc::MS_STRICTATIME, true),
    ("suid", libc::MS_NOSUID, false),
    ("symfollow", MS_NOSYMFOLLOW, false),
    ("sync", libc::MS_SYNCHRONOUS, true),
];

/// Flags that libc doesn't name for every platform (`linux/mount.h`).
const MS_NOSYMFOLLOW: c_ulong = 1 << 8;
const MS_LAZYTIME: c_ulong = 1 << 25;

/// (flag of mount(2), attribute of a mount)
const ATTRIBUTES: &[(c_ulong, u64)] = &[
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
];

/// (flag of mount(2), option of a file system)
const WORDS: &[(c_ulong, &str)] = &[
    (libc::MS_RDONLY, "ro"),
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (MS_LAZYTIME, "lazytime"),
    (libc::MS_MANDLOCK, "mand"),
];

const ACCESS_TIMES: c_ulong = libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;

const PROPAGATIONS: &[(&str, c_ulong, bool)] = &[
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// (name, attribute and whether the name sets it) of a whole tree. The modes of access times exclude one another:
/// naming one clears the field, whose zero is `relatime`.
const RECURSIVE: &[(&str, u64, bool)] = &[
    ("rro", libc::MOUNT_ATTR_RDONLY, true),
    ("rrw", libc::MOUNT_ATTR_RDONLY, false),
    ("rnosuid", libc::MOUNT_ATTR_NOSUID, true),
    ("rsuid", libc::MOUNT_ATTR_NOSUID, false),
    ("rnodev", libc::MOUNT_ATTR_NODEV, true),
    ("rdev", libc::MOUNT_ATTR_NODEV, false),
    ("rnoexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("rexec", libc::MOUNT_ATTR_NOEXEC, false),
    ("rnodiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("rdiratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("rnosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("rsymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
];
const RECURSIVE_ACCESS_TIMES: &[(&str, u64)] = &[
    ("rnoatime", libc::MOUNT_ATTR_NOATIME),
    ("ratime", libc::MOUNT_ATTR_RELATIME),
    ("rrelatime", libc::MOUNT_ATTR_RELATIME),
    ("rnorelatime", libc::MOUNT_ATTR_RELATIME),
    ("rstrictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("rnostrictatime", libc::MOUNT_ATTR_RELATIME),
];

/// Words that change nothing here: defaults, and notes for other tools.
const IGNORED: &[&str] = &["", "defaults", "noauto", "auto", "nofail", "user", "nouser", "notmpcopyup", "norecursive"];

impl MountOptions {
    /// Sorts the options of a mount. Of a word and its opposite the later one counts.
    pub(crate) fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words.iter().filter(|word| !IGNORED.contains(&word.as_str())) {
            options.add(word);
        }
        options
    }

    fn add(&mut self, word: &str) {
        if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            let (to, from) =
                if *sets { (&mut self.set, &mut self.cleared) } else { (&mut self.cleared, &mut self.set) };
            *to |= flag;
            *from &= !flag;
        } else if let Some((_, kind, tree)) = PROPAGATIONS.iter().find(|(name, ..)| *name == word) {
            self.propagations.push((*kind, *tree));
        } else if word == "tmpcopyup" {
            self.copies_up = true;
        } else if word == "idmap" || word == "ridmap" {
            self.maps_ids = Some(word.to_owned());
        } else if !add_recursive(&mut self.recursive_attributes, word) {
            let option = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value.to_owned())));
            self.data.push((option.0.to_owned(), option.1));
        }
    }

    /// Whether `bind` or `rbind` is named.
    pub(crate) fn binds(&self) -> bool {
        self.set & libc::MS_BIND != 0
    }

    /// Whether `rbind` is named: a bind with everything mounted below.
    pub(crate) fn binds_tree(&self) -> bool {
        self.set & libc::MS_REC != 0
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.set & libc::MS_RDONLY != 0
    }

    /// The same, but writable.
    pub(crate) fn writable(&self) -> Self {
        Self { set: self.set & !libc::MS_RDONLY, ..self.clone() }
    }

    /// Attributes of the mount of a new file system.
    pub(crate) fn attributes(&self) -> u64 {
        let named = ATTRIBUTES.iter().filter(|(flag, _)| self.set & flag != 0);
        named.fold(self.access_time(), |attributes, (_, attribute)| attributes | attribute)
    }

    fn access_time(&self) -> u64 {
        if self.set & libc::MS_STRICTATIME != 0 {
            libc::MOUNT_ATTR_STRICTATIME
        } else if self.set & libc::MS_NOATIME != 0 {
            libc::MOUNT_ATTR_NOATIME
        } else {
            libc::MOUNT_ATTR_RELATIME
        }
    }

    /// Options of a new file system: its own, and those that every file system has.
    pub(crate) fn filesystem_options(&self) -> Vec<(String, Option<String>)> {
        let common = WORDS.iter().filter(|(flag, _)| self.set & flag != 0).map(|(_, word)| ((*word).to_owned(), None));
        self.data.iter().cloned().chain(common).collect()
    }

    /// What a bind changes of its source's attributes: nothing if none is named, else all of them, but for the access
    /// times, which stay unless one is named.
    pub(crate) fn bind_attributes(&self) -> MountAttributes {
        if (self.set | self.cleared) & !(libc::MS_BIND | libc::MS_REC) == 0 {
            return MountAttributes::default();
        }
        let all = ATTRIBUTES.iter().fold(libc::MOUNT_ATTR__ATIME, |all, (_, attribute)| all | attribute);
        let times = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
        let clear = if self.set & ACCESS_TIMES == 0 { all & !times } else { all };
        MountAttributes { set: self.attributes() & clear, clear, propagation: 0 }
    }

    /// Attributes that a bind must lose.
    pub(crate) fn lost_attributes(&self) -> u64 {
        let lost = ATTRIBUTES.iter().filter(|(flag, _)| self.cleared & flag != 0);
        lost.fold(0, |attributes, (_, attribute)| attributes | attribute)
    }
}

/// Takes in a word that is about a whole tree; whether it is one.
fn add_recursive(attributes: &mut MountAttributes, word: &str) -> bool {
    if let Some((_, attribute, sets)) = RECURSIVE.iter().find(|(name, ..)| *name == word) {
        let MountAttributes { set, clear, .. } = attributes;
        let (to, from) = if *sets { (set, clear) } else { (clear, set) };
        *to |= attribute;
        *from &= !attribute;
        return true;
    }
    if let Some((_, mode)) = RECURSIVE_ACCESS_TIMES.iter().find(|(name, _)| *name == word) {
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
        let options = parse(&["nosuid", "strictatime", "mode=755", "size=65536k", "sync"]);
        assert_eq!(options.attributes(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME);
        let expected = [("mode", Some("755")), ("size", Some("65536k")), ("sync", None)];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(options.filesystem_options(), expected);
        assert!(!options.binds());
    }

    #[test]
    fn of_opposites_the_later_one_counts() {
        assert_eq!(parse(&["ro", "rw", "noatime", "atime"]).attributes(), libc::MOUNT_ATTR_RELATIME);
        assert!(parse(&["rw", "ro"]).is_read_only());
        // Modes of access times are no opposites of each other.
        assert_eq!(parse(&["noatime", "relatime"]).attributes(), libc::MOUNT_ATTR_NOATIME);
        assert_eq!(parse(&["strictatime", "noatime"]).attributes(), libc::MOUNT_ATTR_STRICTATIME);
    }

    #[test]
    fn a_bind_without_flags_is_like_its_source_and_with_flags_has_those() {
        assert_eq!(parse(&["rbind", "rprivate"]).bind_attributes(), MountAttributes::default());
        let attributes = parse(&["bind", "ro", "rw"]).bind_attributes();
        assert_eq!(attributes.set, 0);
        let security = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        assert_eq!(attributes.clear, security | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSYMFOLLOW);
        let attributes = parse(&["bind", "ro", "noatime"]).bind_attributes();
        assert_eq!(attributes.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(attributes.clear & libc::MOUNT_ATTR__ATIME, libc::MOUNT_ATTR__ATIME);
        assert_eq!(parse(&["bind", "suid", "ro"]).lost_attributes(), libc::MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn propagations_come_in_order() {
        let options = parse(&["rbind", "shared", "rslave"]);
        assert!(options.binds_tree());
        assert_eq!(options.propagations, [(libc::MS_SHARED, false), (libc::MS_SLAVE, true)]);
        assert!(!parse(&["bind"]).binds_tree());
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = parse(&["rbind", "rro", "rnosuid", "rnoatime"]);
        assert_eq!(options.bind_attributes(), MountAttributes::default());
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME;
        assert_eq!(options.recursive_attributes.set, set);
        assert_eq!(options.recursive_attributes.clear, libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn the_host_is_told_all_words_that_are_interpreted() {
        let flags = FLAGS.iter().map(|entry| entry.0).chain(PROPAGATIONS.iter().map(|entry| entry.0));
        let recursive = RECURSIVE.iter().map(|entry| entry.0).chain(RECURSIVE_ACCESS_TIMES.iter().map(|entry| entry.0));
        let ignored = IGNORED.iter().copied().filter(|word| !word.is_empty());
        let words: BTreeSet<_> = flags.chain(recursive).chain(ignored).chain(["tmpcopyup"]).collect();
        assert_eq!(words.into_iter().collect::<Vec<_>>(), agent_proto::MOUNT_OPTIONS);
    }

    #[test]
    fn knows_what_is_no_flag() {
        assert!(parse(&["tmpcopyup"]).copies_up);
        assert_eq!(parse(&["ridmap"]).maps_ids.as_deref(), Some("ridmap"));
        assert_eq!(parse(&["newinstance"]).data, [("newinstance".to_owned(), None)]);
    }
}
