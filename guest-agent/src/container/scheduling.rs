//! How a process shares processors and disks: `scheduler`, `ioPriority` and `execCPUAffinity` of a spec's process.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use rustix::thread::CpuSet;

use super::error::{SetupError, Step};
use crate::sys::{Scheduling, set_io_priority, set_scheduling};

/// What of it one process asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SchedulingPlan {
    scheduling: Option<Scheduling>,
    /// Class and priority.
    io: Option<(u32, u32)>,
}

impl SchedulingPlan {
    /// Reads and checks a process.
    pub(crate) fn from_spec(process: &Process) -> Result<Self, SetupError> {
        Ok(Self {
            scheduling: process.scheduler().as_ref().map(scheduling).transpose()?,
            io: process.io_priority().as_ref().map(io_priority).transpose()?,
        })
    }

    /// What it doesn't ask for is as in `other`.
    pub(crate) fn or(self, other: &Self) -> Self {
        Self { scheduling: self.scheduling.or(other.scheduling), io: self.io.or(other.io) }
    }

    /// Makes it so for this process.
    pub(crate) fn apply(&self) -> Result<(), SetupError> {
        if let Some(scheduling) = &self.scheduling {
            set_scheduling(scheduling).step("set", "process.scheduler")?;
        }
        if let Some((class, priority)) = self.io {
            set_io_priority(class, priority).step("set", "process.ioPriority")?;
        }
        Ok(())
    }
}

/// Keeps this process on the processors that its spec names. It is in its container's cgroup from its birth on, so that
/// only the last of the lists counts.
pub(crate) fn keep_on_processors(process: &Process) -> Result<(), SetupError> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    let lists = [("final", affinity.cpu_affinity_final()), ("initial", affinity.initial())];
    let Some((name, list)) = lists.into_iter().find_map(|(name, list)| Some((name, list.as_deref()?))) else {
        return Ok(());
    };
    let field = format!("process.execCPUAffinity.{name}");
    let set = processors(list).ok_or_else(|| SetupError::spec(&field, format_args!("{list:?} is no list")))?;
    rustix::thread::sched_setaffinity(None, &set).step("set", field)
}

/// A list like `0-3,7`.
fn processors(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|processor| set.set(processor));
    }
    Some(set)
}

fn scheduling(spec: &Scheduler) -> Result<Scheduling, SetupError> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedOther, SchedRr};
    let refuse = |field: &str, reason: &str| Err(SetupError::spec(format!("process.scheduler{field}"), reason));
    let policy = *spec.policy();
    let nice = spec.nice().unwrap_or(0);
    let priority = spec.priority().unwrap_or(0);
    let times = [spec.runtime(), spec.deadline(), spec.period()].map(|time| time.unwrap_or(0));
    if matches!(policy, SchedOther | SchedBatch) && !(-20..20).contains(&nice) {
        return refuse(".nice", "isn't between -20 and 19");
    }
    if priority != 0 && !matches!(policy, SchedFifo | SchedRr) {
        return refuse(".priority", "is for SCHED_FIFO and SCHED_RR alone");
    }
    if times != [0; 3] && policy != SchedDeadline {
        return refuse("", "names times, which are for SCHED_DEADLINE alone");
    }
    let Ok(priority) = u32::try_from(priority) else { return refuse(".priority", "is negative") };
    let flags = spec.flags().iter().flatten().fold(0, |flags, flag| flags | flag_bit(*flag));
    let [runtime, deadline, period] = times;
    Ok(Scheduling { policy: policy_number(policy), flags, nice, priority, runtime, deadline, period })
}

/// The numbers of `linux/sched.h`.
fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    let bit = match flag {
        LinuxSchedulerFlag::SchedResetOnFork => libc::SCHED_FLAG_RESET_ON_FORK,
        LinuxSchedulerFlag::SchedFlagReclaim => libc::SCHED_FLAG_RECLAIM,
        LinuxSchedulerFlag::SchedFlagDLOverrun => libc::SCHED_FLAG_DL_OVERRUN,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => libc::SCHED_FLAG_KEEP_POLICY,
        LinuxSchedulerFlag::SchedFlagKeepParams => libc::SCHED_FLAG_KEEP_PARAMS,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => libc::SCHED_FLAG_UTIL_CLAMP_MIN,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => libc::SCHED_FLAG_UTIL_CLAMP_MAX,
    };
    bit.unsigned_abs().into()
}

fn io_priority(spec: &LinuxIOPriority) -> Result<(u32, u32), SetupError> {
    let class = match spec.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(spec.priority()).ok().filter(|priority| *priority < 8) {
        Some(priority) => Ok((class, priority)),
        None => Err(SetupError::spec("process.ioPriority.priority", "isn't between 0 and 7")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(field: &str, value: serde_json::Value) -> Result<SchedulingPlan, String> {
        let mut process = json!({"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        process[field] = value;
        let process: Process = serde_json::from_value(process).map_err(|error| error.to_string())?;
        SchedulingPlan::from_spec(&process).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_the_kernel_takes() {
        let plan = plan("scheduler", json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}));
        let expected = Scheduling { policy: 6, runtime: 1, deadline: 2, period: 3, ..Default::default() };
        assert_eq!(plan.unwrap().scheduling, Some(expected));
        let plan = super::tests::plan("ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7}));
        assert_eq!(plan.unwrap().io, Some((3, 7)));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        for (scheduler, field) in [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice:"),
            (json!({"policy": "SCHED_IDLE", "priority": 1}), "process.scheduler.priority:"),
            (json!({"policy": "SCHED_FIFO", "priority": -1}), "process.scheduler.priority:"),
            (json!({"policy": "SCHED_FIFO", "priority": 1, "period": 1}), "process.scheduler:"),
        ] {
            let error = plan("scheduler", scheduler).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
        let error = plan("ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 8})).unwrap_err();
        assert!(error.starts_with("process.ioPriority.priority:"), "{error}");
    }

    #[test]
    fn reads_lists_of_processors() {
        let set = processors("0-2,5").unwrap();
        assert_eq!((0..8).filter(|processor| set.is_set(*processor)).collect::<Vec<_>>(), [0, 1, 2, 5]);
        for list in ["", "x", "3-1", "1-", "99999"] {
            assert!(processors(list).is_none(), "{list}");
        }
    }
}
