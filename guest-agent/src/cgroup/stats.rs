//! What a cgroup uses.

use std::fs;
use std::io;

use agent_proto::io_stat::Device;
use agent_proto::pressure::Share;
use agent_proto::{ContainerStats, CpuStat, HugetlbStat, IoStat, MemoryEvents, MemoryStat, PidsStat, Pressure};

use super::Cgroup;
use super::events::keyed;

/// A message with the fields of these names taken from a table; what the kernel doesn't count is 0.
macro_rules! figures {
    ($message:ident, $table:expr, [$($name:ident)*]) => {
        $message { $($name: $table.get(stringify!($name)).copied().unwrap_or(0),)* ..Default::default() }
    };
}

impl Cgroup {
    /// Everything the kernel counts for it. `machine_memory` is what the machine has.
    pub(crate) fn stats(&self, machine_memory: u64) -> io::Result<ContainerStats> {
        fs::metadata(&self.path)?;
        let pids =
            PidsStat { current: self.number("pids.current"), limit: self.number("pids.max"), ..Default::default() };
        Ok(ContainerStats {
            pids: Some(pids).into(),
            cpu: Some(self.cpu()).into(),
            memory: Some(self.memory(machine_memory)).into(),
            memory_events: Some(self.memory_events()).into(),
            io: Some(self.io()).into(),
            hugetlb: self.hugetlb()?,
            ..Default::default()
        })
    }

    fn cpu(&self) -> CpuStat {
        let text = self.text("cpu.stat");
        let table = keyed(&text);
        let counted = figures!(CpuStat, table, [
            usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec
        ]);
        CpuStat { pressure: self.pressure("cpu.pressure").into(), ..counted }
    }

    fn memory(&self, machine_memory: u64) -> MemoryStat {
        let text = self.text("memory.stat");
        let mut table = keyed(&text);
        // Newer kernels count these by kind.
        for (sum, parts) in [
            ("workingset_refault", ["workingset_refault_anon", "workingset_refault_file"]),
            ("workingset_activate", ["workingset_activate_anon", "workingset_activate_file"]),
        ] {
            let of_kinds = parts.iter().filter_map(|part| table.get(part)).sum();
            table.entry(sum).or_insert(of_kinds);
        }
        let counted = figures!(MemoryStat, table, [
            anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp
            inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable
            pgfault pgmajfault workingset_refault workingset_activate workingset_nodereclaim
            pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc
        ]);
        MemoryStat {
            usage: self.number("memory.current"),
            usage_limit: self.number("memory.max").min(machine_memory),
            max_usage: self.number("memory.peak"),
            swap_usage: self.number("memory.swap.current"),
            swap_limit: self.number("memory.swap.max"),
            swap_max_usage: self.number("memory.swap.peak"),
            pressure: self.pressure("memory.pressure").into(),
            ..counted
        }
    }

    fn memory_events(&self) -> MemoryEvents {
        let text = self.text("memory.events");
        figures!(MemoryEvents, keyed(&text), [low high max oom oom_kill oom_group_kill])
    }

    fn io(&self) -> IoStat {
        let usage = self.text("io.stat").lines().filter_map(device).collect();
        IoStat { usage, pressure: self.pressure("io.pressure").into(), ..Default::default() }
    }

    fn hugetlb(&self) -> io::Result<Vec<HugetlbStat>> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(".current"));
            // Reservations have files of their own: `hugetlb.SIZE.rsvd.current`.
            sizes.extend(size.filter(|size| !size.contains('.')).map(str::to_owned));
        }
        sizes.sort_unstable();
        Ok(sizes.into_iter().map(|size| self.hugetlb_of(size)).collect())
    }

    fn hugetlb_of(&self, page_size: String) -> HugetlbStat {
        let file = |kind: &str| format!("hugetlb.{page_size}.{kind}");
        HugetlbStat {
            current: self.number(&file("current")),
            max: self.number(&file("max")),
            failcnt: keyed(&self.text(&file("events"))).get("max").copied().unwrap_or(0),
            page_size,
            ..Default::default()
        }
    }

    fn pressure(&self, file: &str) -> Option<Pressure> {
        let text = self.read(file).ok()?;
        let share = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).map(share).into();
        Some(Pressure { some: share("some "), full: share("full "), ..Default::default() })
    }

    /// A file with one number, or `max`.
    fn number(&self, file: &str) -> u64 {
        match self.text(file).trim() {
            "max" => u64::MAX,
            number => number.parse().unwrap_or(0),
        }
    }

    /// A file's content. A controller that this kernel lacks has no files, and counts nothing.
    fn text(&self, file: &str) -> String {
        self.read(file).unwrap_or_default()
    }
}

