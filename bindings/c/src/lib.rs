//! C interface: encoders, streams of audio on them, and the search for keywords.
//!
//! Objects are opaque and freed by the caller. Functions that fail return NULL or a negative number, and `bellis_error` then says why,
//! for the calling thread. An encoder may be used by any number of threads; a stream or spotter by one at a time. No panic crosses the border.

mod border;
mod spotter;
mod stream;

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use bellis::engine::{self, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;

use border::{guarded, path, text};

/// Version of the interface: the value of `BellisOptions.version`, and the number of the shared library, `libbellis_c.so.2`. It is raised
/// with incompatible changes.
pub const BELLIS_API: u32 = 2;
/// Returned by functions that fail.
pub const BELLIS_FAILED: c_int = -1;

/// Options of an encoder. Zeros, besides the version, are the defaults.
#[repr(C)]
pub struct Options {
    /// `BELLIS_API`.
    pub version: u32,
    /// Threads for large f32 matrix products; 0 is 1.
    pub threads: u32,
    /// Exit policy with its numbers, such as "gain" or "fixed:6"; NULL for the pack's own.
    pub policy: *const c_char,
    /// "auto", "f32" or "int8"; NULL for "auto".
    pub precision: *const c_char,
}

/// An encoder with an exit policy.
pub struct Encoder {
    pack: Pack,
    encoder: Arc<engine::Encoder>,
    policy: PolicySpec,
}

/// Loads the pack in a folder. `options` may be NULL. Returns NULL on failure.
///
/// # Safety
///
/// `folder` is a string; `options` is NULL or valid, as are its strings.
#[no_mangle]
pub unsafe extern "C" fn bellis_encoder_new(folder: *const c_char, options: *const Options) -> *mut Encoder {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as documented.
        let (folder, options) = unsafe { (path(folder)?, options.as_ref()) };
        let folder = folder.ok_or("folder is NULL")?;
        let (mut load, mut policy) = (LoadOptions::default(), PolicySpec::default());
        if let Some(options) = options {
            if options.version != BELLIS_API {
                let version = options.version;
                return Err(format!("options have version {version}; this library has version {BELLIS_API}").into());
            }
            // SAFETY: as documented.
            let (name, precision) = unsafe { (text(options.policy)?, text(options.precision)?) };
            if let Some(name) = name {
                policy = name.parse()?;
            }
            if let Some(precision) = precision {
                load = load.precision(precision.parse()?);
            }
            load = load.threads(options.threads.max(1) as usize);
        }
        let pack = Pack::open(folder)?;
        policy.build(&pack)?;
        let encoder = engine::Encoder::load(&pack, &load)?;
        Ok(Box::into_raw(Box::new(Encoder { pack, encoder, policy })))
    })
}

/// Frees an encoder; its streams stay valid. NULL is ignored.
///
/// # Safety
///
/// NULL, or from `bellis_encoder_new` and not freed yet.
#[no_mangle]
pub unsafe extern "C" fn bellis_encoder_free(encoder: *mut Encoder) {
    if !encoder.is_null() {
        // SAFETY: as documented.
        drop(unsafe { Box::from_raw(encoder) });
    }
}

/// Number of layers; 0 for NULL.
///
/// # Safety
///
/// NULL or valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_encoder_layers(encoder: *const Encoder) -> u32 {
    // SAFETY: as documented.
    unsafe { encoder.as_ref() }.map_or(0, |encoder| encoder.encoder.layers() as u32)
}

/// Numbers per frame; 0 for NULL.
///
/// # Safety
///
/// NULL or valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_encoder_dim(encoder: *const Encoder) -> u32 {
    // SAFETY: as documented.
    unsafe { encoder.as_ref() }.map_or(0, |encoder| encoder.encoder.dim() as u32)
}
