//! The response of `/events`: one message per event, until the client leaves or the daemon ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::time::{Sleep, sleep};

use super::super::events::{Event, Interest, StatusEvent, StreamEvent, Subscription};
use super::super::status::Status;
use super::connections::Slot;

/// Time after which a browser reconnects, milliseconds.
const RETRY: &str = "retry: 2000\n\n";
/// Events that follow one within this time are sent with it: a chunk, its phones and its scores wake the server and the page once.
const BATCH: Duration = Duration::from_millis(80);

/// Server-sent events.
pub(super) struct EventStream {
    subscription: Subscription,
    /// Sent before the first event.
    first: VecDeque<Bytes>,
    /// Messages that are sent when `flush` ends.
    batch: Vec<u8>,
    flush: Option<Pin<Box<Sleep>>>,
    slot: Slot,
}

impl EventStream {
    /// Subscribes to everything. The first two events describe the stream and the current state.
    pub fn new(status: &Status, slot: Slot) -> Self {
        let subscription = status.events().subscribe(Interest::Everything);
        let now = [Event::Stream(Box::new(StreamEvent::of(status))), Event::Status(Box::new(StatusEvent::of(status)))];
        let first = std::iter::once(Bytes::from_static(RETRY.as_bytes())).chain(now.iter().map(message)).collect();
        Self { subscription, first, batch: Vec::new(), flush: None, slot }
    }
}

fn message(event: &Event) -> Bytes {
    // The events have only finite numbers and strings as keys: serialising them cannot fail.
    serde_json::to_string(event).map_or_else(|_| Bytes::new(), |json| Bytes::from(format!("data: {json}\n\n")))
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    /// Called only when the client has received enough of the previous messages.
    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.pop_front() {
            self.slot.extend();
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.flush.is_none() {
            let Some(event) = ready!(self.subscription.poll_recv(context)) else { return Poll::Ready(None) };
            self.batch.extend_from_slice(&message(&event));
            self.flush = Some(Box::pin(sleep(BATCH)));
        }
        if let Some(flush) = &mut self.flush {
            // The queue is not polled meanwhile, so that its events do not wake this task.
            ready!(flush.as_mut().poll(context));
        }
        self.flush = None;
        while let Poll::Ready(Some(event)) = self.subscription.poll_recv(context) {
            self.batch.extend_from_slice(&message(&event));
        }
        self.slot.extend();
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.batch).into()))))
    }
}
