//! Finding and executing the program of a process.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::error::SetupError;
use crate::refusal::Kind;

/// A program with its arguments and environment, ready for execve.
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Finds `arguments[0]` with the current root, directory and user. Without a slash it is looked for in the
    /// environment's `PATH` alone, and not relative to the current directory, which belongs to whoever fills it.
    pub(crate) fn find(arguments: &[String], environment: Vec<String>) -> Result<Self, SetupError> {
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            return Err(SetupError::spec("process.args", "must name a program"));
        };
        let path = if name.contains('/') { check_path(name)? } else { search_path(name, search_list(&environment))? };
        Ok(Self {
            path,
            arguments: c_strings("process.args", arguments.to_vec())?,
            environment: c_strings("process.env", environment)?,
        })
    }

    /// Fails if no file is where the program must be, whoever is to execute it and in whatever directory. A relative
    /// path isn't looked into.
    pub(crate) fn require(arguments: &[String], environment: &[String]) -> Result<(), SetupError> {
        let list = search_list(environment);
        let is_absolute = |path: &str| path.starts_with('/');
        let is_decided = match arguments.first() {
            Some(name) if name.contains('/') => is_absolute(name),
            _ => list.is_empty() || list.split(':').all(is_absolute),
        };
        match Self::find(arguments, environment.to_vec()) {
            Err(error) if is_decided && error.kind() == Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Replaces this process by the program; returns only if that failed.
    pub(crate) fn execute(&self) -> SetupError {
        let program = self.path.display().to_string();
        let Ok(path) = CString::new(self.path.as_os_str().as_bytes()) else {
            return SetupError::spec("process.args", "holds a zero byte");
        };
        match nix::unistd::execve(&path, &self.arguments, &self.environment) {
            Ok(never) => match never {},
            Err(errno) => SetupError::Exec { program, source: errno.into() },
        }
    }
}

/// A process's environment: of variables named twice the last one, and `HOME` from the container's `/etc/passwd` if
/// there is none. No list at all stays none.
pub(crate) fn complete_environment(environment: Option<&[String]>, uid: u32) -> Vec<String> {
    let Some(entries) = environment else { return Vec::new() };
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut complete: Vec<String> = Vec::with_capacity(entries.len() + 1);
    for entry in entries.iter().rev() {
        if !complete.iter().any(|later| name(later) == name(entry)) {
            complete.push(entry.clone());
        }
    }
    complete.reverse();
    complete.retain(|entry| entry != "HOME=");
    if !complete.iter().any(|entry| entry.starts_with("HOME=")) {
        complete.push(format!("HOME={}", home(Path::new("/etc/passwd"), uid)));
    }
    complete
}

/// Refuses what is no variable.
pub(crate) fn validate_environment(environment: &[String]) -> Result<(), SetupError> {
    for (index, entry) in environment.iter().enumerate() {
        let reason = match entry.split_once('=') {
            None => "lacks an equals sign",
            Some(("", _)) => "lacks a name",
            Some(_) if entry.contains('\0') => "holds a zero byte",
            Some(_) => continue,
        };
        return Err(SetupError::spec(format!("process.env[{index}]"), format_args!("{entry:?} {reason}")));
    }
    Ok(())
}

fn home(passwd: &Path, uid: u32) -> String {
    let uid = uid.to_string();
    let text = std::fs::read(passwd).unwrap_or_default();
    let home = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        (fields.next() == Some(uid.as_bytes())).then(|| fields.nth(2)).flatten()
    });
    home.and_then(|home| std::str::from_utf8(home).ok()).unwrap_or("/").to_owned()
}

fn search_list(environment: &[String]) -> &str {
    environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default()
}

fn check_path(name: &str) -> Result<PathBuf, SetupError> {
    match check_executable(Path::new(name)) {
        Ok(()) => Ok(PathBuf::from(name)),
        Err(Errno::ACCESS) => Err(SetupError::NotExecutable { program: name.to_owned() }),
        Err(Errno::ISDIR) => Err(SetupError::Directory { program: name.to_owned() }),
        Err(error) => Err(SetupError::NoProgram { program: name.to_owned(), source: error.into() }),
    }
}