/// A line of `io.stat`: `MAJOR:MINOR KEY=NUMBER...`.
fn device(line: &str) -> Option<Device> {
    let (number, counts) = line.split_once(' ')?;
    let (major, minor) = number.split_once(':')?;
    let counts = counts.replace('=', " ");
    let words: Vec<&str> = counts.split_whitespace().collect();
    let count = |key: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair.first() == Some(&key))?;
        pair.get(1)?.parse().ok()
    };
    let count = |key| count(key).unwrap_or(0);
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        rbytes: count("rbytes"),
        wbytes: count("wbytes"),
        rios: count("rios"),
        wios: count("wios"),
        ..Default::default()
    })
}

/// The rest of a line of pressure: `avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn share(text: &str) -> Share {
    let value = |key: &str| text.split(' ').find_map(|word| word.strip_prefix(key)).unwrap_or_default();
    let percent = |key| value(key).parse().unwrap_or(0.0);
    Share {
        avg10: percent("avg10="),
        avg60: percent("avg60="),
        avg300: percent("avg300="),
        total: value("total=").parse().unwrap_or(0),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 15] = [
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\nnr_throttled 4\nburst_usec 5\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        ),
        ("memory.current", "4096\n"),
        ("memory.max", "8192\n"),
        ("memory.peak", "5000\n"),
        ("memory.swap.max", "0\n"),
        (
            "memory.stat",
            "anon 1\nfile 2\nkernel 9\nworkingset_refault_anon 3\nworkingset_refault_file 4\nthp_fault_alloc 6\n",
        ),
        ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
        ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:16 \nnonsense\n"),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.events", "max 8\n"),
        ("hugetlb.2MB.rsvd.current", "1\n"),
    ];

    fn cgroup(root: &tempfile::TempDir, files: &[(&str, &str)]) -> Cgroup {
        let cgroup = Cgroup::of(root.path(), "a");
        cgroup.create().unwrap();
        for (file, content) in files {
            fs::write(cgroup.path().join(file), content).unwrap();
        }
        cgroup
    }

    #[test]
    fn every_file_is_read() {
        let root = tempfile::tempdir().unwrap();
        let stats = cgroup(&root, &FILES).stats(6000).unwrap();
        assert_eq!((stats.pids.current, stats.pids.limit), (3, u64::MAX));
        let cpu = &stats.cpu;
        assert_eq!(
            (cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_throttled, cpu.burst_usec),
            (30, 20, 10, 4, 5)
        );
        let some = &cpu.pressure.some;
        assert_eq!((some.avg10, some.avg60, some.total, cpu.pressure.full.total), (1.5, 0.25, 77, 7));
        let memory = &stats.memory;
        assert_eq!((memory.usage, memory.max_usage, memory.swap_limit), (4096, 5000, 0));
        assert_eq!((memory.anon, memory.file, memory.workingset_refault, memory.thp_fault_alloc), (1, 2, 7, 6));
        assert!(memory.pressure.is_none());
        let events = &stats.memory_events;
        assert_eq!(
            [events.low, events.high, events.max, events.oom, events.oom_kill, events.oom_group_kill],
            [1, 2, 3, 4, 5, 6]
        );
        let devices: Vec<_> =
            stats.io.usage.iter().map(|d| [d.major, d.minor, d.rbytes, d.wbytes, d.rios, d.wios]).collect();
        assert_eq!(devices, [[254, 0, 1, 2, 3, 4], [254, 16, 0, 0, 0, 0]]);
        let [pages] = &stats.hugetlb[..] else { panic!("{:?}", stats.hugetlb) };
        assert_eq!(
            (pages.page_size.as_str(), pages.current, pages.max, pages.failcnt),
            ("2MB", 2_097_152, u64::MAX, 8)
        );
    }

    #[test]
    fn the_machine_limits_what_its_container_can_use() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = cgroup(&root, &[("memory.max", "8192\n")]);
        assert_eq!(cgroup.stats(9000).unwrap().memory.usage_limit, 8192);
        assert_eq!(cgroup.stats(6000).unwrap().memory.usage_limit, 6000);
        fs::write(cgroup.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(cgroup.stats(6000).unwrap().memory.usage_limit, 6000);
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_figures() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Cgroup::of(root.path(), "a").stats(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
