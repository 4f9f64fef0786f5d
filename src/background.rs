//! Threads that do not get in the way of others.

/// Lets the calling thread run only where no other thread of the system wants to.
pub fn lowest_priority() {
    #[cfg(all(unix, not(miri)))]
    unix::set(unix::Policy::Idle, unix::Priority::Min);
}

/// Lets threads that wake up preempt the calling one, and gives it a third of their share of the processor.
#[cfg(feature = "neighbours")]
pub fn preemptible() {
    #[cfg(all(unix, not(miri)))]
    if let Ok(niceness_5) = 35u8.try_into() {
        unix::set(unix::Policy::Batch, unix::Priority::Crossplatform(niceness_5));
    }
}

#[cfg(all(unix, not(miri)))]
mod unix {
    pub use thread_priority::{NormalThreadSchedulePolicy as Policy, ThreadPriority as Priority};
    use thread_priority::{ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};

    pub fn set(policy: Policy, priority: Priority) {
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, ThreadSchedulePolicy::Normal(policy)) {
            log::debug!("cannot lower the priority of a thread: {error:?}");
        }
    }
}
