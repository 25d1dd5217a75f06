//! No production file is longer than 400 lines, and none of our scripts either.
//! The length of functions is a lint (`too_many_lines` in clippy.toml).

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::paths;

const LONGEST: usize = 400;

/// Fails when a tracked source file is over the budget.
pub(super) fn check() -> anyhow::Result<()> {
    let output = Command::new("git")
        .current_dir(paths::checkout())
        .args(["ls-files", "-z", "*.rs", "*.sh"])
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout)?;
    let mut long = Vec::new();
    for name in listed.split_terminator('\0').filter(|name| !is_test(name)) {
        let path = paths::checkout().join(name);
        // A file that is listed but deleted in the work tree is no longer ours to measure.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let lines = production_lines(&text);
        if lines > LONGEST {
            long.push(format!("{name} has {lines} lines of {LONGEST}"));
        }
    }
    ensure!(long.is_empty(), "{}", long.join("\n    "));
    Ok(())
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// Lines before the file's own test module.
fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim_end() != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_does_not_count() {
        assert_eq!(production_lines("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
    }

    #[test]
    fn test_files_are_told_apart() {
        assert!(is_test("vmm/src/tests.rs") && is_test("vmm/tests/boot.rs") && !is_test("vmm/src/boot.rs"));
    }
}
