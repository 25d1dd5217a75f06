//! What only a client of containerd does: loading images, and making containers as its users have them.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::arguments::Bake;
use crate::table::clean;

const PROGRAM: &str = "nerdctl";
const SNAPSHOTTER: &str = "supermachine";
const RUNTIME: &str = "io.containerd.supermachine.v2";
/// How it tells of an image that it has loaded.
const LOADED: &str = "Loaded image: ";

/// nerdctl doesn't do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NerdctlError {
    /// It can't be run.
    #[error("cannot run {program}; put it on the path")]
    Run {
        /// The program.
        program: &'static str,
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("nerdctl could not {action}: {message}")]
    Failed {
        /// What it was to do.
        action: &'static str,
        /// What it said.
        message: String,
    },
    /// An archive without an image in it.
    #[error("nerdctl found no image in {}; is it an OCI archive or layout?", path.display())]
    NoImage {
        /// The archive.
        path: PathBuf,
    },
}

/// One of containerd's namespaces, as nerdctl sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nerdctl<'a> {
    pub(crate) address: &'a Path,
    pub(crate) namespace: &'a str,
}

impl Nerdctl<'_> {
    /// Starts a container. Answers its id.
    pub(crate) async fn run(self, name: &str, options: &[String]) -> Result<String, NerdctlError> {
        let mut command = self.command();
        command.args(["run", "--detach", "--name", name]).args(options);
        Ok(text(&finish("start a container of the image", &mut command).await?.stdout).trim().to_owned())
    }

    /// Removes a container, if it is there.
    pub(crate) async fn remove(self, name: &str) -> Result<(), NerdctlError> {
        finish("remove the container", self.command().args(["rm", "--force", name])).await.map(drop)
    }

    /// Loads the image of an OCI archive, or of a directory with an OCI layout. Answers its full name.
    pub(crate) async fn load(self, path: &Path) -> Result<String, NerdctlError> {
        let mut command = self.command();
        command.args(["--snapshotter", SNAPSHOTTER, "load"]);
        let output = if path.is_dir() {
            let mut archiver = Command::new("tar");
            archiver.args([OsStr::new("-C"), path.as_os_str()]).args(["-cf", "-", "."]).stdout(Stdio::piped());
            let archiver = archiver.kill_on_drop(true).spawn();
            let mut archiver = archiver.map_err(|source| NerdctlError::Run { program: "tar", source })?;
            let archive: Option<Stdio> = archiver.stdout.take().and_then(|archive| archive.try_into().ok());
            finish("load the image", command.stdin(archive.unwrap_or_else(Stdio::null))).await?
        } else {
            finish("load the image", command.arg("--input").arg(path)).await?
        };
        loaded(&text(&output.stdout)).ok_or_else(|| NerdctlError::NoImage { path: path.to_owned() })
    }

    fn command(self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--address").arg(self.address).args(["--namespace", self.namespace]).stdin(Stdio::null());
        command
    }
}

/// The options and arguments of `nerdctl run` for a container that is to be restored as it runs.
pub(crate) fn warm_container(options: &Bake, image: &str) -> Vec<String> {
    let warm = &options.warm;
    let mut all = ["--snapshotter", SNAPSHOTTER, "--runtime", RUNTIME].map(str::to_owned).to_vec();
    let annotations = [
        ("bake", Some("warm".to_owned())),
        ("bake.ready-port", warm.port.map(|port| port.to_string())),
        ("bake.ready-output", warm.ready_output.clone()),
        ("bake.ready-command", warm.ready_command.clone()),
        ("bake.warm-up", warm.warm_up.clone()),
        ("config.vm.memory", options.memory.map(|memory| memory.0.to_string())),
        ("config.vm.vcpus", options.vcpus.map(|vcpus| vcpus.to_string())),
    ];
    for (name, value) in annotations {
        let annotation = value.map(|value| ["--annotation".to_owned(), format!("io.supermachine.{name}={value}")]);
        all.extend(annotation.into_iter().flatten());
    }
    all.extend(warm.env.iter().flat_map(|variable| ["--env".to_owned(), variable.clone()]));
    all.extend(warm.options.iter().cloned());
    all.push(image.to_owned());
    all.extend(options.cmd.iter().cloned());
    all
}

/// Runs it to its end.
async fn finish(action: &'static str, command: &mut Command) -> Result<Output, NerdctlError> {
    let output = command.kill_on_drop(true).output().await;
    let output = output.map_err(|source| NerdctlError::Run { program: PROGRAM, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = text(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(NerdctlError::Failed { action, message: clean(last) })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn loaded(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.trim().strip_prefix(LOADED)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command as Parsed};

    #[test]
    fn a_container_is_made_as_its_bake_is_asked_for() {
        let line = "supermachine bake web --warm --port 80 --env A=B --memory 64M --cmd run --cmd it -- --user 33";
        let Parsed::Bake(options) = Arguments::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line}")
        };
        let expected = "--snapshotter supermachine --runtime io.containerd.supermachine.v2 \
            --annotation io.supermachine.bake=warm --annotation io.supermachine.bake.ready-port=80 \
            --annotation io.supermachine.config.vm.memory=67108864 --env A=B --user 33 web:1 run it";
        assert_eq!(warm_container(&options, "web:1").join(" "), expected);
    }

    #[test]
    fn the_name_of_a_loaded_image_is_found() {
        let said = "unpacking docker.io/library/web:1 (sha256:00)...\nLoaded image: docker.io/library/web:1\n";
        assert_eq!(loaded(said).as_deref(), Some("docker.io/library/web:1"));
        assert_eq!(loaded("unpacking"), None);
    }
}
