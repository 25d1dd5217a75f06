//! A corpus of specs. Each must give the same container here as under the other runtimes that are installed: the same
//! report of a probe inside it and the same files made, or a refusal in both.
//!
//! A spec is the one of `trial::spec` with a few fields changed, as `specs/*.json` say. What is known to differ, and
//! why, is in `differences.rs`.

mod differences;
mod oracle;
mod profiles;
mod report;
mod seeds;
mod site;
mod specs;
mod verdict;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::trial::Trial;
use differences::Difference;
use oracle::Oracle;
use site::Site;
use specs::{Entry, Group};

/// Tries the specs whose name, `corpus/GROUP/SPEC`, contains `filter`; answers how many groups passed and failed.
pub(crate) async fn run(filter: &str) -> Result<(usize, usize)> {
    let oracles = Oracle::installed();
    let (mut passed, mut failed) = (0, 0);
    let mut groups = specs::groups()?;
    groups.push(seeds::group(&groups));
    for mut group in groups {
        group.entries.retain(|entry| entry.full_name().contains(filter));
        if group.entries.is_empty() {
            continue;
        }
        let begin = Instant::now();
        let failures = try_group(&group, &oracles).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
        let (count, seconds) = (group.entries.len(), begin.elapsed().as_secs_f32());
        let word = if failures.is_empty() { "ok" } else { "FAILED" };
        println!("test corpus/{} ({count} specs, {seconds:.1} s) ... {word}", group.name);
        for failure in &failures {
            println!("    {}", failure.replace('\n', "\n    "));
        }
        *(if failures.is_empty() { &mut passed } else { &mut failed }) += 1;
    }
    if passed + failed > 0 {
        let names: Vec<&str> = oracles.iter().map(|oracle| oracle.version.as_str()).collect();
        println!("corpus: compared with {}", if names.is_empty() { "nothing".to_owned() } else { names.join(", ") });
    }
    Ok((passed, failed))
}

/// Every way in which the group's specs went wrong.
async fn try_group(group: &Group, oracles: &[Oracle]) -> Result<Vec<String>> {
    let trial = Trial::start().await?;
    let mut failures = Vec::new();
    let tried = async {
        let site = Site::prepare(&trial).context("prepare the site")?;
        trial.resume().await?;
        let mut missing = BTreeMap::<&str, usize>::new();
        for entry in &group.entries {
            match entry.needs.iter().find(|name| !site.has(name)) {
                Some(name) => *missing.entry(name).or_default() += 1,
                None => failures.extend(try_entry(entry, oracles, &trial, &site).await?),
            }
        }
        for (name, count) in missing {
            println!("    ({count} of corpus/{} passed over: no {name} here)", group.name);
        }
        anyhow::Ok(())
    };
    let tried = tried.await;
    let left = trial.finish().await;
    tried.and(left)?;
    Ok(failures)
}

async fn try_entry(entry: &Entry, oracles: &[Oracle], trial: &Trial, site: &Site) -> Result<Vec<String>> {
    let name = entry.full_name();
    let case = site.fill_in(entry).with_context(|| name.clone())?;
    site.lay_out()?;
    let ours = verdict::ours(trial, site, &case).await.with_context(|| name.clone())?;
    let ours = site.clear(ours).with_context(|| format!("{name}, ours"))?;
    let mut failures =
        entry.disappointment(&ours).map(|text| format!("{name}: {text}")).into_iter().collect::<Vec<_>>();
    for oracle in oracles.iter().filter(|oracle| oracle.knows(entry)) {
        let known = Difference::between(oracle.name, entry);
        let compare = || {
            site.lay_out()?;
            let theirs = oracle.run(trial, site, &case)?;
            let theirs = site.clear(theirs).with_context(|| format!("{name}, {}", oracle.name))?;
            anyhow::Ok(ours.difference(&theirs, |section, line| Difference::apply(&known, section, line)))
        };
        // Once more if need be: crun sometimes starts a process whose terminal has no size yet.
        let text = if compare()?.is_some() { compare()? } else { None };
        failures.extend(text.map(|text| format!("{name}: - {}, + ours\n{text}", oracle.name)));
    }
    Ok(failures)
}
