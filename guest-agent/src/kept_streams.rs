//! Standard streams that no host has taken yet: what a process writes is kept until one does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::descriptor::Descriptor;
use crate::stdio::{HostStreams, drain, feed};

/// Most that is kept of each output, in bytes. Who writes more waits.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// What is read at once.
const CHUNK_BYTES: usize = 4096;
/// How much of what was written last goes into messages, in bytes.
const LAST_BYTES: usize = 500;

/// The agent's ends of a process's standard streams.
#[derive(Debug)]
pub(crate) struct KeptStreams {
    stdin: Mutex<Option<OwnedFd>>,
    outputs: [KeptOutput; 2],
}

#[derive(Debug)]
struct KeptOutput {
    written: Arc<Written>,
    /// Where to send the host's end.
    host: Mutex<Option<oneshot::Sender<Option<Descriptor>>>>,
}

/// What has come out so far.
#[derive(Debug, Default)]
struct Written {
    bytes: Mutex<Vec<u8>>,
    more: Notify,
}

impl KeptStreams {
    /// Starts keeping what comes out.
    pub(crate) fn new(stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self { stdin: stdin.into(), outputs: [KeptOutput::new(stdout)?, KeptOutput::new(stderr)?] })
    }

    /// Returns once an output has this text.
    pub(crate) async fn await_text(&self, text: &str) {
        let [stdout, stderr] = &self.outputs;
        tokio::select! {
            () = stdout.written.await_text(text.as_bytes()) => {}
            () = stderr.written.await_text(text.as_bytes()) => {}
        }
    }

    /// The end of what was written, for messages.
    pub(crate) fn last(&self) -> String {
        let ends = self.outputs.each_ref().map(|output| output.written.last());
        ends.into_iter().filter(|end| !end.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// Gives the host its ends: it gets what was kept first. Once.
    pub(crate) fn hand_over(&self, host: HostStreams) -> io::Result<()> {
        let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((from, to)) = host.stdin.zip(stdin) {
            drop(tokio::spawn(feed(from, Descriptor::new(to)?)));
        }
        for (output, end) in self.outputs.iter().zip([host.stdout, host.stderr]) {
            let sender = output.host.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Without a receiver all is said and nobody is left to say more.
            let _over = sender.map(|sender| sender.send(end));
        }
        Ok(())
    }
}

impl KeptOutput {
    fn new(from: OwnedFd) -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        let written = Arc::new(Written::default());
        drop(tokio::spawn(Arc::clone(&written).relay(Descriptor::new(from)?, receiver)));
        Ok(Self { written, host: Some(sender).into() })
    }
}

impl Written {
    /// Keeps what comes until there is a host, which then gets that and all that follows.
    async fn relay(self: Arc<Self>, from: Descriptor, mut host: oneshot::Receiver<Option<Descriptor>>) {
        let host = tokio::select! {
            host = &mut host => host,
            () = self.keep(&from) => host.await,
        };
        let kept = std::mem::take(&mut *self.lock());
        let mut host = host.ok().flatten();
        if let Some(end) = &host
            && end.write_all(&kept).await.is_err()
        {
            host = None;
        }
        drain(Arc::new(from), host).await;
    }

    /// Returns at the end of what comes, or when enough is kept.
    async fn keep(&self, from: &Descriptor) {
        let mut chunk = [0; CHUNK_BYTES];
        while self.lock().len() < MAX_KEPT_BYTES {
            let count = from.read(&mut chunk).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            self.lock().extend_from_slice(&chunk[..count]);
            self.more.notify_one();
        }
    }

    async fn await_text(&self, text: &[u8]) {
        let mut searched = 0;
        loop {
            {
                let bytes = self.lock();
                let from = bytes.len().min(searched);
                if text.is_empty() || bytes[from..].windows(text.len()).any(|window| window == text) {
                    return;
                }
                searched = bytes.len().saturating_sub(text.len());
            }
            self.more.notified().await;
        }
    }

    fn last(&self) -> String {
        let bytes = self.lock();
        let from = bytes.len().saturating_sub(LAST_BYTES);
        String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn kept() -> (KeptStreams, std::io::PipeWriter, std::io::PipeWriter) {
        let [(stdout, out), (stderr, err)] = [(); 2].map(|()| std::io::pipe().unwrap());
        (KeptStreams::new(None, stdout.into(), stderr.into()).unwrap(), out, err)
    }

    #[tokio::test]
    async fn what_was_written_before_comes_before_what_is_written_after() {
        let (kept, mut out, err) = kept();
        out.write_all(b"first\n").unwrap();
        kept.await_text("first").await;
        let (mut host, guest) = UnixStream::pair().unwrap();
        let stdout = Some(Descriptor::new(guest.into()).unwrap());
        kept.hand_over(HostStreams { stdout, ..HostStreams::default() }).unwrap();
        out.write_all(b"second\n").unwrap();
        drop((out, err));
        let read = tokio::task::spawn_blocking(move || {
            let mut all = String::new();
            host.read_to_string(&mut all).map(|_| all)
        });
        assert_eq!(read.await.unwrap().unwrap(), "first\nsecond\n");
    }

    #[tokio::test]
    async fn a_text_is_found_in_either_output_however_it_comes() {
        let (kept, mut out, mut err) = kept();
        let write = async {
            for part in ["rea", "dy to", " accept"] {
                out.write_all(b"noise ready to\n").unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                err.write_all(part.as_bytes()).unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let found = timeout(Duration::from_secs(10), kept.await_text("ready to accept"));
        assert!(tokio::join!(write, found).1.is_ok());
        assert!(kept.last().ends_with("ready to accept"), "{}", kept.last());
        let absent = timeout(Duration::from_millis(50), kept.await_text("ready to go"));
        assert!(absent.await.is_err());
    }

    #[tokio::test]
    async fn who_writes_too_much_waits_and_nothing_is_lost() {
        let (kept, mut out, err) = kept();
        drop(err);
        let total = 2 * MAX_KEPT_BYTES;
        let writer = std::thread::spawn(move || (0..total / 64).try_for_each(|_| out.write_all(&[b'x'; 64])));
        let full = async {
            while kept.outputs[0].written.lock().len() < MAX_KEPT_BYTES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), full).await.unwrap();
        assert!(!writer.is_finished());
        let (mut host, guest) = UnixStream::pair().unwrap();
        let stdout = Some(Descriptor::new(guest.into()).unwrap());
        kept.hand_over(HostStreams { stdout, ..HostStreams::default() }).unwrap();
        let read = tokio::task::spawn_blocking(move || std::io::copy(&mut host, &mut std::io::sink()));
        assert_eq!(read.await.unwrap().unwrap(), total as u64);
        writer.join().unwrap().unwrap();
    }
}
