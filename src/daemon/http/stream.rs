//! The response of `/events`: one message per event, until the client leaves or the daemon ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};

use super::super::events::{Event, Interest, StatusEvent, StreamEvent, Subscription};
use super::super::status::Status;
use super::connections::Slot;

/// Time after which a browser reconnects, milliseconds.
const RETRY: &str = "retry: 2000\n\n";

/// Server-sent events.
pub(super) struct EventStream {
    subscription: Subscription,
    /// Sent before the first event.
    first: VecDeque<Bytes>,
    slot: Slot,
}

impl EventStream {
    /// Subscribes to everything. The first two events describe the stream and the current state.
    pub fn new(status: &Status, slot: Slot) -> Self {
        let subscription = status.events().subscribe(Interest::Everything);
        let now = [Event::Stream(Box::new(StreamEvent::of(status))), Event::Status(Box::new(StatusEvent::of(status)))];
        let first =
            std::iter::once(Bytes::from_static(RETRY.as_bytes())).chain(now.iter().map(|event| message(event).into())).collect();
        Self { subscription, first, slot }
    }
}

fn message(event: &Event) -> Vec<u8> {
    // The events have only finite numbers and strings as keys: serialising them cannot fail.
    serde_json::to_string(event).map_or_else(|_| Vec::new(), |json| format!("data: {json}\n\n").into_bytes())
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
        let Some(event) = ready!(self.subscription.poll_recv(context)) else { return Poll::Ready(None) };
        let mut messages = message(&event);
        // A chunk's phones follow it at once: one write, and the page wakes once.
        while let Some(event) = self.subscription.try_recv() {
            messages.extend_from_slice(&message(&event));
        }
        self.slot.extend();
        Poll::Ready(Some(Ok(Frame::data(messages.into()))))
    }
}
