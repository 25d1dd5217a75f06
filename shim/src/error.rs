//! What goes wrong in the Task service, and the code that containerd is told.

use cgroup_limits::UpdateError;
use thiserror::Error;
use ttrpc::{Code, get_status};

use crate::bundle::BundleError;
use crate::hooks::HookError;
use crate::host_cgroup::HostLimitError;
use crate::io::StdioError;
use crate::sandbox::SandboxError;
use crate::task::StateError;

/// A failed RPC.
#[derive(Debug, Error)]
pub(crate) enum ServiceError {
    /// Unknown container.
    #[error("task {id} not found")]
    NoTask {
        /// Its id.
        id: String,
    },
    /// Unknown exec.
    #[error("exec {exec_id} of task {id} not found")]
    NoExec {
        /// Container id.
        id: String,
        /// Exec id.
        exec_id: String,
    },
    /// The container exists.
    #[error("task {id} already exists")]
    TaskExists {
        /// Its id.
        id: String,
    },
    /// The exec exists.
    #[error("exec {exec_id} of task {id} already exists")]
    ExecExists {
        /// Container id.
        id: String,
        /// Exec id.
        exec_id: String,
    },
    /// An RPC that isn't there.
    #[error("{rpc} is not implemented")]
    Unimplemented {
        /// What was asked for.
        rpc: &'static str,
    },
    /// A required part of the request is missing.
    #[error("the request has no {field}")]
    MissingField {
        /// Its name.
        field: &'static str,
    },
    /// An object of a kind that the request can't have.
    #[error("the request has an object of type {type_url:?}, not {expected}")]
    UnknownType {
        /// Its kind.
        type_url: String,
        /// The kind it must be of.
        expected: &'static str,
    },
    /// Resources that can't be read.
    #[error("the request's resources")]
    Resources(#[source] serde_json::Error),
    /// Limits that the host can't set.
    #[error("limit the VM")]
    HostLimit(#[from] HostLimitError),
    /// An answer that can't be written.
    #[error("encode the answer")]
    Encode(#[source] containerd_shim_protos::protobuf::Error),
    /// The process's phase rules it out.
    #[error("{action} {process}")]
    State {
        /// What was asked for.
        action: &'static str,
        /// Of which process.
        process: String,
        /// What rules it out.
        #[source]
        source: StateError,
    },
    /// A signal to a process that has exited: nothing there to take it.
    #[error("process {process} has exited already")]
    Finished {
        /// The process.
        process: String,
    },
    /// The bundle can't be run.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// No VM.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// No stdio.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The agent refused a call.
    #[error("{call} in the VM: {message}")]
    Refused {
        /// What was asked of it.
        call: &'static str,
        /// The code it gave.
        code: Code,
        /// Its reason.
        message: String,
    },
    /// The agent did not answer.
    #[error("{call}: the VM does not answer")]
    Unreachable {
        /// What was asked of it.
        call: &'static str,
        /// What happened to the call.
        #[source]
        source: ttrpc::Error,
    },
    /// The VM ended meanwhile.
    #[error("{call}: the VM is gone: {how}")]
    Gone {
        /// What was asked of its agent.
        call: &'static str,
        /// How it ended, with the guest's last console lines.
        how: String,
    },
    /// A part of the shim failed that can't.
    #[error("the shim failed")]
    Internal(#[source] tokio::task::JoinError),
}

impl ServiceError {
    /// Sorts the failure of a call to the agent.
    pub(crate) fn agent(call: &'static str, source: ttrpc::Error) -> Self {
        match source {
            ttrpc::Error::RpcStatus(status) => {
                Self::Refused { call, code: status.code.enum_value_or(Code::UNKNOWN), message: status.message }
            }
            source => Self::Unreachable { call, source },
        }
    }

    /// The code that containerd is told.
    fn code(&self) -> Code {
        match self {
            Self::NoTask { .. } | Self::NoExec { .. } | Self::Finished { .. } => Code::NOT_FOUND,
            Self::TaskExists { .. } | Self::ExecExists { .. } => Code::ALREADY_EXISTS,
            Self::Unimplemented { .. } => Code::UNIMPLEMENTED,
            Self::MissingField { .. } | Self::UnknownType { .. } | Self::Resources(_) => Code::INVALID_ARGUMENT,
            Self::HostLimit(error) => host_limit_code(error),
            Self::State { source, .. } => state_code(*source),
            Self::Bundle(error) => bundle_code(error),
            Self::Sandbox(error) => sandbox_code(error),
            Self::Stdio(error) => stdio_code(error),
            Self::Hook(_) | Self::Encode(_) | Self::Internal(_) => Code::INTERNAL,
            // "Not found" means to containerd that the task is gone; here it is the program.
            Self::Refused { code: Code::NOT_FOUND, .. } => Code::INVALID_ARGUMENT,
            Self::Refused { code, .. } => *code,
            Self::Unreachable { .. } | Self::Gone { .. } => Code::UNAVAILABLE,
        }
    }
}

impl From<ServiceError> for ttrpc::Error {
    fn from(error: ServiceError) -> Self {
        Self::RpcStatus(get_status(error.code(), supermachine::chain(&error)))
    }
}

fn state_code(error: StateError) -> Code {
    match error {
        StateError::Started
        | StateError::NotStarted
        | StateError::NotRunning
        | StateError::Exited
        | StateError::Paused
        | StateError::NotPaused
        | StateError::Running => Code::FAILED_PRECONDITION,
        StateError::Deleted => Code::NOT_FOUND,
    }
}

fn bundle_code(error: &BundleError) -> Code {
    match error {
        BundleError::Read { .. }
        | BundleError::Parse { .. }
        | BundleError::Missing { .. }
        | BundleError::NoRootfs { .. }
        | BundleError::Adoption { .. }
        | BundleError::NoSource { .. } => Code::INVALID_ARGUMENT,
        BundleError::Images { .. } | BundleError::NeighbourEnded { .. } => Code::FAILED_PRECONDITION,
        BundleError::Propagation { .. }
        | BundleError::GuestHook { .. }
        | BundleError::HostNamespace { .. }
        | BundleError::HostNetwork
        | BundleError::AmbiguousNamespace { .. }
        | BundleError::OtherNetwork { .. } => Code::UNIMPLEMENTED,
        BundleError::Layer { .. } => Code::UNAVAILABLE,
        BundleError::Encode(_) => Code::INTERNAL,
    }
}

fn host_limit_code(error: &HostLimitError) -> Code {
    match error {
        HostLimitError::Limit(_) | HostLimitError::Update(UpdateError::Limit(_)) => Code::INVALID_ARGUMENT,
        HostLimitError::Update(UpdateError::InUse { .. }) | HostLimitError::NoCgroup { .. } => {
            Code::FAILED_PRECONDITION
        }
    }
}

fn sandbox_code(error: &SandboxError) -> Code {
    match error {
        SandboxError::Config(_) => Code::INVALID_ARGUMENT,
        SandboxError::Limit(error) => host_limit_code(error),
        SandboxError::Machine(error) => kind_code(error.kind()),
        SandboxError::Start(error) => kind_code(error.kind()),
        SandboxError::Attach(error) => kind_code(error.kind()),
        SandboxError::Network(error) => kind_code(error.kind()),
        SandboxError::Volume(error) => kind_code(error.kind()),
        SandboxError::Device(error) => kind_code(error.kind()),
        SandboxError::Disk(error) => kind_code(error.kind()),
        SandboxError::Export(error) => kind_code(error.kind()),
        SandboxError::Import(error) => kind_code(error.kind()),
        SandboxError::Upper { .. } | SandboxError::Cgroup { .. } | SandboxError::InUse { .. } => {
            Code::FAILED_PRECONDITION
        }
        SandboxError::Tree(_) => Code::FAILED_PRECONDITION,
        SandboxError::Writable(_) => Code::INTERNAL,
        SandboxError::Stream(_) | SandboxError::Gone => Code::UNAVAILABLE,
    }
}

fn kind_code(kind: supermachine::ErrorKind) -> Code {
    use supermachine::ErrorKind;
    match kind {
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        // As above: the task isn't what is missing.
        ErrorKind::NotFound => Code::FAILED_PRECONDITION,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::Internal => Code::INTERNAL,
    }
}

fn stdio_code(error: &StdioError) -> Code {
    match error {
        StdioError::UnknownTarget { .. } => Code::INVALID_ARGUMENT,
        StdioError::Fifo { .. } | StdioError::File { .. } | StdioError::Logger { .. } => Code::FAILED_PRECONDITION,
        StdioError::Stream(error) => sandbox_code(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages_reach_the_wire() {
        let status = |error: ServiceError| match ttrpc::Error::from(error) {
            ttrpc::Error::RpcStatus(status) => (status.code.unwrap(), status.message),
            other => panic!("not a status: {other}"),
        };
        let (code, message) =
            status(ServiceError::State { action: "delete", process: "c1".into(), source: StateError::Running });
        assert_eq!(code, Code::FAILED_PRECONDITION);
        assert_eq!(message, "delete c1: the process is running: stop it first");
        let (code, _) = status(ServiceError::Finished { process: "c1".into() });
        assert_eq!(code, Code::NOT_FOUND);
        let missing = ttrpc::Error::RpcStatus(get_status(Code::NOT_FOUND, "no such program: x"));
        let (code, message) = status(ServiceError::agent("start", missing));
        assert_eq!((code, message.as_str()), (Code::INVALID_ARGUMENT, "start in the VM: no such program: x"));
        let (_, message) = status(ServiceError::from(SandboxError::Gone));
        assert_eq!(message, "the VM is gone", "what a transparent error and its source say is said once");
        let (code, _) = status(ServiceError::Unimplemented { rpc: "Checkpoint" });
        assert_eq!(code, Code::UNIMPLEMENTED);
    }
}
