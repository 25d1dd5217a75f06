//! `ls`: bakes, and machines that run.

use serde::Serialize;
use supermachine::{Key, Level, Mode, StartRecord, StoreError};

use crate::bakes::{Listed, short};
use crate::host::Host;
use crate::machines::{Found, MachinesError, name};
use crate::output::{OutputError, show};
use crate::quantities::{age, bytes, moment, unix_seconds};
use crate::table::{Side, Table};

/// Nothing can be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LsError {
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, Serialize)]
struct Listing {
    bakes: Vec<Bake>,
    machines: Vec<Machine>,
    /// Records of machines that can't be read, and why.
    unreadable: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Bake {
    key: Key,
    /// None, as memory and vCPUs, if the manifest can't be used.
    level: Option<Level>,
    memory_bytes: Option<u64>,
    /// The most that a machine restored from it may have.
    vcpus: Option<u8>,
    disk_bytes: u64,
    made_unix_s: Option<u64>,
    in_use: bool,
    /// Machines known to have been restored from it.
    machines: Vec<String>,
    /// What is wrong with it.
    fault: Option<String>,
    #[serde(skip)]
    age: Option<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    namespace: String,
    id: String,
    #[serde(flatten)]
    mode: Mode,
    reason: String,
    bake: Option<Key>,
    memory_bytes: u64,
    vcpus: u8,
    pid: i32,
    began_unix_us: u64,
    #[serde(skip)]
    name: String,
}

pub(crate) fn run(host: &Host, json: bool) -> Result<(), LsError> {
    let listing = list(&host.bakes()?, &host.machines()?);
    Ok(show(json, &listing, text)?)
}

fn list(bakes: &[Listed], found: &Found) -> Listing {
    Listing {
        bakes: bakes.iter().map(|bake| describe(bake, found)).collect(),
        machines: found.running.iter().map(machine).collect(),
        unreadable: found.unreadable.iter().map(|error| supermachine::chain(error)).collect(),
    }
}

fn describe(Listed { entry, manifest }: &Listed, found: &Found) -> Bake {
    let known = manifest.as_ref().ok();
    Bake {
        key: entry.key,
        level: known.map(|manifest| manifest.subject.level()),
        memory_bytes: known.map(|manifest| manifest.subject.facts.memory_bytes),
        vcpus: known.map(|manifest| manifest.subject.facts.vcpus),
        disk_bytes: entry.disk_bytes,
        made_unix_s: entry.made_at.map(unix_seconds),
        in_use: entry.in_use,
        machines: found.restored_from(entry.key),
        fault: manifest.as_ref().err().cloned(),
        age: entry.made_at.map(age),
    }
}

fn machine(record: &StartRecord) -> Machine {
    Machine {
        namespace: record.namespace.clone(),
        id: record.id.clone(),
        mode: record.mode,
        reason: record.reason.clone(),
        bake: record.bake,
        memory_bytes: record.memory_bytes,
        vcpus: record.vcpus,
        pid: record.pid,
        began_unix_us: record.began_unix_us,
        name: name(record),
    }
}

fn text(Listing { bakes, machines, unreadable }: &Listing) -> String {
    let mut text = if bakes.is_empty() { "no bakes\n".to_owned() } else { table_of_bakes(bakes).to_string() };
    text.push('\n');
    if machines.is_empty() {
        text.push_str("no machines run\n");
    } else {
        text.push_str(&table_of_machines(machines).to_string());
    }
    for fault in unreadable {
        text.push_str(&format!("a machine's record can't be used: {}\n", crate::table::clean(fault)));
    }
    text
}

fn table_of_bakes(bakes: &[Bake]) -> Table<7> {
    use Side::{Left, Right};
    let mut table = Table::new([
        ("BAKE", Left),
        ("LEVEL", Left),
        ("MEMORY", Right),
        ("VCPUS", Right),
        ("SIZE", Right),
        ("AGE", Right),
        ("IN USE", Left),
    ]);
    for bake in bakes {
        let used = match (bake.machines.len(), bake.in_use) {
            (0, false) => "no".to_owned(),
            (0, true) => "yes".to_owned(),
            (1, _) => "1 machine".to_owned(),
            (count, _) => format!("{count} machines"),
        };
        table.add([
            short(bake.key),
            bake.level.map_or_else(|| "damaged".to_owned(), |level| level.to_string()),
            bake.memory_bytes.map_or_else(|| "-".to_owned(), bytes),
            bake.vcpus.map_or_else(|| "-".to_owned(), |most| format!("up to {most}")),
            bytes(bake.disk_bytes),
            bake.age.clone().unwrap_or_else(|| "-".to_owned()),
            used,
        ]);
    }
    table
}

fn table_of_machines(machines: &[Machine]) -> Table<5> {
    use Side::{Left, Right};
    let columns = [("MACHINE", Left), ("MODE", Left), ("BAKE", Left), ("SINCE", Right), ("REASON", Left)];
    let mut table = Table::new(columns);
    for machine in machines {
        table.add([
            machine.name.clone(),
            machine.mode.to_string(),
            machine.bake.map_or_else(|| "-".to_owned(), short),
            age(moment(machine.began_unix_us)),
            reason(machine),
        ]);
    }
    table
}

/// Why it is no better. The reason of a restored one begins with its bake, which has a column.
fn reason(machine: &Machine) -> String {
    match machine.reason.split_once("; ") {
        Some((_bake, why)) if machine.bake.is_some() => why.to_owned(),
        None if machine.bake.is_some() => "a bake fits".to_owned(),
        _ => machine.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, facts, record};

    #[test]
    fn bakes_and_machines_are_listed_for_people_and_programs() {
        let fixture = Fixture::new();
        let key = fixture.publish(facts());
        let cold = StartRecord { mode: Mode::Cold, bake: None, reason: "no bake\u{1b} yet".into(), ..record("first") };
        let running = vec![record("web"), cold];
        let listing = list(&fixture.host().bakes().unwrap(), &Found { running, ..Found::default() });
        let text = text(&listing);
        let lines: Vec<_> = text.lines().collect();
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(0), "BAKE LEVEL MEMORY VCPUS SIZE AGE IN USE");
        let row = words(1);
        assert!(
            row.starts_with(&format!("{} base 256 MiB up to 1 ", short(key))) && row.ends_with("1 machine"),
            "{row}"
        );
        assert_eq!(words(3), "MACHINE MODE BAKE SINCE REASON");
        assert!(words(4).starts_with(&format!("default/web restored(base) {}", short(key))), "{text}");
        assert!(words(5).starts_with("default/first cold - ") && words(5).ends_with("no bake yet"), "{text}");
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["bakes"][0]["key"], key.to_string());
        assert_eq!(json["bakes"][0]["memory_bytes"], 256 << 20);
        assert_eq!(json["bakes"][0]["machines"][0], "default/web");
        assert_eq!(json["machines"][0]["level"], "base");
        assert_eq!((&json["machines"][1]["mode"], &json["machines"][1]["bake"]), (&"cold".into(), &().into()));
    }

    #[test]
    fn an_empty_host_says_so() {
        let text = text(&list(&[], &Found::default()));
        assert_eq!(text, "no bakes\n\nno machines run\n");
    }
}
