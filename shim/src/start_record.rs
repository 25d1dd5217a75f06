//! Writes down where the time of a container's start went, once nobody waits for it any more.

use std::time::{Duration, Instant};

use supermachine::{Owner, Recorder, Trace};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::task::{Container, Process};

/// By then the answer is out, and whoever waited for it has gone on.
const AFTER_ANSWER: Duration = Duration::from_millis(10);

/// Has the record of a container's start written, after its Create is answered.
pub(crate) fn keep(container: &Container) {
    let Some(recorder) = container.sandbox.recorder() else { return };
    tokio::spawn(async move {
        sleep(AFTER_ANSWER).await;
        write(&recorder);
    });
}

/// Has it written once more, after the start of its process, and when the first byte of output has come.
pub(crate) fn keep_with_output(container: &Container, process: &Process) {
    let Some(recorder) = container.sandbox.recorder() else { return };
    let (trace, first_output) = (container.trace.clone(), process.io.first_output());
    tokio::spawn(follow(recorder, trace, first_output));
}

async fn follow(recorder: Recorder, trace: Trace, first_output: impl Future<Output = Option<Instant>>) {
    let mut first_output = std::pin::pin!(first_output);
    let note = |at| trace.end_at("first output", Owner::Container, at);
    if let Ok(at) = timeout(AFTER_ANSWER, &mut first_output).await {
        at.into_iter().for_each(note);
        sleep(AFTER_ANSWER).await;
        return write(&recorder);
    }
    write(&recorder);
    if let Some(at) = first_output.await {
        note(at);
        write(&recorder);
    }
}

fn write(recorder: &Recorder) {
    if let Err(error) = recorder.write() {
        debug!("how the VM was started isn't written down: {error}");
    }
}
