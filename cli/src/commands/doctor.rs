//! `doctor`: what keeps containers from running here, and what to do about it.

use std::process::ExitCode;

use serde::Serialize;

use crate::doctor::{Finding, Root, Status, examine};
use crate::host::Host;
use crate::output::{OutputError, show};
use crate::table::clean;

#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<Finding>,
    problems: usize,
    warnings: usize,
}

/// Fails if there is a problem.
pub(crate) async fn run(host: &Host, json: bool) -> Result<ExitCode, OutputError> {
    let report = report(examine(&host.config, &Root::new("/")).await);
    show(json, &report, text)?;
    Ok(if report.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(findings: Vec<Finding>) -> Report {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    Report { problems: count(Status::Problem), warnings: count(Status::Warning), findings }
}

fn text(Report { findings, problems, warnings }: &Report) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, status, found, remedy } in findings {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        text.push_str(&format!("{status:7}  {check:width$}  {}\n", clean(found)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:7}  {:width$}  -> {}\n", "", "", clean(remedy)));
        }
    }
    text.push_str(&format!("problems: {problems}, warnings: {warnings}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_stand_below_what_they_are_for() {
        let report = report(vec![
            Finding::ok("kernel", "6.12"),
            Finding::problem("KVM", "this host has no /dev/kvm", "load the module"),
            Finding::warning("base bake", "none", "make one"),
        ]);
        let expected = "ok       kernel     6.12\n\
                        PROBLEM  KVM        this host has no /dev/kvm\n\
                        \u{20}                   -> load the module\n\
                        warning  base bake  none\n\
                        \u{20}                   -> make one\n\
                        problems: 1, warnings: 1\n";
        assert_eq!(text(&report), expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][1]["status"], "problem");
        assert_eq!((&json["problems"], &json["findings"][0]["remedy"]), (&1.into(), &().into()));
    }
}
