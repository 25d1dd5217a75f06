//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use supermachine_config::Bytes;

/// Shows what supermachine has on this host, and keeps it in order.
#[derive(Debug, Parser)]
#[command(name = "supermachine", version, max_term_width = 120)]
pub(crate) struct Arguments {
    /// Configuration file [default: /etc/supermachine/config.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists bakes, and machines that run
    Ls(Format),
    /// Tells all that is known of a bake or of a running machine
    Inspect {
        /// The beginning of a bake's key, or a machine's ID or NAMESPACE/ID
        #[arg(value_name = "KEY|ID")]
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Removes bakes that no machine runs from
    Rm {
        /// The beginnings of their keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Removes bakes that don't fit this host any more
    Prune {
        /// Removes those that fit as well, unless a machine runs from them
        #[arg(long)]
        all: bool,
        /// Only tells what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Tells what takes how much of the disk
    Df(Format),
    /// Makes the bake of an image now, or the base bake of a machine
    Bake(Bake),
    /// Tells where the time went when a running machine was started
    Trace {
        /// Its ID or NAMESPACE/ID
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// Prints figures for a monitoring system, in the text format of Prometheus
    Metrics,
    /// Looks for what keeps containers from running here, and says what to do; changes nothing
    Doctor(Format),
    /// Prints a script that completes commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes manual pages
    Man {
        /// An existing directory for them
        directory: PathBuf,
    },
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Bake {
    /// An image that containerd has unpacked for our snapshotter; without one, the base bake is made
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// containerd's namespace
    #[arg(long, value_name = "NAME", default_value = "default", requires = "image", env = "CONTAINERD_NAMESPACE")]
    pub(crate) namespace: String,
    /// containerd's socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock",
        requires = "image",
        env = "CONTAINERD_ADDRESS"
    )]
    pub(crate) address: PathBuf,
    /// A program that containers of the image are likely to run, instead of the image's own; may be repeated
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    pub(crate) cmd: Vec<String>,
    /// Guest memory, in bytes or as 256M, instead of the configured
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Virtual CPUs of such a machine, instead of the configured; one bake is for 1 to 8, another for more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) vcpus: Option<u8>,
    /// Makes it anew if it is there already
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_is_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_options_of_each_are_read() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        let bake = parse("supermachine bake debian --namespace k8s.io --cmd /bin/a --cmd b").unwrap().command;
        let Command::Bake(bake) = bake else { panic!("{bake:?}") };
        assert_eq!((bake.image.as_deref(), bake.namespace.as_str()), (Some("debian"), "k8s.io"));
        assert_eq!(bake.cmd, ["/bin/a", "b"]);
        let bake = parse("supermachine bake --memory 256M --vcpus 2 --force --json").unwrap().command;
        let Command::Bake(bake) = bake else { panic!("{bake:?}") };
        assert_eq!((bake.memory, bake.vcpus), (Some(Bytes::mebibytes(256)), Some(2)));
        assert!(bake.force && bake.format.json);
        assert!(parse("supermachine ls --config /etc/other.toml").unwrap().config.is_some());
        for line in [
            "",
            "rm",
            "trace",
            "bake --memory lots",
            "bake --vcpus 0",
            "bake --cmd sh",
            "completions klingon",
            "nonsense",
        ] {
            let error = parse(&format!("supermachine {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
