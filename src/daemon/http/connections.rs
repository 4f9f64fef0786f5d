//! Limits on the connections of the HTTP server.
//!
//! A new connection is always accepted. If there are too many, the oldest one that is not an event stream is closed: a client that
//! sends its request at once is answered long before its connection becomes the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Maximum number of connections, event streams excluded. Well below the usual limit of 1024 file descriptors.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of event streams.
const MAX_STREAMS: usize = 16;
/// Time for a whole connection: request and response. An event stream has this time for each event.
const TIME: Duration = Duration::from_secs(10);

/// The open connections.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    /// By age. The handle is absent until the task is started.
    open: BTreeMap<u64, Option<AbortHandle>>,
    streams: BTreeSet<u64>,
}

/// One connection.
#[derive(Clone)]
pub(super) struct Slot {
    number: u64,
    connections: Connections,
    deadline: Arc<Mutex<Instant>>,
}

impl Connections {
    /// Adds a connection, and closes the oldest one if there are too many.
    pub fn open(&self) -> Slot {
        let mut table = self.table();
        while table.open.len() >= MAX_CONNECTIONS {
            table.close_oldest();
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, None);
        Slot { number, connections: self.clone(), deadline: Arc::new(Mutex::new(Instant::now() + TIME)) }
    }

    /// Closes the oldest connection.
    pub fn close_oldest(&self) {
        self.table().close_oldest();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn close_oldest(&mut self) {
        if let Some((_, Some(task))) = self.open.pop_first() {
            task.abort();
        }
    }
}

impl Slot {
    /// Sets the task that serves the connection.
    pub fn set_task(&self, task: AbortHandle) {
        if let Some(slot) = self.connections.table().open.get_mut(&self.number) {
            *slot = Some(task);
        }
    }

    /// Makes the connection an event stream, which is not closed in favour of newer connections. Returns false if there are too many.
    pub fn become_stream(&self) -> bool {
        let mut table = self.connections.table();
        let free = table.streams.len() < MAX_STREAMS;
        if free && table.open.remove(&self.number).is_some() {
            table.streams.insert(self.number);
        }
        free
    }

    /// Gives an event stream time for its next event.
    pub fn extend(&self) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + TIME;
    }

    /// Returns once the connection has used up its time.
    pub async fn expired(&self) {
        loop {
            let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Removes the connection.
    pub fn close(&self) {
        let mut table = self.connections.table();
        table.open.remove(&self.number);
        table.streams.remove(&self.number);
    }
}
