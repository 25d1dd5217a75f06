//! A container's figures in the message that containerd reads them from: `io.containerd.cgroups.v2.Metrics`.
//!
//! They are the guest's word. Numbers may be wrong; that they are numbers, and how many entries come along, is seen to
//! here.

use agent_proto::pressure::Share;
use agent_proto::{ContainerStats, CpuStat, HugetlbStat, IoStat, MemoryEvents, MemoryStat, PidsStat, Pressure};
use containerd_shim_protos::cgroups_v2::metrics as containerd;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageFull as _, Result};

/// Most block devices, and most sizes of huge pages, that are passed on: a guest has a handful.
const MAX_ENTRIES: usize = 64;
/// Longest name of a size.
const MAX_NAME_BYTES: usize = 16;

/// A message with fields of the same names.
macro_rules! same {
    ($message:ident, $from:expr, [$($name:ident)*]) => {
        containerd::$message { $($name: $from.$name,)* ..Default::default() }
    };
}

/// Puts figures into the envelope that Stats answers with.
pub(crate) fn encode(stats: ContainerStats) -> Result<Any> {
    let metrics = metrics(stats);
    Ok(Any {
        // Without the host part that others' names have.
        type_url: containerd::Metrics::descriptor().full_name().to_owned(),
        value: metrics.write_to_bytes()?,
        ..Default::default()
    })
}

/// Every part is there, also if the guest left it out: its readers don't ask.
fn metrics(stats: ContainerStats) -> containerd::Metrics {
    containerd::Metrics {
        pids: Some(pids(&stats.pids.unwrap_or_default())).into(),
        cpu: Some(cpu(&stats.cpu.unwrap_or_default())).into(),
        memory: Some(memory(&stats.memory.unwrap_or_default())).into(),
        // No guest has such a device.
        rdma: Some(containerd::RdmaStat::default()).into(),
        io: Some(io(&stats.io.unwrap_or_default())).into(),
        hugetlb: stats
            .hugetlb
            .iter()
            .filter(|pages| is_size(&pages.page_size))
            .take(MAX_ENTRIES)
            .map(hugetlb)
            .collect(),
        memory_events: Some(memory_events(&stats.memory_events.unwrap_or_default())).into(),
        ..Default::default()
    }
}

fn pids(stat: &PidsStat) -> containerd::PidsStat {
    same!(PidsStat, stat, [current limit])
}

fn cpu(stat: &CpuStat) -> containerd::CPUStat {
    let figures = same!(CPUStat, stat, [
        usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec
    ]);
    containerd::CPUStat { psi: pressure(stat.pressure.as_ref()).into(), ..figures }
}

fn memory(stat: &MemoryStat) -> containerd::MemoryStat {
    let figures = same!(MemoryStat, stat, [
        usage usage_limit max_usage swap_usage swap_limit swap_max_usage
        anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp
        inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable
        pgfault pgmajfault workingset_refault workingset_activate workingset_nodereclaim
        pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc
    ]);
    containerd::MemoryStat { psi: pressure(stat.pressure.as_ref()).into(), ..figures }
}

fn memory_events(stat: &MemoryEvents) -> containerd::MemoryEvents {
    same!(MemoryEvents, stat, [low high max oom oom_kill oom_group_kill])
}

fn io(stat: &IoStat) -> containerd::IOStat {
    let device = |device: &agent_proto::io_stat::Device| same!(IOEntry, device, [major minor rbytes wbytes rios wios]);
    containerd::IOStat {
        usage: stat.usage.iter().take(MAX_ENTRIES).map(device).collect(),
        psi: pressure(stat.pressure.as_ref()).into(),
        ..Default::default()
    }
}

fn hugetlb(stat: &HugetlbStat) -> containerd::HugeTlbStat {
    containerd::HugeTlbStat { pagesize: stat.page_size.clone(), ..same!(HugeTlbStat, stat, [current max failcnt]) }
}

