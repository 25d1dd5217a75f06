//! Hooks: taken out of the specification, because they run on the host.

use oci_spec::runtime::{Hook, Spec};

use crate::bundle::BundleError;

/// Hooks by the moment they run at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HostHooks {
    /// `prestart` and `createRuntime`, at Create, once the VMM runs.
    pub(crate) create: Vec<Hook>,
    /// `poststart`, after Start.
    pub(crate) poststart: Vec<Hook>,
    /// `poststop`, after Delete.
    pub(crate) poststop: Vec<Hook>,
}

/// Takes the hooks. Those that the rules run inside the container are refused.
pub(super) fn take(spec: &mut Spec) -> Result<HostHooks, BundleError> {
    let Some(hooks) = spec.hooks_mut().take() else { return Ok(HostHooks::default()) };
    for (kind, list) in [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())] {
        if list.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(BundleError::GuestHook { kind });
        }
    }
    #[allow(deprecated, reason = "prestart is deprecated, and what older clients still write")]
    let prestart = hooks.prestart();
    let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
    Ok(HostHooks {
        create: [list(prestart), list(hooks.create_runtime())].concat(),
        poststart: list(hooks.poststart()),
        poststop: list(hooks.poststop()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hooks: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "hooks": hooks})).unwrap()
    }

    #[test]
    fn host_hooks_are_taken_in_order() {
        let mut spec = spec(&serde_json::json!({
            "createRuntime": [{"path": "/b"}], "prestart": [{"path": "/a"}], "poststop": [{"path": "/c"}]
        }));
        let hooks = take(&mut spec).unwrap();
        let paths = |hooks: &[Hook]| hooks.iter().map(|hook| hook.path().display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(&hooks.create), ["/a", "/b"]);
        assert_eq!(paths(&hooks.poststop), ["/c"]);
        assert!(hooks.poststart.is_empty() && spec.hooks().is_none());
    }

    #[test]
    fn guest_hooks_are_refused() {
        let error = take(&mut spec(&serde_json::json!({"startContainer": [{"path": "/x"}]}))).unwrap_err();
        assert!(matches!(error, BundleError::GuestHook { kind: "startContainer" }));
    }
}
