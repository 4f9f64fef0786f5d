//! Log messages about events that a faulty or slow device repeats many times per second. The counters have every event.

use std::time::{Duration, Instant};

/// Minimum time between two messages.
const INTERVAL: Duration = Duration::from_secs(60);

/// Selects the events that are logged: the first at once, later ones as a sum, at most once a minute.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    logged: Option<Instant>,
    waiting: u64,
}

impl Repeated {
    /// Adds events; returns the number since the last message if one is due.
    pub fn due(&mut self, more: u64, now: Instant) -> Option<u64> {
        self.waiting += more;
        if self.waiting == 0 || self.logged.is_some_and(|logged| now.duration_since(logged) < INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_logged_at_once_and_then_once_a_minute() {
        let (mut log, start) = (Repeated::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log.due(0, at(0)), None);
        assert_eq!(log.due(2, at(1)), Some(2));
        let lines: Vec<_> = (2..200).filter_map(|second| log.due(3, at(second)).map(|count| (second, count))).collect();
        assert_eq!(lines, [(61, 180), (121, 180), (181, 180)]);
        // Events before the end of the minute are reported at its end, also if there are no more.
        assert_eq!(log.due(0, at(241)), Some(54));
        assert_eq!(log.due(0, at(400)), None);
        assert_eq!(log.due(1, at(401)), Some(1));
    }
}