/// Such as "2MB". It becomes part of names in others' metrics.
fn is_size(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn pressure(pressure: Option<&Pressure>) -> Option<containerd::PSIStats> {
    let Pressure { some, full, .. } = pressure?;
    let share = |of: Option<&Share>| of.map(share).into();
    Some(containerd::PSIStats { some: share(some.as_ref()), full: share(full.as_ref()), ..Default::default() })
}

fn share(share: &Share) -> containerd::PSIData {
    // Clamped, what is no number would stay none.
    let percent = |value: f64| if value.is_nan() { 0.0 } else { value.clamp(0.0, 100.0) };
    containerd::PSIData {
        avg10: percent(share.avg10),
        avg60: percent(share.avg60),
        avg300: percent(share.avg300),
        total: share.total,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use agent_proto::io_stat::Device;

    use super::*;

    fn decoded(stats: ContainerStats) -> containerd::Metrics {
        let any = encode(stats).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        containerd::Metrics::parse_from_bytes(&any.value).unwrap()
    }

    #[test]
    fn figures_arrive_under_their_names() {
        let share = Share { avg10: 1.5, total: 7, ..Default::default() };
        let pressure = Pressure { some: Some(share).into(), ..Default::default() };
        let stats = ContainerStats {
            pids: Some(PidsStat { current: 1, limit: u64::MAX, ..Default::default() }).into(),
            cpu: Some(CpuStat { usage_usec: 2, burst_usec: 3, pressure: Some(pressure).into(), ..Default::default() })
                .into(),
            memory: Some(MemoryStat { usage: 4, usage_limit: 5, inactive_file: 6, ..Default::default() }).into(),
            memory_events: Some(MemoryEvents { oom: 7, oom_kill: 8, ..Default::default() }).into(),
            io: Some(IoStat {
                usage: vec![Device { major: 254, wios: 9, ..Default::default() }],
                ..Default::default()
            })
            .into(),
            hugetlb: vec![HugetlbStat { page_size: "2MB".into(), max: 10, ..Default::default() }],
            ..Default::default()
        };
        let metrics = decoded(stats);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (1, u64::MAX));
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.burst_usec), (2, 3));
        assert_eq!(
            (metrics.cpu.psi.some.avg10, metrics.cpu.psi.some.total, metrics.cpu.psi.full.is_none()),
            (1.5, 7, true)
        );
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.inactive_file), (4, 5, 6));
        assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (7, 8));
        assert_eq!((metrics.io.usage[0].major, metrics.io.usage[0].wios), (254, 9));
        assert_eq!((metrics.hugetlb[0].pagesize.as_str(), metrics.hugetlb[0].max), ("2MB", 10));
    }

    #[test]
    fn what_a_guest_leaves_out_or_overdoes_is_put_right() {
        let metrics = decoded(ContainerStats::default());
        assert!(metrics.pids.is_some() && metrics.cpu.is_some() && metrics.memory.is_some() && metrics.io.is_some());
        assert!(metrics.memory_events.is_some() && metrics.rdma.is_some());
        let share = Share { avg10: f64::NAN, avg60: f64::NEG_INFINITY, avg300: 1e9, ..Default::default() };
        let pressure = Pressure { full: Some(share).into(), ..Default::default() };
        let page = |name: &str| HugetlbStat { page_size: name.to_owned(), ..Default::default() };
        let stats = ContainerStats {
            io: Some(IoStat {
                usage: vec![Device::default(); 10_000],
                pressure: Some(pressure).into(),
                ..Default::default()
            })
            .into(),
            hugetlb: vec![page("2MB\nnode_up 0"), page(&"1".repeat(17)), page("1GB")],
            ..Default::default()
        };
        let metrics = decoded(stats);
        assert_eq!(metrics.io.usage.len(), MAX_ENTRIES);
        let full = &metrics.io.psi.full;
        assert_eq!((full.avg10, full.avg60, full.avg300), (0.0, 0.0, 100.0));
        assert_eq!(metrics.hugetlb.iter().map(|pages| pages.pagesize.as_str()).collect::<Vec<_>>(), ["1GB"]);
    }
}
