//! `trace`: where the time went when a running machine was started.

use serde::Serialize;
use supermachine::{Owner, Phase, StartRecord};

use crate::host::Host;
use crate::machines::{FindError, MachinesError, name};
use crate::output::{OutputError, show};
use crate::quantities::milliseconds;
use crate::table::{Side, Table, clean};

/// Nothing can be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, Serialize)]
struct Timeline<'a> {
    #[serde(flatten)]
    record: &'a StartRecord,
    total_us: u64,
}

pub(crate) fn run(host: &Host, id: &str, json: bool) -> Result<(), TraceError> {
    let machines = host.machines()?;
    Ok(show(json, &timeline(machines.named(id)?), text)?)
}

fn timeline(record: &StartRecord) -> Timeline<'_> {
    Timeline { record, total_us: record.took_us() }
}

fn text(Timeline { record, total_us }: &Timeline<'_>) -> String {
    use Side::{Left, Right};
    let mut table = Table::new([("PHASE", Left), ("BEGAN MS", Right), ("TOOK MS", Right), ("WHO", Left)]);
    for Phase { name, owner, began_us, took_us } in &record.phases {
        table.add([name.clone(), milliseconds(*began_us), milliseconds(*took_us), who(*owner).to_owned()]);
    }
    table.add(["total".to_owned(), String::new(), milliseconds(*total_us), String::new()]);
    let joined = if record.joined { "joined a machine: " } else { "" };
    let head = format!("{}: {joined}{}, {}", name(record), record.mode, record.reason);
    format!("{}\n\n{table}", clean(&head))
}

fn who(owner: Owner) -> &'static str {
    match owner {
        Owner::Caller => "containerd",
        Owner::Shim => "shim",
        Owner::Vmm => "VMM",
        Owner::Guest => "guest",
        Owner::Container => "container",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::record;

    #[test]
    fn every_phase_is_shown_with_whose_it_was() {
        let record = record("web");
        let timeline = timeline(&record);
        let text = text(&timeline);
        assert!(text.starts_with("default/web: restored(base), bake "), "{text}");
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(rows[0], "PHASE           BEGAN MS  TOOK MS  WHO");
        assert_eq!(rows[3], "running            2.912    9.000  VMM");
        assert_eq!(rows[5], "total                      15.000");
        let json = serde_json::to_value(&timeline).unwrap();
        assert_eq!((&json["total_us"], &json["id"]), (&15_000.into(), &"web".into()));
        assert_eq!(json["phases"][2]["owner"], "vmm");
        assert_eq!(json["phases"][2]["began_us"], 2912);
    }
}
