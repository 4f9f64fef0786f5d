//! From the inference thread to the consumers: a bounded queue and a thread for each.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::StopFlag;
use super::counters::Counters;
use crate::consumer::{Consumer, ConsumerError, StreamInfo, WhenBehind};
use crate::stream::Representation;

/// The inference thread's end of one consumer's queue.
pub(super) struct Outlet {
    sender: Sender<Arc<Representation>>,
    /// Taken from by `Coalesce`.
    receiver: Receiver<Arc<Representation>>,
    when_behind: WhenBehind,
    index: usize,
}

/// A consumer's thread; it ends with the consumer's error, if it had one.
pub(super) struct ConsumerThread {
    pub name: String,
    pub handle: JoinHandle<Result<(), ConsumerError>>,
}

/// Starts `consumer` on its own thread behind a queue of `capacity` chunks. Its failure sets `stop`.
pub(super) fn start(
    mut consumer: Box<dyn Consumer>,
    index: usize,
    capacity: usize,
    stream: StreamInfo,
    counters: &Arc<Counters>,
    stop: &StopFlag,
) -> std::io::Result<(Outlet, ConsumerThread)> {
    let (sender, receiver) = bounded::<Arc<Representation>>(capacity.max(1));
    let (name, when_behind) = (consumer.name().to_owned(), consumer.when_behind(stream.live));
    let (counters, stop, queue) = (counters.clone(), stop.clone(), receiver.clone());
    let handle = std::thread::Builder::new().name(format!("consumer-{name}")).spawn(move || {
        let mut outcome = consumer.begin(&stream);
        if outcome.is_ok() {
            for representation in queue {
                outcome = consumer.consume(&representation);
                if outcome.is_err() {
                    break;
                }
                counters.consumers()[index].count_delivered();
            }
        }
        if outcome.is_err() {
            stop.stop();
        }
        // What is open is closed also after an error; the first error is the one that tells.
        outcome.and(consumer.finish())
    })?;
    Ok((Outlet { sender, receiver, when_behind, index }, ConsumerThread { name, handle }))
}

impl Outlet {
    /// Hands a representation on, as the consumer wants it when it is behind.
    pub fn send(&self, representation: Arc<Representation>, counters: &Counters, dead: impl Fn() -> bool) {
        let counter = &counters.consumers()[self.index];
        let full = match self.sender.try_send(representation) {
            Ok(()) => return,
            Err(TrySendError::Full(representation)) => representation,
            Err(TrySendError::Disconnected(_)) => return counter.count_dropped(),
        };
        match self.when_behind {
            WhenBehind::DropNewest => counter.count_dropped(),
            WhenBehind::Coalesce => {
                if self.receiver.try_recv().is_ok() {
                    counter.count_dropped();
                }
                if self.sender.try_send(full).is_err() {
                    counter.count_dropped();
                }
            }
            WhenBehind::Wait => {
                let mut waiting = full;
                // This end keeps a receiver of its own, so a consumer that died is noticed by asking, not by the channel.
                while let Err(error) = self.sender.send_timeout(waiting, std::time::Duration::from_millis(50)) {
                    waiting = error.into_inner();
                    if dead() {
                        return counter.count_dropped();
                    }
                }
            }
        }
    }
}
