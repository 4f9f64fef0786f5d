//! What can go wrong with sound, by kind: each kind says when it fires and whether a retry helps.

use std::fmt;

/// General kinds of audio errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AudioErrorKind {
    /// No device has the wanted name, or there is none at all. A retry helps once the device is plugged in.
    DeviceNotFound,
    /// Several devices have the wanted name. A retry does not help; a longer name does.
    AmbiguousDevice,
    /// The device was there and is gone, or its stream became invalid. Opening it anew helps once it is back.
    DeviceLost,
    /// Another program holds the device. A retry after a moment may help.
    DeviceBusy,
    /// The system does not let this user at the device. A retry does not help; a permission does (group `audio`).
    PermissionDenied,
    /// The device or file offers no such rate, channel or format. A retry does not help.
    Unsupported,
    /// The file is missing or cannot be read. A retry does not help.
    NotReadable,
    /// The data is not what it claims to be: broken, truncated, or another format. A retry does not help.
    Malformed,
    /// A file is damaged or cut off. Everything readable was delivered, the rest is counted as lost. A retry does not help.
    Damaged,
    /// The sound system below failed in a way that has no kind of its own. Opening the device anew may help.
    Backend,
}

impl AudioErrorKind {
    /// Whether opening the source again, later, can succeed without anyone changing anything.
    pub fn retry_helps(self) -> bool {
        matches!(self, Self::DeviceNotFound | Self::DeviceLost | Self::DeviceBusy | Self::Backend)
    }
}

/// An audio error: its kind, the device or file, what happened and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioError {
    kind: AudioErrorKind,
    place: String,
    message: String,
}

impl AudioError {
    /// An error at `place` (a device's name, a path); `message` says what happened and what to do.
    pub fn new(kind: AudioErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, place: place.into(), message: message.into() }
    }

    /// Its kind.
    pub fn kind(&self) -> AudioErrorKind {
        self.kind
    }

    /// The device or file.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for AudioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for AudioError {}