fn search_path(name: &str, search: &str) -> Result<PathBuf, SetupError> {
    let program = name.to_owned();
    let mut forbidden = false;
    for directory in search.split(':').filter(|_| !search.is_empty()) {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check_executable(&candidate) {
            Ok(()) if candidate.is_relative() => return Err(SetupError::Relative { program }),
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => forbidden = true,
            Err(_) => {}
        }
    }
    Err(if forbidden { SetupError::NotExecutable { program } } else { SetupError::NotInPath { program } })
}

/// A regular file that the current user may execute.
fn check_executable(path: &Path) -> Result<(), Errno> {
    match FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode) {
        FileType::RegularFile => rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

fn c_strings(field: &str, values: Vec<String>) -> Result<Vec<CString>, SetupError> {
    values
        .into_iter()
        .map(|value| CString::new(value).map_err(|_zero| SetupError::spec(field, "holds a zero byte")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::refusal::Refusal;

    fn find(name: &str, path: &Path) -> Result<PathBuf, Refusal> {
        let environment = vec![format!("PATH={}", path.display())];
        Program::find(&[name.to_owned()], environment).map(|program| program.path).map_err(Refusal::from)
    }

    #[test]
    fn finds_programs_like_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let tool = directory.path().join("tool");
        std::fs::write(&tool, "").unwrap();
        let refused = find("tool", directory.path()).unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (Kind::PermissionDenied, "exec: \"tool\": permission denied")
        );
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", directory.path()).unwrap(), tool);
        assert_eq!(find(tool.to_str().unwrap(), Path::new("/nowhere")).unwrap(), tool);
    }

    #[test]
    fn says_what_is_missing() {
        let missing = find("foo", Path::new("/nowhere")).unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound);
        assert_eq!(missing.message, "exec: \"foo\": executable file not found in $PATH");
        let missing = find("/no/such", Path::new("/nowhere")).unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound);
        assert_eq!(missing.message, "exec: \"/no/such\": stat /no/such: no such file or directory");
        let directory = find("/tmp", Path::new("/nowhere")).unwrap_err();
        assert_eq!(
            (directory.kind, directory.message.as_str()),
            (Kind::PermissionDenied, "exec: \"/tmp\": is a directory")
        );
        assert_eq!(find("tmp", Path::new("/")).unwrap_err().kind, Kind::NotFound);
        assert_eq!(
            Program::find(&[], vec![]).map(drop).map_err(|error| Refusal::from(error).kind),
            Err(Kind::InvalidArgument)
        );
    }

    #[test]
    fn only_what_nobody_could_find_is_missing_early() {
        let directory = tempfile::tempdir().unwrap();
        let tool = directory.path().join("tool");
        std::fs::write(&tool, "").unwrap();
        let require = |name: &str, path: &str| Program::require(&[name.to_owned()], &[format!("PATH={path}")]);
        let here = directory.path().to_str().unwrap();
        assert!(require("foo", here).is_err());
        assert!(require("/no/such", here).is_err());
        // Whether it may be executed depends on the user, whether a relative path leads anywhere on the directory.
        assert!(require("tool", here).is_ok());
        assert!(require(tool.to_str().unwrap(), here).is_ok());
        assert!(require("./foo", here).is_ok());
        assert!(require("foo", &format!("{here}:relative")).is_ok());
        assert!(require("foo", "").is_err());
    }

    #[test]
    fn home_comes_from_passwd() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:0::/root:/bin/sh\nodd\nweb:x:33:33:www:/var/www:/bin/false\n").unwrap();
        assert_eq!(home(file.path(), 33), "/var/www");
        assert_eq!(home(file.path(), 0), "/root");
        assert_eq!(home(file.path(), 7), "/");
    }

    #[test]
    fn of_two_variables_the_last_one_counts() {
        let complete = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
            complete_environment(Some(&entries), 4242)
        };
        assert_eq!(complete(&["A=1", "HOME=/x", "A=2", "B=3"]), ["HOME=/x", "A=2", "B=3"]);
        assert_eq!(complete(&["HOME=", "A=1"]), ["A=1", "HOME=/"]);
        assert_eq!(complete(&["HOME=/x", "HOME="]), ["HOME=/"]);
        assert_eq!(complete(&[]), ["HOME=/"]);
        assert!(complete_environment(None, 0).is_empty());
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for (entry, allowed) in
            [("A=", true), ("A=b=c", true), ("A", false), ("=a", false), ("", false), ("A=\0", false)]
        {
            assert_eq!(validate_environment(&[entry.to_owned()]).is_ok(), allowed, "{entry:?}");
        }
    }
}
