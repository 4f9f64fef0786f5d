//! Streams: samples in, chunks out.

use std::ffi::{c_char, c_int, CString};
use std::sync::Arc;

use bellis::audio::Resampler;
use bellis::consumer::asr::{Decoder, PhoneReader};
use bellis::consumer::StreamInfo;
use bellis::engine;
use bellis::stream::{Representation, Session, SessionOptions};

use crate::border::{guarded, name, numbers, scaled, Failure};
use crate::{Encoder, BELLIS_FAILED};

/// Option of a stream: `BellisChunk` has phones. The pack needs a CTC branch.
pub const BELLIS_PHONES: u32 = 1;

/// A phone that has become final.
#[repr(C)]
pub struct Phone {
    /// IPA, UTF-8.
    pub phone: *const c_char,
    /// Start and end, seconds.
    pub start: f64,
    pub end: f64,
    /// Mean probability.
    pub confidence: f64,
}

/// Representation of one chunk. What it points to belongs to the stream, and is valid until its next call.
#[repr(C)]
pub struct Chunk {
    /// Number of the chunk in its stream, from 0.
    pub index: u64,
    /// Start and length, seconds.
    pub start: f64,
    pub seconds: f64,
    /// The exit layer.
    pub layer: u32,
    /// Frames, one per hop of the pack, and numbers per frame.
    pub frames: u32,
    pub dim: u32,
    /// Number of phones that have become final with this chunk, with `BELLIS_PHONES`.
    pub phone_count: u32,
    /// `frames` × `dim` numbers, frame after frame.
    pub vectors: *const f32,
    /// `phone_count` phones.
    pub phones: *const Phone,
}

/// A stream of audio.
pub struct Stream {
    encoder: Arc<engine::Encoder>,
    resampler: Resampler,
    session: Session,
    samples: Vec<f32>,
    resampled: Vec<f32>,
    reader: Option<PhoneReader>,
    current: Option<Representation>,
    /// The chunk after the current one, computed early at the end, where the last chunk gets the phones that are still pending.
    following: Option<Representation>,
    names: Vec<CString>,
    phones: Vec<Phone>,
    ended: bool,
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

    /// Computes the next chunk and its phones.
    fn step(&mut self) -> Result<bool, Failure> {
        self.current = match self.following.take() {
            Some(chunk) => Some(chunk),
            None => self.session.next_chunk()?,
        };
        (self.names, self.phones) = (Vec::new(), Vec::new());
        let Some(current) = &self.current else { return Ok(false) };
        if let Some(reader) = &mut self.reader {
            let mut found = Vec::new();
            reader.push(current, &mut found)?;
            if self.ended {
                self.following = self.session.next_chunk()?;
                if self.following.is_none() {
                    reader.finish(&mut found);
                }
            }
            self.names.extend(found.iter().map(|phone| name(&phone.phone)));
            let phone = |(one, name): (&bellis::consumer::Phone, &CString)| {
                let (start, end, confidence) = (one.start, one.end, one.confidence);
                Phone { phone: name.as_ptr(), start, end, confidence }
            };
            self.phones.extend(found.iter().zip(&self.names).map(phone));
        }
        Ok(true)
    }
}

/// Begins a stream of mono audio at `rate` Hz. `options` is 0 or `BELLIS_PHONES`. Returns NULL on failure.
///
/// # Safety
///
/// `encoder` is valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_stream_new(encoder: *const Encoder, rate: u32, options: u32) -> *mut Stream {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as documented.
        let own = unsafe { encoder.as_ref() }.ok_or("encoder is NULL")?;
        if options & !BELLIS_PHONES != 0 {
            return Err(format!("options are {options}; this library knows BELLIS_PHONES, {BELLIS_PHONES}").into());
        }
        let phones = options & BELLIS_PHONES != 0;
        let session = Session::new(&own.encoder, own.policy.build(&own.pack)?, SessionOptions::default().ctc(phones))?;
        let audio = own.encoder.audio();
        let reader = phones.then(|| {
            let mut info = StreamInfo::default();
            (info.sample_rate, info.hop_samples) = (audio.sample_rate, audio.hop);
            info.vocabulary = own.encoder.vocabulary().to_vec();
            let mut reader = PhoneReader::new(Decoder::new(None));
            reader.begin(&info);
            reader
        });
        Ok(Box::into_raw(Box::new(Stream {
            encoder: own.encoder.clone(),
            resampler: Resampler::new(rate, audio.sample_rate)?,
            session,
            samples: Vec::new(),
            resampled: Vec::new(),
            reader,
            current: None,
            following: None,
            names: Vec::new(),
            phones: Vec::new(),
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
        // SAFETY: as documented.
        unsafe { scaled(samples, count, &mut stream.samples) }?;
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
        if !stream.step()? {
            return Ok(0);
        }
        let Some(current) = &stream.current else { return Ok(0) };
        let found = Chunk {
            index: current.sequence,
            start: current.start_seconds(),
            seconds: current.seconds(),
            layer: current.exit_layer as u32,
            frames: current.vectors.frames() as u32,
            dim: stream.encoder.dim() as u32,
            phone_count: stream.phones.len() as u32,
            vectors: current.vectors.as_slice().as_ptr(),
            phones: stream.phones.as_ptr(),
        };
        // SAFETY: as documented.
        unsafe { chunk.write(found) };
        Ok(1)
    })
}
