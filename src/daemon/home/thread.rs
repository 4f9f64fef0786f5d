//! The thread of a service with an event loop of its own, which may close its connection before it ends.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

const STOP_WITHIN: Duration = Duration::from_secs(1);

/// A thread that ends when this value is dropped.
pub struct ServiceThread {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceThread {
    /// Starts the thread `name`, which runs `service` until it ends; it should once the receiver changes.
    pub fn start<F: Future<Output = ()>>(
        name: &'static str,
        service: impl FnOnce(watch::Receiver<bool>) -> F + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(service(stopped)),
            Err(error) => log::error!("{name}: {error}"),
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Asks the service to end, and waits for it for a second at most.
    pub fn end(&mut self) {
        let _ = self.stop.send(true);
        let until = Instant::now() + STOP_WITHIN;
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for ServiceThread {
    fn drop(&mut self) {
        self.end();
    }
}
