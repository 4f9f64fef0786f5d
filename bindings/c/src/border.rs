//! The border to C: errors, panics, and what callers pass.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::ffi::{c_char, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

pub type Failure = Box<dyn StdError>;

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
pub fn guarded<T>(failed: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
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
pub unsafe fn text<'a>(pointer: *const c_char) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller passes a string, as documented.
    Ok(Some(unsafe { CStr::from_ptr(pointer) }.to_str()?))
}

/// Path of a caller; `None` for NULL. On Unix any bytes are a path.
///
/// # Safety
///
/// As for `text`.
pub unsafe fn path<'a>(pointer: *const c_char) -> Result<Option<&'a Path>, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: as documented.
        let bytes = (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes());
        Ok(bytes.map(|bytes| Path::new(std::ffi::OsStr::from_bytes(bytes))))
    }
    #[cfg(not(unix))]
    // SAFETY: as documented.
    Ok(unsafe { text(pointer) }?.map(Path::new))
}

/// Why the last function that failed on this thread failed: one line, valid until the next failure. Never NULL.
#[no_mangle]
pub extern "C" fn bellis_error() -> *const c_char {
    ERROR.with(|last| last.borrow().as_ptr())
}

/// The caller's samples; `samples` may be NULL if there are none.
///
/// # Safety
///
/// `samples` points to `count` numbers that outlive the result.
pub unsafe fn numbers<'a, T>(samples: *const T, count: usize) -> Result<&'a [T], &'static str> {
    match (count, samples.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err("samples is NULL"),
        // SAFETY: as documented.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(samples, count) }),
    }
}

/// The caller's 16-bit samples as numbers up to ±1, in `out`.
///
/// # Safety
///
/// As for `numbers`.
pub unsafe fn scaled(samples: *const i16, count: usize, out: &mut Vec<f32>) -> Result<(), &'static str> {
    out.clear();
    // SAFETY: as documented.
    let samples = unsafe { numbers(samples, count) }?;
    out.extend(samples.iter().map(|&sample| f32::from(sample) / 32_768.0));
    Ok(())
}

/// A name for the caller; a zero ends it.
pub fn name(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}
