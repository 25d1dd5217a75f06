//! The wall clock of a VM that was just restored.
//!
//! A time of day that is sent is late by as long as its way takes: microseconds on an idle host, a good part of a second
//! on one that is short of processors. The host sees how late, and sends it again until it was quick enough.

use std::time::Duration;

use agent_proto::{AgentClient, SetClockRequest};
use supermachine::realtime_ns;
use ttrpc::context::with_duration;

use super::QUICK_CALL;
use crate::error::ServiceError;

/// How far a VM's clock may be behind the host's.
const TOLERANCE: Duration = Duration::from_millis(20);
/// How often the time is sent again. A host on which all of these take too long has other troubles.
const ATTEMPTS: u32 = 10;

/// Sets the clock of a VM again which may be late, as its agent told the time in an answer that has just come.
pub(super) async fn correct(agent: &AgentClient, told_ns: u64) -> Result<(), ServiceError> {
    let mut late = since(told_ns);
    for _ in 0..ATTEMPTS {
        if late <= TOLERANCE {
            break;
        }
        let Ok(realtime_ns) = realtime_ns() else { break };
        let call = SetClockRequest { realtime_ns, ..Default::default() };
        let set = agent.set_clock(with_duration(QUICK_CALL), &call).await;
        set.map_err(|source| ServiceError::agent("set the clock", source))?;
        late = since(realtime_ns);
    }
    if late > TOLERANCE {
        let late_ms = late.as_millis();
        tracing::warn!(late_ms, "the VM's clock may be late: this host takes that long to carry the time to it");
    }
    Ok(())
}

/// How far the host's clock is from that time. One that is ahead is to hear the time again, too.
fn since(told_ns: u64) -> Duration {
    Duration::from_nanos(realtime_ns().unwrap_or(0).abs_diff(told_ns))
}
