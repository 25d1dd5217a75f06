//! What `start` is told, by any containerd since 1.7, and the form of reply that this containerd understands.
//!
//! containerd 2.3 writes `BootstrapParams` to standard input and reads a `BootstrapResult`. Older ones write the
//! runtime options (`Any`) or nothing, pass the rest as flags and environment, and read JSON; 1.7 refuses a version
//! above 2 and can't be told from 2.0-2.2, so all of them get version 2.

use std::path::PathBuf;

use containerd_shim::Flags;
use containerd_shim::bootstrap::any_is;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Enum as _, Message as _};
use containerd_shim_protos::shim::oci::Options;

const DEFAULT_SOCKET_DIR: &str = "/run/containerd/s";

/// The form in which this containerd reads a shim's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `BootstrapResult`, Task service version 3.
    Message,
    /// JSON, Task service version 2.
    Json,
}

impl Reply {
    /// Encodes the answer to `start`.
    pub(super) fn encode(self, address: &str) -> Result<Vec<u8>, protobuf::Error> {
        match self {
            Self::Message => {
                BootstrapResult { version: 3, address: address.into(), protocol: "ttrpc".into(), ..Default::default() }
                    .write_to_bytes()
            }
            // An address is a path of hexadecimal digits below a directory that containerd named: `{:?}` quotes it as
            // JSON does for every path without control characters.
            Self::Json => Ok(format!(r#"{{"version":2,"address":{address:?},"protocol":"ttrpc"}}"#).into_bytes()),
        }
    }
}

/// Everything `start` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartParams {
    pub(super) namespace: String,
    pub(super) id: String,
    /// containerd's gRPC address: part of the socket's name.
    pub(super) grpc_address: String,
    /// Where events go.
    pub(super) ttrpc_address: String,
    pub(super) socket_dir: PathBuf,
    pub(super) debug: bool,
    /// Host cgroup of the shim, from runc's option of the same name; empty for none.
    pub(super) shim_cgroup: String,
    pub(super) reply: Reply,
}

/// The part of the environment that matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) grpc_address: String,
    pub(super) ttrpc_address: String,
}

impl Environment {
    pub(super) fn read() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self { grpc_address: variable("GRPC_ADDRESS"), ttrpc_address: variable("TTRPC_ADDRESS") }
    }
}

impl StartParams {
    /// Combines standard input, flags and environment.
    pub(super) fn resolve(input: &[u8], flags: &Flags, environment: Environment) -> Self {
        let params = decode(input, flags);
        let reply = if params.is_some() { Reply::Message } else { Reply::Json };
        let params = params.unwrap_or_default();
        let options = match reply {
            Reply::Message => {
                params.extensions.iter().filter_map(|e| e.value.as_ref()).find(|any| any_is::<Options>(any)).cloned()
            }
            Reply::Json => Any::parse_from_bytes(input).ok().filter(any_is::<Options>),
        };
        let options = options.and_then(|any| Options::parse_from_bytes(&any.value).ok()).unwrap_or_default();
        Self {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            grpc_address: first([params.containerd_grpc_address, flags.address.clone(), environment.grpc_address]),
            ttrpc_address: first([params.containerd_ttrpc_address, environment.ttrpc_address]),
            socket_dir: first([params.socket_dir.unwrap_or_default(), DEFAULT_SOCKET_DIR.to_owned()]).into(),
            debug: flags.debug
                || (reply == Reply::Message && params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG.value()),
            shim_cgroup: options.shim_cgroup,
            reply,
        }
    }
}

/// Runtime options decode as `BootstrapParams` too (the type's name as id), so the identity decides.
fn decode(input: &[u8], flags: &Flags) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    (!input.is_empty() && params.instance_id == flags.id && params.namespace == flags.namespace).then_some(params)
}

fn first<const N: usize>(candidates: [String; N]) -> String {
    candidates.into_iter().find(|value| !value.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn flags() -> Flags {
        Flags { id: "c1".into(), namespace: "ns".into(), address: "/run/c.sock".into(), ..Default::default() }
    }

    fn environment() -> Environment {
        Environment { grpc_address: "/env.sock".into(), ttrpc_address: "/env.sock.ttrpc".into() }
    }

    fn options() -> Any {
        let options = Options { shim_cgroup: "/shims".into(), ..Default::default() };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Default::default()
        }
    }

    #[test]
    fn bootstrap_params_are_answered_with_a_message() {
        let input = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            containerd_grpc_address: "/other.sock".into(),
            containerd_ttrpc_address: "/other.sock.ttrpc".into(),
            socket_dir: Some("/sockets".into()),
            extensions: vec![Extension { value: Some(options()).into(), ..Default::default() }],
            ..Default::default()
        };
        let params = StartParams::resolve(&input.write_to_bytes().unwrap(), &flags(), environment());
        assert_eq!(params.reply, Reply::Message);
        assert_eq!(params.grpc_address, "/other.sock");
        assert_eq!(params.ttrpc_address, "/other.sock.ttrpc");
        assert_eq!(params.socket_dir, PathBuf::from("/sockets"));
        assert_eq!(params.shim_cgroup, "/shims");
        let reply = BootstrapResult::parse_from_bytes(&params.reply.encode("unix:///s/1").unwrap()).unwrap();
        assert_eq!((reply.version, reply.address.as_str(), reply.protocol.as_str()), (3, "unix:///s/1", "ttrpc"));
    }

    #[test]
    fn missing_addresses_come_from_flags_and_environment() {
        let input = BootstrapParams { instance_id: "c1".into(), namespace: "ns".into(), ..Default::default() };
        let params = StartParams::resolve(&input.write_to_bytes().unwrap(), &flags(), environment());
        assert_eq!(params.reply, Reply::Message);
        assert_eq!(params.grpc_address, "/run/c.sock");
        assert_eq!(params.ttrpc_address, "/env.sock.ttrpc");
        assert_eq!(params.socket_dir, PathBuf::from(DEFAULT_SOCKET_DIR));
    }

    #[test]
    fn runtime_options_are_not_taken_for_bootstrap_params() {
        let params = StartParams::resolve(&options().write_to_bytes().unwrap(), &flags(), environment());
        assert_eq!(params.reply, Reply::Json);
        assert_eq!(params.shim_cgroup, "/shims");
        assert!(!params.debug);
    }

    #[test]
    fn empty_and_foreign_input_is_answered_in_json() {
        for input in [&b""[..], &[0xff, 0xfe, 1]] {
            let params = StartParams::resolve(input, &flags(), environment());
            let reply: serde_json::Value =
                serde_json::from_slice(&params.reply.encode("unix:///s/1").unwrap()).unwrap();
            assert_eq!(reply, serde_json::json!({"version": 2, "address": "unix:///s/1", "protocol": "ttrpc"}));
        }
    }
}
