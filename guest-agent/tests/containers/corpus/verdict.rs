//! What a runtime makes of a spec.

use std::fmt;

use anyhow::{Result, bail};

use super::report::Report;
use super::site::{Case, Site};
use crate::trial::{Outcome, Trial, status};

/// A container that ran, and what its probe found; or why there was none.
pub(super) enum Verdict {
    Ran(Report),
    Refused(String),
}

impl Verdict {
    /// How two verdicts differ as `compared` shows their lines, by section, if it shows them: `-` is theirs.
    pub(super) fn difference(&self, theirs: &Self, compared: impl Fn(&str, &str) -> Option<String>) -> Option<String> {
        match (self, theirs) {
            (Self::Refused(_), Self::Refused(_)) => None,
            (Self::Ran(ours), Self::Ran(theirs)) => ours.difference(theirs, &compared),
            _ => {
                let shown = |verdict: &Self| compared("outcome", &verdict.to_string());
                Some(format!("- {}\n+ {}", shown(theirs)?, shown(self)?))
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ran(_) => formatter.write_str("ran"),
            Self::Refused(message) => write!(formatter, "refused: {}", message.trim_end()),
        }
    }
}

/// Makes a container by our agent.
pub(super) async fn ours(trial: &Trial, site: &Site, case: &Case) -> Result<Verdict> {
    let outcome = match &case.further {
        None => trial.run("a", &case.spec).await,
        Some(further) => {
            trial.create("a", &case.spec, agent_proto::Stdio::new(), vec![]).await?;
            trial.start_process("a", "").await?;
            let outcome = trial.run_further("a", "b", further).await;
            trial.kill("a", "", libc::SIGKILL, false).await?;
            trial.wait("a", "").await?;
            trial.delete("a", "").await?;
            outcome
        }
    };
    Ok(match outcome {
        Ok(Outcome { code, stdout, .. }) => {
            let mut report = Report::parse(&stdout, site);
            if !report.is_whole() {
                report.add("end", vec![format!("the report ends early, and the process with code {code}")]);
            }
            Verdict::Ran(report)
        }
        Err(error) => Verdict::Refused(match error.downcast_ref().and_then(status) {
            Some((code, message)) => format!("{code:?}: {message}"),
            None => bail!(error),
        }),
    })
}
