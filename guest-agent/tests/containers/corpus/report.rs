//! What the probe printed, freed of what differs from run to run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::site::Site;

/// Lines by section.
#[derive(Debug, Default)]
pub(super) struct Report {
    sections: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Reads what `probe.sh` or `syscalls.c` printed: sections begin with `## NAME`.
    pub(super) fn parse(text: &str, site: &Site) -> Self {
        let mut report = Self::default();
        let mut section = "beginning".to_owned();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("## ") {
                section = name.to_owned();
                report.sections.entry(section.clone()).or_default();
            } else {
                report.sections.entry(section.clone()).or_default().push(site.plain(&section, line.trim_end()));
            }
        }
        // In which order things were made matters where they are in the same place alone.
        for section in ["mounts", "devices"] {
            if let Some(lines) = report.sections.get_mut(section) {
                lines.sort_by(|one, other| one.split(' ').next().cmp(&other.split(' ').next()));
            }
        }
        report
    }

    /// Whether the last section is there: the probe got to its end, and all that it printed arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.sections.contains_key("end")
    }

    /// Adds a section.
    pub(super) fn add(&mut self, section: &str, lines: Vec<String>) {
        self.sections.insert(section.to_owned(), lines);
    }

    /// How another differs as `compared` shows lines: `-` is only in the other, `+` only here.
    pub(super) fn difference(&self, theirs: &Self, compared: impl Fn(&str, &str) -> Option<String>) -> Option<String> {
        let mut text = String::new();
        let further = theirs.sections.keys().filter(|key| !self.sections.contains_key(*key));
        for section in self.sections.keys().chain(further) {
            let lines = |report: &Self| {
                let lines = report.sections.get(section).into_iter().flatten();
                lines.filter_map(|line| compared(section, line)).collect::<Vec<_>>()
            };
            let (ours, theirs) = (lines(self), lines(theirs));
            if ours == theirs {
                continue;
            }
            let _ = writeln!(text, "  {section}");
            let (removed, added) = (only(&theirs, &ours), only(&ours, &theirs));
            if removed.is_empty() && added.is_empty() {
                let _ = writeln!(text, "  in another order: {ours:?}");
            }
            for (sign, lines) in [('-', removed), ('+', added)] {
                for line in lines {
                    let _ = writeln!(text, "{sign} {line}");
                }
            }
        }
        (!text.is_empty()).then(|| text.trim_end().to_owned())
    }
}

/// Lines of one list that the other doesn't have, each as often as it has more of it.
fn only(these: &[String], those: &[String]) -> Vec<String> {
    let mut rest = those.to_vec();
    let mut found = Vec::new();
    for line in these {
        match rest.iter().position(|other| other == line) {
            Some(index) => drop(rest.swap_remove(index)),
            None => found.push(line.clone()),
        }
    }
    found
}
