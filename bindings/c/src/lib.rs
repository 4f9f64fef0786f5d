//! C interface: encoders, and streams of audio on them.
//!
//! Objects are opaque and freed by the caller. Functions that fail return NULL or a negative number, and `bellis_error` then says why,
//! for the calling thread. An encoder may be used by any number of threads; a stream by one at a time. No panic crosses the border.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bellis::audio::Resampler;
use bellis::engine::{self, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::stream::{Representation, Session, SessionOptions};

/// Version of the interface: the value of `BellisOptions.version`.
pub const BELLIS_API: u32 = 1;
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

/// Representation of one chunk. `vectors` belongs to the stream, and is valid until its next call.
#[repr(C)]
pub struct Chunk {
    /// Number of the chunk in its stream, from 0.
    pub index: u64,
    /// Start and length, seconds.
    pub start: f64,
    pub seconds: f64,
    /// The exit layer.
    pub layer: u32,
    /// Frames, one per 20 ms, and numbers per frame.
    pub frames: u32,
    pub dim: u32,
    /// `frames` × `dim` numbers, frame after frame.
    pub vectors: *const f32,
}

/// An encoder with an exit policy.
pub struct Encoder {
    pack: Pack,
    encoder: Arc<engine::Encoder>,
    policy: PolicySpec,
}

/// A stream of audio.
pub struct Stream {
    encoder: Arc<engine::Encoder>,
    resampler: Resampler,
    session: Session,
    samples: Vec<f32>,
    resampled: Vec<f32>,
    current: Option<Representation>,
    ended: bool,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

type Failure = Box<dyn StdError>;

fn set_error(error: &dyn StdError) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text.retain(|c| c != '\0');
    ERROR.with(|last| *last.borrow_mut() = CString::new(text).unwrap_or_default());
}

/// Runs `work`; a failure or a panic is remembered, and `failed` is returned.
fn guarded<T>(failed: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            set_error(&*error);
            failed
        }
        Err(_) => {
            set_error(&*Failure::from("a bug in Bellis; please report it"));
            failed
        }
    }
}

/// Text of a caller; `None` for NULL.
///
/// # Safety
///
/// NULL, or a string that ends with a zero.
unsafe fn text<'a>(pointer: *const c_char) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller passes a string, as documented.
    Ok(Some(unsafe { CStr::from_ptr(pointer) }.to_str()?))
}

/// Why the last function that failed on this thread failed: one line, valid until the next failure. Never NULL.
#[no_mangle]
pub extern "C" fn bellis_error() -> *const c_char {
    ERROR.with(|last| last.borrow().as_ptr())
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
        let (folder, options) = unsafe { (text(folder)?, options.as_ref()) };
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
        let pack = Pack::open(Path::new(folder))?;
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

/// Begins a stream of mono audio at `rate` Hz. Returns NULL on failure.
///
/// # Safety
///
/// `encoder` is valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_new(encoder: *const Encoder, rate: u32) -> *mut Stream {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as documented.
        let own = unsafe { encoder.as_ref() }.ok_or("encoder is NULL")?;
        let session = Session::new(&own.encoder, own.policy.build(&own.pack)?, SessionOptions::default())?;
        let resampler = Resampler::new(rate, own.encoder.audio().sample_rate)?;
        Ok(Box::into_raw(Box::new(Stream {
            encoder: own.encoder.clone(),
            resampler,
            session,
            samples: Vec::new(),
            resampled: Vec::new(),
            current: None,
            ended: false,
        })))
    })
}

/// Frees a stream. NULL is ignored.
///
/// # Safety
///
/// NULL, or from `bellis_stream_new` and not freed yet.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_free(stream: *mut Stream) {
    if !stream.is_null() {
        // SAFETY: as documented.
        drop(unsafe { Box::from_raw(stream) });
    }
}

impl Stream {
    fn push(&mut self, ends: bool) -> Result<c_int, Failure> {
        if self.ended {
            return Err("the stream has ended".into());
        }
        self.current = None;
        self.resampled.clear();
        self.resampler.push(&self.samples, &mut self.resampled);
        if ends {
            self.resampler.finish(&mut self.resampled);
        }
        self.session.push(&self.resampled)?;
        if ends {
            self.session.finish();
            self.ended = true;
        }
        Ok(0)
    }
}

/// The caller's samples; `samples` may be NULL if there are none.
///
/// # Safety
///
/// `samples` points to `count` numbers that outlive the result.
unsafe fn numbers<'a, T>(samples: *const T, count: usize) -> Result<&'a [T], &'static str> {
    match (count, samples.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err("samples is NULL"),
        // SAFETY: as documented.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(samples, count) }),
    }
}

/// Appends samples, full scale ±1. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `stream` is valid, and `samples` points to `count` numbers.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_push_f32(stream: *mut Stream, samples: *const f32, count: usize) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let stream = unsafe { stream.as_mut() }.ok_or("stream is NULL")?;
        stream.samples.clear();
        // SAFETY: as documented.
        stream.samples.extend_from_slice(unsafe { numbers(samples, count) }?);
        stream.push(false)
    })
}

/// Appends 16-bit samples. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `stream` is valid, and `samples` points to `count` numbers.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_push_i16(stream: *mut Stream, samples: *const i16, count: usize) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let stream = unsafe { stream.as_mut() }.ok_or("stream is NULL")?;
        stream.samples.clear();
        // SAFETY: as documented.
        let samples = unsafe { numbers(samples, count) }?;
        stream.samples.extend(samples.iter().map(|&sample| f32::from(sample) / 32_768.0));
        stream.push(false)
    })
}

/// Ends the stream: `bellis_stream_next` then returns the rest. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `stream` is valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_finish(stream: *mut Stream) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let stream = unsafe { stream.as_mut() }.ok_or("stream is NULL")?;
        stream.samples.clear();
        stream.push(true)
    })
}

/// Computes the next chunk. Returns 1 with a chunk, 0 if more samples are needed, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `stream` and `chunk` are valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_next(stream: *mut Stream, chunk: *mut Chunk) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let stream = unsafe { stream.as_mut() }.ok_or("stream is NULL")?;
        if chunk.is_null() {
            return Err("chunk is NULL".into());
        }
        stream.current = stream.session.next_chunk()?;
        let Some(current) = &stream.current else { return Ok(0) };
        let found = Chunk {
            index: current.sequence,
            start: current.start_seconds(),
            seconds: current.seconds(),
            layer: current.exit_layer as u32,
            frames: current.vectors.frames() as u32,
            dim: stream.encoder.dim() as u32,
            vectors: current.vectors.as_slice().as_ptr(),
        };
        // SAFETY: as documented.
        unsafe { chunk.write(found) };
        Ok(1)
    })
}
