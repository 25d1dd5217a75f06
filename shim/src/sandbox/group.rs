//! Groups of containers: they share a shim and a virtual machine. A pod is one.

/// Annotations whose value, when present, names the group of a container; first wins.
const ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The group that a container's annotations name.
pub(crate) fn group_of<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
    ANNOTATIONS.iter().find_map(|name| annotation(name)).filter(|group| !group.is_empty())
}
