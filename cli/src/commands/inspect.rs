//! `inspect`: all that is known of a bake, or of a machine that runs.

use serde::Serialize;
use supermachine::{Key, Level, MachineFacts, Manifest, StartRecord, StoreError};

use crate::bakes::{self, Fit, Fits, Listed, find};
use crate::host::Host;
use crate::machines::{self, Found, MachinesError, name};
use crate::output::{OutputError, show};
use crate::quantities::{age, bytes, moment, unix_seconds};
use crate::table::clean;

/// Nothing can be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// Neither a machine nor a bake.
    #[error("no machine that runs and no bake is called `{name}`; `supermachine ls` lists them")]
    None { name: String },
    #[error(transparent)]
    Machine(machines::FindError),
    #[error(transparent)]
    Bake(bakes::FindError),
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Subject {
    Bake(Box<Bake>),
    Machine(Box<StartRecord>),
}

#[derive(Debug, Serialize)]
struct Bake {
    key: Key,
    disk_bytes: u64,
    made_unix_s: Option<u64>,
    in_use: bool,
    machines: Vec<String>,
    #[serde(flatten)]
    fit: Fit,
    /// None if the manifest can't be used.
    manifest: Option<Contents>,
}

#[derive(Debug, Serialize)]
struct Contents {
    level: Level,
    state: File,
    memory: File,
    memory_extents: usize,
    facts: Facts,
}

#[derive(Debug, Serialize)]
struct File {
    bytes: u64,
    sha256: String,
}

/// [`MachineFacts`], with digests as text.
#[derive(Debug, Serialize)]
struct Facts {
    architecture: String,
    backend: String,
    cpu_vendor: String,
    cpu_family: u32,
    cpu_model: u32,
    cpu_stepping: u32,
    cpu_features_sha256: String,
    tsc_khz: u32,
    host_kernel: String,
    vmm_sha256: String,
    guest_kernel_sha256: String,
    initrd_sha256: String,
    device_layout: u32,
    memory_bytes: u64,
    vcpus: u8,
    cmdline: String,
}

pub(crate) async fn run(host: &Host, name: &str, json: bool) -> Result<(), InspectError> {
    let (bakes, machines) = (host.bakes()?, host.machines()?);
    let subject = match choose(&bakes, &machines, name)? {
        Chosen::Machine(record) => Subject::Machine(Box::new(record.clone())),
        Chosen::Bake(bake) => Subject::Bake(Box::new(describe(bake, &machines, &host.fits().await))),
    };
    Ok(show(json, &subject, text)?)
}

