//! How far a process's outputs are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

/// Counts the outputs that are being copied and the bytes that were read from them.
#[derive(Debug, Default)]
pub(super) struct Gauge(watch::Sender<Reading>);

#[derive(Debug, Default)]
struct Reading {
    open: usize,
    bytes: u64,
    first_byte: Option<Instant>,
}

impl Gauge {
    /// Counts an output. It is over when the returned reader is dropped, by a copy whose last byte is written.
    pub(super) fn watch<R>(&self, output: R) -> Watched<R> {
        self.0.send_modify(|reading| reading.open += 1);
        Watched { output, gauge: self.0.clone() }
    }

    /// Whether all outputs are over.
    pub(super) fn is_over(&self) -> bool {
        self.0.borrow().open == 0
    }

    /// Waits for the first byte of any output. None if all are over without one.
    pub(super) fn first_byte(&self) -> impl Future<Output = Option<Instant>> + Send + 'static {
        let mut reading = self.0.subscribe();
        async move {
            let seen = reading.wait_for(|reading| reading.first_byte.is_some() || reading.open == 0).await;
            seen.ok().and_then(|reading| reading.first_byte)
        }
    }

    /// Waits until all outputs are over, or no byte has come for as long as `silence`.
    pub(super) async fn settled(&self, silence: Duration) {
        let mut reading = self.0.subscribe();
        while reading.borrow_and_update().open > 0 {
            if timeout(silence, reading.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// An output on its way.
#[derive(Debug)]
pub(super) struct Watched<R> {
    output: R,
    gauge: watch::Sender<Reading>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.output).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.gauge.send_modify(|reading| {
                reading.bytes += read as u64;
                reading.first_byte.get_or_insert_with(Instant::now);
            });
        }
        polled
    }
}

impl<R> Drop for Watched<R> {
    fn drop(&mut self) {
        self.gauge.send_modify(|reading| reading.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    const SILENCE: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn settled_when_the_last_output_is_over() {
        let gauge = Gauge::default();
        gauge.settled(SILENCE).await;
        let (mut guest, host) = duplex(8);
        let copy = tokio::spawn(async move {
            // Twice as long in coming as silence may last, but never silent.
            for _ in 0..10 {
                guest.write_all(&[0; 8]).await.unwrap();
                tokio::time::sleep(SILENCE / 5).await;
            }
        });
        let mut output = gauge.watch(host);
        let began = tokio::time::Instant::now();
        let copied = async {
            let copied = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
            drop(output);
            copied
        };
        assert!(!gauge.is_over());
        let (copied, ()) = tokio::join!(copied, gauge.settled(SILENCE));
        assert!(gauge.is_over());
        assert_eq!(copied.unwrap(), 80);
        assert!(began.elapsed() >= SILENCE * 2, "{:?}", began.elapsed());
        copy.await.unwrap();
    }

    #[tokio::test]
    async fn the_first_byte_is_told_with_its_time_or_that_there_is_none() {
        let gauge = Gauge::default();
        assert_eq!(gauge.first_byte().await, None);
        let (mut guest, host) = duplex(8);
        let mut output = gauge.watch(host);
        let first = gauge.first_byte();
        guest.write_all(b"x").await.unwrap();
        drop(guest);
        tokio::io::copy(&mut output, &mut tokio::io::sink()).await.unwrap();
        let read = Instant::now();
        assert!(first.await.unwrap() <= read);
        assert!(gauge.first_byte().await.unwrap() <= read, "it is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn settled_when_an_open_output_is_silent() {
        let gauge = Gauge::default();
        let (_guest, host) = duplex(8);
        let _output = gauge.watch(host);
        let began = tokio::time::Instant::now();
        gauge.settled(SILENCE).await;
        assert_eq!(began.elapsed(), SILENCE);
    }
}
