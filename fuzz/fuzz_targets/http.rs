//! Any bytes as a request to the daemon's HTTP server: answered with an HTTP response, or the connection is closed.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bellis::consumer::Null;
use bellis::daemon::{Daemon, DaemonOptions, Status};
use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::runtime::{NamedConsumer, RunOptions};
use libfuzzer_sys::fuzz_target;

static DAEMON: LazyLock<Arc<Status>> = LazyLock::new(|| {
    let pack = Pack::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/daisy-nano")).expect("models/daisy-nano");
    let encoder = Encoder::load(&pack, &LoadOptions::default()).expect("the encoder");
    let policy = PolicySpec::default().build(&pack).expect("the pack's policy");
    let consumers = vec![NamedConsumer { label: "null".into(), consumer: Box::new(Null) }];
    let daemon = Daemon::start(&encoder, policy, consumers, DaemonOptions::new(RunOptions::default()), "none", true);
    let daemon = Box::leak(Box::new(daemon.expect("a daemon without a source")));
    daemon.status().clone()
});

fuzz_target!(|request: &[u8]| {
    let response = bellis::internal::answer(&DAEMON, request).expect("a runtime");
    assert!(response.is_empty() || response.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&response));
});
