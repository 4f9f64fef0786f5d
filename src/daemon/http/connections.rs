//! Limits on the connections of the HTTP server.
//!
//! A new connection is always accepted. If there are too many, the oldest one that is not an event stream is closed: a client that
//! sends its request at once is answered long before its connection becomes the oldest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Maximum number of connections, event streams excluded. Well below the usual limit of 1024 file descriptors.
const MAX_CONNECTIONS: usize = 256;
/// Time for a whole connection: request and response.
const TIME: Duration = Duration::from_secs(10);

/// The open connections.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    /// By age. The handle is absent until the task is started.
    open: BTreeMap<u64, Option<AbortHandle>>,
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
        self.connections.table().open.remove(&self.number);
    }
}
