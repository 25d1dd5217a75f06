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
    tokio::spawn(follow(move || write(&recorder), trace, first_output));
}

async fn follow(write: impl Fn(), trace: Trace, first_output: impl Future<Output = Option<Instant>>) {
    let mut first_output = std::pin::pin!(first_output);
    let note = |at| trace.end_at("first output", Owner::Container, at);
    if let Ok(at) = timeout(AFTER_ANSWER, &mut first_output).await {
        at.into_iter().for_each(note);
        sleep(AFTER_ANSWER).await;
        return write();
    }
    write();
    if let Some(at) = first_output.await {
        note(at);
        write();
    }
}

fn write(recorder: &Recorder) {
    if let Err(error) = recorder.write() {
        debug!("how the VM was started isn't written down: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// How many phases were written each time, with output after so many milliseconds if there is any.
    async fn written(output_after_ms: Option<u64>) -> Vec<usize> {
        let (trace, writes) = (Trace::begin(), RefCell::new(Vec::new()));
        let output = async {
            sleep(Duration::from_millis(output_after_ms.unwrap_or_default())).await;
            output_after_ms.map(|_| Instant::now())
        };
        follow(|| writes.borrow_mut().push(trace.phases().len()), trace.clone(), output).await;
        writes.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_after_the_start_and_again_if_the_output_comes_later() {
        assert_eq!(written(Some(1)).await, [1]);
        assert_eq!(written(Some(5000)).await, [0, 1]);
        assert_eq!(written(None).await, [0], "without output there is nothing to add");
    }
}
