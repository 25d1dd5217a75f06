//! What a start would have liked to be restored from.

use supermachine::daemon::RequestBakeRequest;
use supermachine::{Level, Machine, Mode, RootDisks, Warmth};

use super::Launch;

/// The annotation whose value `false` leaves it to somebody else to make a bake that is missing.
const AUTOMATIC: &str = "io.supermachine.bake.automatic";

/// Whether a bake that is missing is asked for.
pub(super) fn is_automatic(annotations: &[(String, String)]) -> bool {
    !annotations.iter().any(|(name, value)| name == AUTOMATIC && value == "false")
}

/// The bake that was missing when a VM was started, if one was.
pub(super) fn wanted_bake(
    mode: Mode,
    machine: &Machine,
    root: &RootDisks,
    launch: &Launch,
    warmth: &Warmth,
) -> Option<RequestBakeRequest> {
    let container = match warmth {
        Warmth::Wanted(container) => serde_json::to_string(container).unwrap_or_default(),
        Warmth::Unwanted | Warmth::Impossible(_) => String::new(),
    };
    let is_missing = match mode {
        Mode::Cold => true,
        Mode::Restored(Level::Base) => !root.layers.is_empty(),
        Mode::Restored(Level::Image) => !container.is_empty(),
        Mode::Restored(Level::Warm) => false,
    };
    let shape = machine.shape();
    is_missing.then(|| RequestBakeRequest {
        memory_bytes: shape.memory_bytes,
        vcpus: shape.vcpus.into(),
        layers: root.layers.iter().map(|path| path.display().to_string()).collect(),
        programs: launch.program.iter().cloned().collect(),
        container,
        ..Default::default()
    })
}

/// What of that is possible: containers of a group share what a warm bake has for one, and what the host has written for the
/// container isn't in one.
pub(super) fn possible(wanted: &Warmth, is_of_group: bool, has_files: bool) -> Warmth {
    match wanted {
        Warmth::Wanted(_) if is_of_group => Warmth::Impossible("the container is of a pod".to_owned()),
        Warmth::Wanted(_) if has_files => Warmth::Impossible("the host has written files for it".to_owned()),
        other => other.clone(),
    }
}
