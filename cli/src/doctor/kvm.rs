//! KVM, and what is made with it: the library's own checks.

use supermachine::{KvmError, Machine, MachineError, Reason, Subject, chain, check_kvm};
use supermachine_config::Config;

use super::Finding;
use crate::bakes::short;

const KVM: &str = "KVM";
const BASE_BAKE: &str = "base bake";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    if let Err(error) = check_kvm() {
        return vec![no_kvm(&error)];
    }
    let machine = match Machine::load(config) {
        Ok(machine) => machine.forgetful(),
        // Named among the programs.
        Err(MachineError::MissingFile { .. }) => {
            let found = "it opens; whether it can run our guests can't be tried without the missing files";
            return vec![Finding::warning(KVM, found, "run `make install`, then this again")];
        }
        Err(error) => return vec![unusable(&error)],
    };
    match machine.facts().await {
        Err(error) => vec![unusable(&error)],
        Ok(facts) => {
            let cpu = format!(
                "{}, {} family {} model {}",
                facts.backend, facts.cpu_vendor, facts.cpu_family, facts.cpu_model
            );
            let bake = machine.store().open(&Subject::base(facts.clone())).map(|_bake| short(facts.key()));
            vec![Finding::ok(KVM, cpu), base_bake(config.bake.enabled, bake)]
        }
    }
}

fn unusable(error: &MachineError) -> Finding {
    match error {
        MachineError::Kvm(cause) => no_kvm(cause),
        other => Finding::of_error(KVM, &chain(other)),
    }
}

/// It says what to do.
fn no_kvm(error: &KvmError) -> Finding {
    Finding::of_error(KVM, &chain(error))
}

fn base_bake(is_baking: bool, found: Result<String, Reason>) -> Finding {
    const REMEDY: &str = "run `supermachine bake`, or start a container and wait a little";
    match found {
        _ if !is_baking => Finding::warning(
            BASE_BAKE,
            "baking is off: every machine boots",
            "remove `bake.enabled = false` from the configuration",
        ),
        Ok(key) => Finding::ok(BASE_BAKE, key),
        Err(Reason::Absent) => Finding::warning(BASE_BAKE, "there is none yet: the next machine boots", REMEDY),
        Err(Reason::Untrusted { path, problem, .. }) => {
            let (found, remedy) = problem.split_once("; ").unwrap_or((problem.as_str(), REMEDY));
            Finding::warning(BASE_BAKE, format!("{} {found}: the next machine boots", path.display()), remedy)
        }
        Err(reason) => Finding::warning(BASE_BAKE, format!("{}: the next machine boots", reason.fault()), REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::fixture::Fixture;

    #[tokio::test]
    async fn without_our_files_kvm_is_looked_at_and_no_more() {
        let findings = check(&Fixture::new().config()).await;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].check == KVM && findings[0].status != Status::Ok, "{findings:?}");
    }

    #[test]
    fn a_host_without_a_usable_kvm_is_told_what_to_do() {
        let missing = supermachine::KvmError::Missing { path: "/dev/kvm".into() };
        let finding = unusable(&MachineError::Kvm(missing));
        assert_eq!((finding.status, finding.found.as_str()), (Status::Problem, "this host has no /dev/kvm"));
        assert!(finding.remedy.unwrap().starts_with("load the module"));
    }

    #[test]
    fn a_missing_bake_is_no_problem() {
        assert_eq!(base_bake(true, Ok("abc".into())), Finding::ok(BASE_BAKE, "abc"));
        let untrusted = || Reason::Untrusted {
            key: crate::fixture::facts().key(),
            path: "/b".into(),
            problem: "can be written by others; run `chmod go-w /b`".into(),
        };
        for (is_baking, found, text) in [
            (true, Err(Reason::Absent), "there is none yet"),
            (true, Err(untrusted()), "/b can be written by others"),
            (false, Err(Reason::Absent), "baking is off"),
        ] {
            let finding = base_bake(is_baking, found);
            assert!(finding.status == Status::Warning && finding.found.contains(text), "{finding:?}");
        }
        assert_eq!(base_bake(true, Err(untrusted())).remedy.as_deref(), Some("run `chmod go-w /b`"));
    }
}
