//! Shutdown: ends the daemon, if it has nothing left to do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use containerd_shim_protos::api::Empty;
use tokio::time::timeout;
use tracing::warn;

use super::Service;

/// containerd waits 3 seconds for a shim to go.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const VM_TIMEOUT: Duration = Duration::from_millis(500);

impl Service {
    /// While tasks exist nothing happens now: the wish is remembered until the last of them is deleted.
    pub(super) async fn run_shutdown(&self) -> Empty {
        self.shared.shutdown_wanted.store(true, Ordering::SeqCst);
        self.end_if_idle();
        Empty::default()
    }

    /// What is still under way when the daemon ends: events not yet taken, VMs not yet gone. Bounded.
    pub(crate) async fn finish(&self) {
        let vms = async {
            if timeout(VM_TIMEOUT, self.shared.tasks.ended()).await.is_err() {
                warn!("a VM takes longer than {VM_TIMEOUT:?} to end: leaving it to its monitor");
            }
        };
        tokio::join!(self.shared.publisher.flush(FLUSH_TIMEOUT), vms);
    }
}
