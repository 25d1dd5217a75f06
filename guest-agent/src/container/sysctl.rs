//! Kernel parameters (`linux.sysctl`): which a container may have of its own, and where they are.

use std::path::{Path, PathBuf};

use super::error::SetupError;

/// The kind of namespace that keeps a parameter apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    Network,
    Ipc,
    Uts,
    /// It is the whole kernel's.
    Nobody,
}

/// Parameters of `kernel` that belong to an ipc namespace.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Which kind of namespace keeps the parameter apart.
pub(crate) fn keeper(key: &str) -> Result<Keeper, SetupError> {
    let path = path(key)?;
    if path == Path::new("kernel/hostname") {
        let reason = "is what `hostname` is for";
        return Err(SetupError::spec(format!("linux.sysctl[{key:?}]"), reason));
    }
    Ok(if path.starts_with("net") {
        Keeper::Network
    } else if path.starts_with("fs/mqueue") || IPC.iter().any(|name| path == Path::new("kernel").join(name)) {
        Keeper::Ipc
    } else if path == Path::new("kernel/domainname") {
        Keeper::Uts
    } else {
        Keeper::Nobody
    })
}

/// The path of a kernel parameter below `/proc/sys`. In the dotted form a slash stands for a dot in a name.
pub(crate) fn path(key: &str) -> Result<PathBuf, SetupError> {
    let dotted = key.find(['.', '/']).is_some_and(|at| key.as_bytes().get(at) == Some(&b'.'));
    let path: String = if dotted {
        key.chars()
            .map(|character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    } else {
        key.to_owned()
    };
    let plain = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        Ok(PathBuf::from(path))
    } else {
        Err(SetupError::spec(format!("linux.sysctl[{key:?}]"), "is no parameter name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_name_are_read() {
        for key in ["net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"] {
            assert_eq!(path(key).unwrap(), Path::new("net/ipv4/conf/eth0.1/rp_filter"));
        }
        for key in ["", "net/../vm", "net..ipv4", "/etc/passwd"] {
            assert!(path(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn knows_whose_a_parameter_is() {
        assert_eq!(keeper("net.ipv4.ip_forward").unwrap(), Keeper::Network);
        assert_eq!(keeper("kernel.shmmax").unwrap(), Keeper::Ipc);
        assert_eq!(keeper("fs.mqueue.msg_max").unwrap(), Keeper::Ipc);
        assert_eq!(keeper("kernel.domainname").unwrap(), Keeper::Uts);
        assert_eq!(keeper("vm.swappiness").unwrap(), Keeper::Nobody);
        assert!(keeper("kernel.hostname").is_err());
    }
}
