//! Any bytes from a peer of the Wyoming service, in pieces of any size: handled, or the connection is closed.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bellis::daemon::home::{Enrolled, Model};
use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::internal::wyoming::{Conversation, Message, Parser, Service};
use bellis::keyword::{PackRef, SearchOptions};
use bellis::pack::Pack;
use libfuzzer_sys::fuzz_target;

/// Audio of a conversation, bytes: a few bytes may announce hours of audio at a low rate.
const MAX_AUDIO: usize = 1 << 16;

static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let pack = Arc::new(Pack::open(&root.join("models/daisy-nano")).expect("models/daisy-nano"));
    let encoder = Encoder::load(&pack, &LoadOptions::default()).expect("the encoder");
    let enrolled = Enrolled::new(&root.join("fuzz/keywords"), PackRef::to(&pack));
    let chunk_frames = pack.default_chunk_frames();
    let model = Model { encoder, pack, policy: PolicySpec::default(), chunk_frames, search: SearchOptions::default() };
    Arc::new(Service { model, enrolled: Arc::new(enrolled) })
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let (mut parser, mut conversation) = (Parser::default(), Conversation::new(SERVICE.clone()));
    let (mut answers, mut audio) = (Vec::new(), 0);
    for piece in bytes.chunks(usize::from(size) + 1) {
        parser.push(piece);
        loop {
            match parser.next_message() {
                Ok(Some(message)) => {
                    audio += message.payload.len();
                    if audio > MAX_AUDIO || conversation.handle(&message, &mut answers).is_err() {
                        return check(&answers);
                    }
                }
                Ok(None) => break,
                Err(_) => return check(&answers),
            }
        }
    }
    check(&answers);
});

/// Answers are messages.
fn check(answers: &[u8]) {
    let mut parser = Parser::default();
    parser.push(answers);
    while let Some(Message { kind, .. }) = parser.next_message().expect("the answers are messages") {
        assert!(!kind.is_empty());
    }
    assert!(!parser.is_within_message());
}
