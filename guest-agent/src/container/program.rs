//! Finding and executing the program of a process.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::error::{SetupError, Step};
use crate::refusal::Kind;

/// `PATH` of a process whose environment has none: the kernel's shells assume the same.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and environment, ready for execve.
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Finds `arguments[0]` the way a shell does, with the current root, directory and user.
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
        let is_absolute = |path: &str| path.starts_with('/');
        let is_decided = match arguments.first() {
            Some(name) if name.contains('/') => is_absolute(name),
            _ => search_list(environment).split(':').all(is_absolute),
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

/// Adds `HOME` from the container's `/etc/passwd` if the environment has none, as other container runtimes do.
pub(crate) fn complete_environment(environment: &[String], uid: u32) -> Vec<String> {
    let mut environment = environment.to_vec();
    let has_home = environment.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    if !has_home {
        environment.retain(|entry| !entry.starts_with("HOME="));
        environment.push(format!("HOME={}", home(Path::new("/etc/passwd"), uid)));
    }
    environment
}

/// Moves to the process's working directory, making it if it is missing.
pub(crate) fn enter_directory(path: &Path) -> Result<(), SetupError> {
    if !path.is_absolute() {
        return Err(SetupError::spec("process.cwd", "must be an absolute path"));
    }
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(path).on("make working directory", path)?;
            rustix::process::chdir(path).on("change to working directory", path)
        }
        result => result.on("change to working directory", path),
    }
}

fn home(passwd: &Path, uid: u32) -> String {
    let uid = uid.to_string();
    let text = std::fs::read(passwd).unwrap_or_default();
    let home = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        (fields.next() == Some(uid.as_bytes())).then(|| fields.nth(2)).flatten()
    });
    home.and_then(|home| std::str::from_utf8(home).ok()).filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}

fn search_list(environment: &[String]) -> &str {
    environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH)
}

fn check_path(name: &str) -> Result<PathBuf, SetupError> {
    match check_executable(Path::new(name)) {
        Ok(()) => Ok(PathBuf::from(name)),
        Err(Errno::ACCESS) => Err(SetupError::NotExecutable { program: name.to_owned() }),
        Err(error) => Err(SetupError::NoProgram { program: name.to_owned(), source: error.into() }),
    }
}

fn search_path(name: &str, search: &str) -> Result<PathBuf, SetupError> {
    let mut forbidden = false;
    for directory in search.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => forbidden = true,
            Err(_) => {}
        }
    }
    let program = name.to_owned();
    Err(if forbidden { SetupError::NotExecutable { program } } else { SetupError::NotInPath { program } })
}

/// A regular file that the current user may execute.
fn check_executable(path: &Path) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
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
        assert_eq!(missing.message, "exec: \"/no/such\": stat /no/such: No such file or directory (os error 2)");
        let directory = find("/tmp", Path::new("/nowhere")).unwrap_err();
        assert_eq!(directory.kind, Kind::PermissionDenied);
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
        assert!(require("foo", &format!("{here}:")).is_ok());
    }

    #[test]
    fn home_comes_from_passwd() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:0::/root:/bin/sh\nodd\nweb:x:33:33:www:/var/www:/bin/false\n").unwrap();
        assert_eq!(home(file.path(), 33), "/var/www");
        assert_eq!(home(file.path(), 0), "/root");
        assert_eq!(home(file.path(), 7), "/");
        assert_eq!(complete_environment(&["HOME=/x".to_owned()], 0), ["HOME=/x"]);
    }
}
