//! What several targets use.

/// A library that panics on a broken graph while it is loaded is caught, which is not a finding; any other panic is.
pub fn abort_on_panics_after_loading() {
    std::panic::set_hook(Box::new(|panic| {
        if !bellis::internal::is_loading() {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
}
