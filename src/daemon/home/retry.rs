//! Times between attempts to reach a peer.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that lasted for this time was a good one: the next attempt follows soon.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Doubles the time from one attempt to the next, up to a minute.
#[derive(Debug)]
pub struct Retry {
    wait: Duration,
    problem: String,
}

impl Retry {
    /// Before the first attempt.
    pub fn new() -> Self {
        Self { wait: FIRST, problem: String::new() }
    }

    /// After a connection, or an attempt to make one, that took `lasted`: the time to wait.
    pub fn wait(&mut self, lasted: Duration) -> Duration {
        if lasted >= GOOD_AFTER {
            self.wait = FIRST;
        }
        let wait = self.wait;
        self.wait = (2 * wait).min(LONGEST);
        wait
    }

    /// Whether a problem is another one than that of the last attempt, so that it is logged once.
    pub fn is_new(&mut self, problem: &str) -> bool {
        let new = problem != self.problem;
        problem.clone_into(&mut self.problem);
        new
    }

    /// The connection works: any later problem is new.
    pub fn works(&mut self) {
        self.problem.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_starts_again_after_a_good_connection() {
        let mut retry = Retry::new();
        let waits: Vec<u64> = (0..8).map(|_| retry.wait(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retry.wait(GOOD_AFTER).as_secs(), 1);
    }

    #[test]
    fn a_problem_is_new_once() {
        let mut retry = Retry::new();
        assert!(retry.is_new("a") && !retry.is_new("a") && retry.is_new("b"));
        retry.works();
        assert!(retry.is_new("b"));
    }
}
