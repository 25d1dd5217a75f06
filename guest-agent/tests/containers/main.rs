//! Containers made for real on this machine: the whole agent but boot and disks, over its own protocol. Needs root and
//! a cgroup v2 hierarchy; without them it says so and passes nothing.
//!
//! `cargo test -p supermachine-agent --test containers [filter]`
#![allow(clippy::print_stdout, reason = "a test harness of its own: this is its report")]

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use trial::Trial;

/// What a container must do.
type Case = for<'a> fn(&'a Trial) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

macro_rules! cases {
    ($($(#[doc = $text:literal])* async fn $name:ident($trial:ident) $body:block)*) => {
        /// Every case by name.
        pub(crate) fn all() -> Vec<(&'static str, crate::Case)> {
            vec![$((stringify!($name), |trial| Box::pin($name(trial)))),*]
        }
        $($(#[doc = $text])* async fn $name($trial: &Trial) -> Result<()> $body)*
    };
}

mod cases;
mod corpus;
mod dormancy;
mod ground;
mod resources;
mod sockets;
mod trial;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder, cgroup] = arguments.as_slice()
        && word == trial::AGENT
    {
        trial::serve(folder.as_ref(), cgroup.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(obstacle) = trial::obstacle() {
        println!("containers: skipped, {obstacle}");
        return Ok(ExitCode::SUCCESS);
    }
    ground::enter()?;
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&filter))
}

async fn run(filter: &str) -> anyhow::Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    let cases = cases::all().into_iter().chain(resources::all()).chain(sockets::all()).chain(dormancy::all());
    for (name, case) in cases.filter(|(name, _)| name.contains(filter)) {
        let outcome = match Trial::start().await {
            Ok(trial) => {
                let outcome = tokio::time::timeout(std::time::Duration::from_secs(60), case(&trial)).await;
                let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("took longer than a minute")));
                let left = trial.finish().await;
                outcome.and(left)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED\n    {error:#}");
            }
        }
    }
    let (corpus_passed, corpus_failed) = corpus::run(filter).await?;
    (passed, failed) = (passed + corpus_passed, failed + corpus_failed);
    println!("containers: {passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
