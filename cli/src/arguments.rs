//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use supermachine_config::Bytes;

use crate::extra_files::ExtraFile;

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
    Bake(Box<Bake>),
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
    /// An image that containerd has unpacked for our snapshotter, or an OCI archive (`./FILE`) or layout (`./DIRECTORY`)
    /// that nerdctl loads; without one, the base bake is made
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// containerd's namespace
    #[arg(long, value_name = "NAME", default_value = "default", env = "CONTAINERD_NAMESPACE")]
    pub(crate) namespace: String,
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock", env = "CONTAINERD_ADDRESS")]
    pub(crate) address: PathBuf,
    /// A program that containers of the image are likely to run, instead of the image's own; may be repeated. With
    /// --warm, a word of the container's command
    #[arg(long, value_name = "PROGRAM", requires = "image", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// Puts a file or directory of the host into the image, which then is another one: --tag names it; may be repeated
    #[arg(long, value_name = "HOST:GUEST", requires = "image", requires = "tag")]
    pub(crate) extra_file: Vec<ExtraFile>,
    /// The name of the image with further files
    #[arg(long, value_name = "NAME", requires = "extra_file")]
    pub(crate) tag: Option<String>,
    /// Guest memory, in bytes or as 256M, instead of the configured
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Virtual CPUs of such a machine, instead of the configured; one bake is for 1 to 8, another for more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) vcpus: Option<u8>,
    /// Makes it anew if it is there already
    #[arg(long)]
    pub(crate) force: bool,
    /// Makes the bake that the start of this container has missed: its ID or NAMESPACE/ID
    #[arg(long, value_name = "ID", conflicts_with_all = ["image", "memory", "vcpus"])]
    pub(crate) like: Option<String>,
    #[command(flatten)]
    pub(crate) warm: Warm,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A bake of a container that runs, which nerdctl starts and removes to learn what one of the image is.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("readiness").multiple(true)))]
pub(crate) struct Warm {
    /// Makes the bake of a container that runs already
    #[arg(long, requires = "image", requires = "readiness")]
    pub(crate) warm: bool,
    /// It is ready when it listens on this TCP port
    #[arg(long, value_name = "N", requires = "warm", group = "readiness", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// It is ready when it has written this text
    #[arg(long, value_name = "TEXT", requires = "warm", group = "readiness")]
    pub(crate) ready_output: Option<String>,
    /// It is ready when this command, run in it, exits with 0: a line for its shell, or an array in JSON
    #[arg(long, value_name = "COMMAND", requires = "warm", group = "readiness")]
    pub(crate) ready_command: Option<String>,
    /// Run in it when it is ready, before it is captured
    #[arg(long, value_name = "COMMAND", requires = "warm")]
    pub(crate) warm_up: Option<String>,
    /// A variable of its environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "warm")]
    pub(crate) env: Vec<String>,
    /// Further options for `nerdctl run`, as containers that are to be restored from it will have
    #[arg(last = true, value_name = "OPTION", requires = "warm", allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
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
        let bake = parse("supermachine bake nginx --warm --port 80 --cmd nginx --cmd -g -- --user 33").unwrap().command;
        let Command::Bake(bake) = bake else { panic!("{bake:?}") };
        let Bake { cmd, warm, .. } = *bake;
        assert_eq!((warm.warm, warm.port), (true, Some(80)));
        assert_eq!((cmd.join(" "), warm.options.join(" ")), ("nginx -g".to_owned(), "--user 33".to_owned()));
        let bake = parse("supermachine bake web --extra-file a:/b --extra-file c:/d --tag more").unwrap().command;
        let Command::Bake(bake) = bake else { panic!("{bake:?}") };
        assert_eq!((bake.extra_file.len(), bake.tag.as_deref()), (2, Some("more")));
        for line in ["web --extra-file a:/b", "--extra-file a:/b --tag t", "web --tag t", "web --extra-file a --tag t"]
        {
            assert!(parse(&format!("supermachine bake {line}")).is_err(), "{line}");
        }
        for line in ["--warm --port 80", "nginx --warm", "nginx --port 80", "--like web nginx", "nginx -- --user 33"] {
            assert!(parse(&format!("supermachine bake {line}")).is_err(), "{line}");
        }
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
