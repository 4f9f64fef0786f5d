//! Keywords in a stream: samples in, detections out.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, CString};
use std::time::Duration;

use bellis::keyword::{Detection, Event, KeywordStream, SearchOptions, MOST_REFRACTORY};

use crate::border::{guarded, name, numbers, path, scaled, Failure};
use crate::{Encoder, BELLIS_API, BELLIS_FAILED};

/// Options of a spotter. Zeros, besides the version, are the defaults.
#[repr(C)]
pub struct SpotterOptions {
    /// `BELLIS_API`.
    pub version: u32,
    /// Least score of a near miss; 0 for none.
    pub near_misses: f32,
    /// False accepts per hour that the thresholds allow; 0 for those at enrolment.
    pub false_accepts: f64,
    /// Seconds after a detection without another one of the same keyword; 0 for the default.
    pub refractory: f64,
}

/// A detection, or a near miss. `keyword` belongs to the spotter, and is valid until its next call.
#[repr(C)]
pub struct KeywordEvent {
    /// Name of the keyword, UTF-8.
    pub keyword: *const c_char,
    /// 1 for a detection, 0 for a near miss.
    pub detected: c_int,
    /// Its score, 0 to 1, and the score that a detection has to reach.
    pub score: f32,
    pub threshold: f32,
    /// Start and end, seconds from the start of the stream.
    pub start: f64,
    pub end: f64,
}

/// A search for keywords in one stream.
pub struct Spotter {
    stream: KeywordStream,
    samples: Vec<f32>,
    waiting: VecDeque<Found>,
    current: CString,
    keywords: Vec<CString>,
    ended: bool,
}

/// A detection with its name.
struct Found {
    keyword: CString,
    detected: bool,
    score: f32,
    threshold: f32,
    start: f64,
    end: f64,
}

impl Spotter {
    fn push(&mut self, ends: bool) -> Result<c_int, Failure> {
        if self.ended {
            return Err("the stream has ended".into());
        }
        self.ended = ends;
        let rate = self.stream.position_rate();
        let Self { stream, samples, waiting, .. } = self;
        let each = |found: Detection<'_>| {
            waiting.push_back(Found {
                keyword: name(found.keyword),
                detected: found.event == Event::Detection,
                score: found.score,
                threshold: found.threshold,
                start: found.start as f64 / rate,
                end: found.end as f64 / rate,
            });
        };
        match ends {
            false => stream.push(samples, each)?,
            true => stream.finish(each)?,
        }
        Ok(0)
    }
}

/// Begins a stream of mono audio at `rate` Hz, searched for the keywords that are in `folder` now (`*.keyword.toml`, from `bellis enroll`).
/// Files that cannot be used, such as those of another pack, are skipped unless none is left: `bellis_spotter_keyword` lists the others.
/// `options` may be NULL. Returns NULL on failure.
///
/// # Safety
///
/// `encoder` is valid, `folder` is a string, and `options` is NULL or valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_new(
    encoder: *const Encoder,
    folder: *const c_char,
    rate: u32,
    options: *const SpotterOptions,
) -> *mut Spotter {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as documented.
        let (own, folder, options) = unsafe { (encoder.as_ref(), path(folder)?, options.as_ref()) };
        let (own, folder) = (own.ok_or("encoder is NULL")?, folder.ok_or("folder is NULL")?);
        let mut search = SearchOptions::default();
        if let Some(options) = options {
            if options.version != BELLIS_API {
                let version = options.version;
                return Err(format!("options have version {version}; this library has version {BELLIS_API}").into());
            }
            if !(0.0..=1.0).contains(&options.near_misses) {
                return Err(format!("near_misses must be between 0 and 1, got {}", options.near_misses).into());
            }
            if !(options.false_accepts.is_finite() && options.false_accepts >= 0.0) {
                return Err(format!("false_accepts must be 0 or more, got {}", options.false_accepts).into());
            }
            if !(0.0..=MOST_REFRACTORY).contains(&options.refractory) {
                return Err(
                    format!("refractory must be between 0 and {MOST_REFRACTORY} seconds, got {}", options.refractory).into()
                );
            }
            search.near_miss = (options.near_misses > 0.0).then_some(options.near_misses);
            search.false_accepts = (options.false_accepts > 0.0).then_some(options.false_accepts);
            search.refractory = (options.refractory > 0.0).then(|| Duration::from_secs_f64(options.refractory));
        }
        let stream = KeywordStream::new(&own.pack, &own.encoder, &own.policy, folder, &search, rate)?;
        if stream.names().is_empty() {
            return Err(format!(
                "{folder}: contains no keyword; enroll one with `bellis enroll NAME --say PHRASE --folder {folder}`",
                folder = folder.display()
            )
            .into());
        }
        let keywords = stream.names().iter().map(|own| name(own)).collect();
        let (samples, waiting, current) = (Vec::new(), VecDeque::new(), CString::default());
        Ok(Box::into_raw(Box::new(Spotter { stream, samples, waiting, current, keywords, ended: false })))
    })
}

