//! What a runtime makes of a spec.

use anyhow::{Result, bail};

use super::report::Report;
use super::site::{Case, Site};
use crate::trial::{Trial, process, status};

/// A container that ran, and what its probe found; or why there was none.
pub(super) enum Verdict {
    Ran(Report),
    Refused(String),
}

impl Verdict {
    /// How two verdicts differ, but for lines that may: `-` is theirs.
    pub(super) fn difference(
        ours: &Self,
        theirs: &Self,
        mut may_differ: impl FnMut(&str, &str) -> bool,
    ) -> Option<String> {
        match (ours, theirs) {
            (Self::Refused(_), Self::Refused(_)) => None,
            (Self::Refused(message), Self::Ran(_)) => Some(format!("- ran\n+ refused: {message}")),
            (Self::Ran(_), Self::Refused(message)) => Some(format!("- refused: {message}\n+ ran")),
            (Self::Ran(ours), Self::Ran(theirs)) => ours.difference(theirs, &mut may_differ),
        }
    }
}

/// Makes a container by our agent.
pub(super) async fn ours(trial: &Trial, site: &Site, case: &Case) -> Result<Verdict> {
    let outcome = match &case.further {
        None => trial.run("a", &case.spec).await,
        Some(further) => {
            let mut spec = case.spec.clone();
            spec["process"] = process(&["sleep", "1000"]);
            trial.create("a", &spec, agent_proto::Stdio::new(), vec![]).await?;
            trial.start_process("a", "").await?;
            let outcome = trial.run_further("a", "b", further).await;
            trial.kill("a", "", libc::SIGKILL, false).await?;
            trial.wait("a", "").await?;
            trial.delete("a", "").await?;
            outcome
        }
    };
    Ok(match outcome {
        Ok(outcome) => Verdict::Ran(Report::parse(&outcome.stdout, site)),
        Err(error) => Verdict::Refused(match error.downcast_ref().and_then(status) {
            Some((code, message)) => format!("{code:?}: {message}"),
            None => bail!(error),
        }),
    })
}
