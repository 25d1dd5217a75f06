//! `prune`: removes bakes that nothing on this host will be restored from.

use serde::Serialize;
use supermachine::{Key, StoreError};

use crate::bakes::{Fit, Fits, Listed, short};
use crate::host::Host;
use crate::output::{OutputError, show};
use crate::quantities::bytes;

/// Not everything was removed that was to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PruneError {
    #[error(
        "what fits this host can't be told ({why}); put that right (`supermachine doctor` says more), or remove all \
         unused bakes with --all"
    )]
    Unknown {
        /// Why not.
        why: String,
    },
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pruned {
    dry_run: bool,
    removed: Vec<PrunedBake>,
    freed_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PrunedBake {
    key: Key,
    disk_bytes: u64,
    why: String,
}

pub(crate) async fn run(host: &Host, all: bool, dry_run: bool, json: bool) -> Result<(), PruneError> {
    let bakes = host.bakes()?;
    let useless = if all { unused(&bakes) } else { misfits(&bakes, &host.fits().await)? };
    Ok(show(json, &prune(host, useless, dry_run)?, text)?)
}

fn unused(bakes: &[Listed]) -> Vec<PrunedBake> {
    candidates(bakes).map(|bake| pruned(bake, "unused".to_owned())).collect()
}

fn misfits(bakes: &[Listed], here: &Fits) -> Result<Vec<PrunedBake>, PruneError> {
    let judge = |bake| match here.judge(bake) {
        Fit { fits: Some(true), .. } => None,
        Fit { fits: Some(false), why } => Some(Ok(pruned(bake, why.unwrap_or_default()))),
        Fit { fits: None, why } => Some(Err(PruneError::Unknown { why: why.unwrap_or_default() })),
    };
    candidates(bakes).filter_map(judge).collect()
}

fn candidates(bakes: &[Listed]) -> impl Iterator<Item = &Listed> {
    bakes.iter().filter(|bake| !bake.entry.in_use)
}

fn pruned(bake: &Listed, why: String) -> PrunedBake {
    PrunedBake { key: bake.entry.key, disk_bytes: bake.entry.disk_bytes, why }
}

fn prune(host: &Host, useless: Vec<PrunedBake>, dry_run: bool) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned { dry_run, removed: Vec::new(), freed_bytes: 0 };
    for bake in useless {
        // One that came into use meanwhile stays.
        if dry_run || host.store.remove(&bake.key)? {
            pruned.freed_bytes += bake.disk_bytes;
            pruned.removed.push(bake);
        }
    }
    Ok(pruned)
}

fn text(Pruned { dry_run, removed, freed_bytes }: &Pruned) -> String {
    let (verb, freed) = if *dry_run { ("would remove", "would free") } else { ("removed", "freed") };
    let line = |bake: &PrunedBake| format!("{verb} {}: {}\n", short(bake.key), crate::table::clean(&bake.why));
    format!("{}{freed} {}\n", removed.iter().map(line).collect::<String>(), bytes(*freed_bytes))
}

#[cfg(test)]
mod tests {
    use supermachine::{MachineFacts, Subject};

    use super::*;
    use crate::fixture::{self, Fixture, facts};

    #[test]
    fn what_fits_or_is_in_use_stays() {
        let fixture = Fixture::new();
        let host = fixture.host();
        let old = |vcpus| MachineFacts { host_kernel: "6.1".into(), vcpus, ..facts() };
        let (fitting, useless, used) = (fixture.publish(facts()), fixture.publish(old(1)), fixture.publish(old(2)));
        let pin = host.store.open(&Subject::base(old(2))).unwrap();
        let here = fixture::fits(facts());
        let misfits = || misfits(&host.bakes().unwrap(), &here).unwrap();
        let dry = prune(&host, misfits(), true).unwrap();
        assert_eq!(dry.removed.iter().map(|bake| bake.key).collect::<Vec<_>>(), [useless]);
        let expected = format!("would remove {}: host kernel 6.1, here 6.12\nwould free ", short(useless));
        assert!(text(&dry).starts_with(&expected), "{}", text(&dry));
        assert_eq!(host.bakes().unwrap().len(), 3);
        let done = prune(&host, misfits(), false).unwrap();
        assert_eq!((done.removed, done.freed_bytes), (dry.removed, dry.freed_bytes));
        let left: Vec<_> = host.bakes().unwrap().iter().map(|bake| bake.entry.key).collect();
        assert!(left.len() == 2 && left.contains(&fitting) && left.contains(&used));
        assert_eq!(unused(&host.bakes().unwrap()).len(), 1);
        drop(pin);
        assert_eq!(prune(&host, unused(&host.bakes().unwrap()), false).unwrap().removed.len(), 2);
    }

    #[test]
    fn nothing_is_removed_on_a_host_that_is_not_known() {
        let fixture = Fixture::new();
        fixture.publish(facts());
        let error = misfits(&fixture.host().bakes().unwrap(), &Fits::Unknown("no KVM".into())).unwrap_err();
        assert!(error.to_string().contains("(no KVM)"), "{error}");
    }
}
