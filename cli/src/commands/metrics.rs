//! `metrics`: figures for a monitoring system, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use supermachine::{Mode, StoreError, Tally};

use crate::bakes::Listed;
use crate::host::Host;
use crate::machines::MachinesError;
use crate::output::{OutputError, print};

/// There are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsError {
    #[error("the counts of starts in {} can't be read", path.display())]
    Tally {
        /// Their directory.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

pub(crate) fn run(host: &Host) -> Result<(), MetricsError> {
    let run = &host.config.paths.run;
    let starts = Tally::new(run).read().map_err(|source| MetricsError::Tally { path: run.clone(), source })?;
    let text = text(&starts, host.machines()?.running.len(), &host.bakes()?);
    Ok(print(text.as_bytes())?)
}

fn text(starts: &[(Mode, u64)], machines: usize, bakes: &[Listed]) -> String {
    let mut text = String::new();
    family(&mut text, "starts_total", "counter", "Machines started since the host has booted, by how.", {
        starts.iter().map(|(mode, count)| (labels(*mode), *count))
    });
    family(&mut text, "machines", "gauge", "Machines that run.", [(String::new(), machines as u64)]);
    let mut levels = BTreeMap::<String, (u64, u64)>::new();
    for Listed { entry, manifest } in bakes {
        let level = manifest.as_ref().map_or("damaged".to_owned(), |known| known.subject.level().to_string());
        let sums = levels.entry(format!("{{level=\"{level}\"}}")).or_default();
        *sums = (sums.0 + 1, sums.1 + entry.disk_bytes);
    }
    let of = |pick: fn(&(u64, u64)) -> u64| levels.iter().map(move |(level, sums)| (level.clone(), pick(sums)));
    family(&mut text, "bakes", "gauge", "Bakes in the store.", of(|sums| sums.0));
    family(&mut text, "bakes_disk_bytes", "gauge", "What they take of the disk.", of(|sums| sums.1));
    text
}

/// A name with what it means, and a line for each set of labels.
fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, u64)>) {
    // Writing to a String can't fail.
    let _written = writeln!(text, "# HELP supermachine_{name} {help}\n# TYPE supermachine_{name} {kind}");
    for (labels, value) in samples {
        let _written = writeln!(text, "supermachine_{name}{labels} {value}");
    }
}

fn labels(mode: Mode) -> String {
    match mode {
        Mode::Cold => "{mode=\"cold\",level=\"\"}".to_owned(),
        Mode::Restored(level) => format!("{{mode=\"restored\",level=\"{level}\"}}"),
    }
}

#[cfg(test)]
mod tests {
    use supermachine::Level;

    use super::*;
    use crate::fixture::{Fixture, facts};

    #[test]
    fn each_figure_has_its_meaning_before_it() {
        let fixture = Fixture::new();
        fixture.publish(facts());
        let starts = [(Mode::Cold, 1), (Mode::Restored(Level::Image), 20)];
        let text = text(&starts, 2, &fixture.host().bakes().unwrap());
        let lines: Vec<_> = text.lines().collect();
        let expected = [
            "# HELP supermachine_starts_total Machines started since the host has booted, by how.",
            "# TYPE supermachine_starts_total counter",
            "supermachine_starts_total{mode=\"cold\",level=\"\"} 1",
            "supermachine_starts_total{mode=\"restored\",level=\"image\"} 20",
        ];
        assert_eq!(lines[..4], expected);
        assert!(lines.contains(&"supermachine_machines 2"));
        assert!(lines.contains(&"supermachine_bakes{level=\"base\"} 1"));
    }

    #[test]
    fn a_host_that_has_started_nothing_has_figures_as_well() {
        run(&Fixture::new().host()).unwrap();
    }
}
