//! bellis