/// Name of keyword `index` of those that are searched for, UTF-8; NULL after the last one. It belongs to the spotter.
///
/// # Safety
///
/// `spotter` is valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_keyword(spotter: *const Spotter, index: usize) -> *const c_char {
    guarded(std::ptr::null(), || {
        // SAFETY: as documented.
        let spotter = unsafe { spotter.as_ref() }.ok_or("spotter is NULL")?;
        Ok(spotter.keywords.get(index).map_or(std::ptr::null(), |keyword| keyword.as_ptr()))
    })
}

/// Frees a spotter. NULL is ignored.
///
/// # Safety
///
/// NULL, or from `bellis_spotter_new` and not freed yet.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_free(spotter: *mut Spotter) {
    if !spotter.is_null() {
        // SAFETY: as documented.
        drop(unsafe { Box::from_raw(spotter) });
    }
}

/// Searches samples, full scale ±1. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `spotter` is valid, and `samples` points to `count` numbers.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_push_f32(spotter: *mut Spotter, samples: *const f32, count: usize) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let spotter = unsafe { spotter.as_mut() }.ok_or("spotter is NULL")?;
        spotter.samples.clear();
        // SAFETY: as documented.
        spotter.samples.extend_from_slice(unsafe { numbers(samples, count) }?);
        spotter.push(false)
    })
}

/// Searches 16-bit samples. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `spotter` is valid, and `samples` points to `count` numbers.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_push_i16(spotter: *mut Spotter, samples: *const i16, count: usize) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let spotter = unsafe { spotter.as_mut() }.ok_or("spotter is NULL")?;
        // SAFETY: as documented.
        unsafe { scaled(samples, count, &mut spotter.samples) }?;
        spotter.push(false)
    })
}

/// Ends the stream: `bellis_spotter_next` then returns what was pending. Returns 0, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `spotter` is valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_finish(spotter: *mut Spotter) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        unsafe { spotter.as_mut() }.ok_or("spotter is NULL")?.push(true)
    })
}

/// Returns 1 with the next detection or near miss in the samples so far, 0 if there is none, or `BELLIS_FAILED`.
///
/// # Safety
///
/// `spotter` and `event` are valid.
#[no_mangle]
pub unsafe extern "C" fn bellis_spotter_next(spotter: *mut Spotter, event: *mut KeywordEvent) -> c_int {
    guarded(BELLIS_FAILED, || {
        // SAFETY: as documented.
        let spotter = unsafe { spotter.as_mut() }.ok_or("spotter is NULL")?;
        if event.is_null() {
            return Err("event is NULL".into());
        }
        let Some(found) = spotter.waiting.pop_front() else { return Ok(0) };
        spotter.current = found.keyword;
        let Found { detected, score, threshold, start, end, .. } = found;
        let event_of =
            KeywordEvent { keyword: spotter.current.as_ptr(), detected: detected.into(), score, threshold, start, end };
        // SAFETY: as documented.
        unsafe { event.write(event_of) };
        Ok(1)
    })
}
