//! containerd's configuration has the snapshotter.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Finding, Root};

const CHECK: &str = "containerd's configuration";
const FILE: &str = "/etc/containerd/config.toml";
/// Files that import each other are read as often as this.
const MOST_FILES: usize = 64;

pub(super) fn check(root: &Root, socket: &Path) -> Finding {
    let mut files = vec![PathBuf::from(FILE)];
    let mut next = 0;
    let mut found = None;
    while let Some(file) = files.get(next).filter(|_| next < MOST_FILES).cloned() {
        next += 1;
        let table: Table = match root.read(&file).parse() {
            Ok(table) => table,
            Err(error) => {
                let found = format!("{} is no TOML: {}", file.display(), error.to_string().trim());
                return Finding::problem(CHECK, found, "correct it");
            }
        };
        // What is imported counts more.
        found = address(&table).map(|address| (file.clone(), address)).or(found);
        files.extend(imports(root, &file, &table).into_iter().filter(|path| !files.contains(path)).collect::<Vec<_>>());
    }
    judge(found, socket)
}

fn judge(found: Option<(PathBuf, String)>, socket: &Path) -> Finding {
    const REMEDY: &str = "run `make install`, which says what to add, then restart containerd";
    match found {
        None => {
            Finding::problem(CHECK, format!("{FILE} and what it imports have no [proxy_plugins.supermachine]"), REMEDY)
        }
        Some((file, address)) if Path::new(&address) == socket => {
            Finding::ok(CHECK, format!("{} names {address}", file.display()))
        }
        Some((file, address)) => {
            let found =
                format!("{} names {address} and the snapshotter listens on {}", file.display(), socket.display());
            Finding::problem(CHECK, found, "make them the same, then restart what was changed")
        }
    }
}

/// The socket of our snapshotter.
fn address(table: &Table) -> Option<String> {
    let plugin = table.get("proxy_plugins")?.get("supermachine")?;
    Some(plugin.get("address").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The files that one imports, by patterns that may be relative to its directory.
fn imports(root: &Root, file: &Path, table: &Table) -> Vec<PathBuf> {
    let patterns = table.get("imports").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let directory = file.parent().unwrap_or(Path::new("/"));
    let top = root.at("/");
    let matching = |pattern: &str| {
        let pattern = root.at(directory.join(pattern));
        glob::glob(&pattern.to_string_lossy()).into_iter().flatten().flatten()
    };
    let below = |path: PathBuf| Some(Path::new("/").join(path.strip_prefix(&top).ok()?));
    patterns.flat_map(matching).filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::doctor::root::fake;

    const SOCKET: &str = "/run/supermachine/snapshotter.sock";

    fn plugin(address: &str) -> String {
        format!("[proxy_plugins.supermachine]\ntype = \"snapshot\"\naddress = \"{address}\"\n")
    }

    #[test]
    fn the_plugin_is_found_in_the_file_or_in_what_it_imports() {
        let ours = plugin(SOCKET);
        for files in [
            vec![(FILE, ours.as_str())],
            vec![(FILE, "imports = [\"/etc/containerd/conf.d/*.toml\"]"), ("/etc/containerd/conf.d/s.toml", &ours)],
            vec![(FILE, "imports = [\"conf.d/s.toml\"]"), ("/etc/containerd/conf.d/s.toml", &ours)],
            vec![(FILE, "imports = [\"config.toml\", \"s.toml\"]"), ("/etc/containerd/s.toml", &ours)],
        ] {
            let (_directory, root) = fake(&files);
            let finding = check(&root, Path::new(SOCKET));
            assert_eq!(finding.status, Status::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_configuration_without_it_is_told_how_to_get_it() {
        let other = plugin("/other.sock");
        for (files, part) in [
            (vec![], "have no [proxy_plugins.supermachine]"),
            (vec![(FILE, "version = 3")], "have no [proxy_plugins.supermachine]"),
            (vec![(FILE, "version =")], "is no TOML"),
            (vec![(FILE, other.as_str())], "names /other.sock and the snapshotter listens on /run"),
        ] {
            let (_directory, root) = fake(&files);
            let finding = check(&root, Path::new(SOCKET));
            assert!(finding.status == Status::Problem && finding.found.contains(part), "{finding:?}");
        }
    }
}
