//! A chunk, identified by its number.

pub struct Representation {
    pub sequence: u64,
}