#[derive(Debug)]
enum Chosen<'a> {
    Bake(&'a Listed),
    Machine(&'a StartRecord),
}

/// A machine counts before a bake: a name that looks like a key is one only if no machine is called so.
fn choose<'a>(bakes: &'a [Listed], machines: &'a Found, name: &str) -> Result<Chosen<'a>, InspectError> {
    match machines.named(name) {
        Ok(record) => return Ok(Chosen::Machine(record)),
        Err(machines::FindError::None { .. }) => {}
        Err(several) => return Err(InspectError::Machine(several)),
    }
    match find(bakes, name) {
        Ok(bake) => Ok(Chosen::Bake(bake)),
        Err(bakes::FindError::None { .. }) => Err(InspectError::None { name: name.to_owned() }),
        Err(several) => Err(InspectError::Bake(several)),
    }
}

fn describe(bake: &Listed, machines: &Found, here: &Fits) -> Bake {
    Bake {
        key: bake.entry.key,
        disk_bytes: bake.entry.disk_bytes,
        made_unix_s: bake.entry.made_at.map(unix_seconds),
        in_use: bake.entry.in_use,
        machines: machines.restored_from(bake.entry.key),
        fit: here.judge(bake),
        manifest: bake.manifest.as_ref().ok().map(contents),
    }
}

fn contents(manifest: &Manifest) -> Contents {
    let file = |part: supermachine::Part| File { bytes: part.bytes, sha256: part.digest.to_string() };
    Contents {
        level: manifest.subject.level(),
        state: file(manifest.state),
        memory: file(manifest.memory),
        memory_extents: manifest.extents.as_slice().len(),
        facts: facts(&manifest.subject.facts),
    }
}

fn facts(facts: &MachineFacts) -> Facts {
    Facts {
        architecture: facts.architecture.clone(),
        backend: facts.backend.clone(),
        cpu_vendor: facts.cpu_vendor.clone(),
        cpu_family: facts.cpu_family,
        cpu_model: facts.cpu_model,
        cpu_stepping: facts.cpu_stepping,
        cpu_features_sha256: facts.cpuid.to_string(),
        tsc_khz: facts.tsc_khz,
        host_kernel: facts.host_kernel.clone(),
        vmm_sha256: facts.vmm.to_string(),
        guest_kernel_sha256: facts.kernel.to_string(),
        initrd_sha256: facts.initrd.to_string(),
        device_layout: facts.device_layout,
        memory_bytes: facts.memory_bytes,
        vcpus: facts.vcpus,
        cmdline: facts.cmdline.clone(),
    }
}

fn text(subject: &Subject) -> String {
    let lines = match subject {
        Subject::Bake(bake) => lines_of_bake(bake),
        Subject::Machine(record) => lines_of_machine(record),
    };
    lines.into_iter().map(|(name, value)| format!("{name:14} {}\n", clean(&value))).collect()
}

fn lines_of_bake(bake: &Bake) -> Vec<(&'static str, String)> {
    let why = bake.fit.why.clone().unwrap_or_default();
    let fits = match bake.fit.fits {
        Some(true) => "yes".to_owned(),
        Some(false) => format!("no: {why}"),
        None => format!("unknown: {why}"),
    };
    let used = match bake.machines.as_slice() {
        [] if bake.in_use => "yes".to_owned(),
        [] => "no".to_owned(),
        machines => machines.join(", "),
    };
    let mut lines = vec![
        ("bake", bake.key.to_string()),
        ("fits this host", fits),
        ("in use", used),
        (
            "made",
            bake.made_unix_s
                .map_or_else(|| "?".to_owned(), |s| format!("{} ago", age(moment(s.saturating_mul(1_000_000))))),
        ),
        ("size on disk", bytes(bake.disk_bytes)),
    ];
    if let Some(Contents { level, state, memory, memory_extents, facts }) = &bake.manifest {
        let pages = format!("{}, in {memory_extents} extents", bytes(memory.bytes));
        lines.extend([("level", level.to_string()), ("state file", bytes(state.bytes)), ("memory file", pages)]);
        lines.extend(lines_of_facts(facts));
    }
    lines
}

fn lines_of_facts(facts: &Facts) -> Vec<(&'static str, String)> {
    let cpu = format!(
        "{} family {} model {} stepping {}, {} kHz",
        facts.cpu_vendor, facts.cpu_family, facts.cpu_model, facts.cpu_stepping, facts.tsc_khz
    );
    vec![
        ("memory", bytes(facts.memory_bytes)),
        ("vCPUs", format!("up to {}", facts.vcpus)),
        ("host", format!("{}, {}, {}", facts.architecture, facts.backend, facts.host_kernel)),
        ("CPU", cpu),
        ("CPU features", facts.cpu_features_sha256.clone()),
        ("VMM", facts.vmm_sha256.clone()),
        ("guest kernel", facts.guest_kernel_sha256.clone()),
        ("agent", facts.initrd_sha256.clone()),
        ("device layout", facts.device_layout.to_string()),
        ("command line", facts.cmdline.clone()),
    ]
}

fn lines_of_machine(record: &StartRecord) -> Vec<(&'static str, String)> {
    vec![
        (if record.joined { "container" } else { "machine" }, name(record)),
        ("mode", record.mode.to_string()),
        ("reason", record.reason.clone()),
        ("bake", record.bake.map_or_else(|| "-".to_owned(), |key| key.to_string())),
        ("memory", bytes(record.memory_bytes)),
        ("vCPUs", record.vcpus.to_string()),
        ("VMM process", record.pid.to_string()),
        ("started", format!("{} ago", age(moment(record.began_unix_us)))),
        (
            "took",
            format!("{} ms; `supermachine trace` says of what", crate::quantities::milliseconds(record.took_us())),
        ),
        ("guest kernel", record.kernel_release.clone()),
        ("agent", record.agent_version.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Fixture, record};

    #[test]
    fn a_bake_is_told_with_its_facts_and_whether_it_fits() {
        let fixture = Fixture::new();
        let key = fixture.publish(fixture::facts());
        let bakes = fixture.host().bakes().unwrap();
        let found = Found { running: vec![record("web")], ..Found::default() };
        let Chosen::Bake(bake) = choose(&bakes, &found, &key.to_string()[..6]).unwrap() else { panic!("a machine") };
        let here = MachineFacts { host_kernel: "6.13".into(), ..fixture::facts() };
        let subject = Subject::Bake(Box::new(describe(bake, &found, &fixture::fits(here))));
        let text = text(&subject);
        for line in [
            format!("bake           {key}"),
            "fits this host no: host kernel 6.12, here 6.13".to_owned(),
            "in use         default/web".to_owned(),
            "memory file    8 KiB, in 1 extents".to_owned(),
            "CPU            AuthenticAMD family 15 model 107 stepping 1, 1000000 kHz".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        let json = serde_json::to_value(&subject).unwrap();
        assert_eq!((&json["kind"], &json["fits"]), (&"bake".into(), &false.into()));
        assert_eq!(json["why"], "host kernel 6.12, here 6.13");
        assert_eq!(json["manifest"]["facts"]["vmm_sha256"], "02".repeat(32));
        assert_eq!(json["manifest"]["memory"]["bytes"], 8192);
    }

    #[test]
    fn a_machine_is_told_as_it_was_recorded() {
        let found = Found { running: vec![record("web")], ..Found::default() };
        let Chosen::Machine(record) = choose(&[], &found, "web").unwrap() else { panic!("a bake") };
        let subject = Subject::Machine(Box::new(record.clone()));
        assert!(text(&subject).contains("took           15.000 ms;"), "{}", text(&subject));
        let json = serde_json::to_value(&subject).unwrap();
        assert_eq!((&json["kind"], &json["mode"], &json["id"]), (&"machine".into(), &"restored".into(), &"web".into()));
        assert!(matches!(choose(&[], &found, "db").unwrap_err(), InspectError::None { .. }));
    }
}
