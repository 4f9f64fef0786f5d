//! Errors of audio sources. Each kind states when it occurs and whether a retry helps.

use std::fmt;

/// General kinds of audio errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AudioErrorKind {
    /// No device matches the requested name, or none exists. A retry helps once the device is connected.
    DeviceNotFound,
    /// Several devices match the requested name. A retry does not help; a longer name or an id does.
    AmbiguousDevice,
    /// The device disappeared, or its stream became invalid. Reopening it helps once it is back.
    DeviceLost,
    /// Another program uses the device. A later retry may help.
    DeviceBusy,
    /// The user may not access the device. A retry does not help; membership in the group `audio` does.
    PermissionDenied,
    /// The device or file does not support the rate, channel or format. A retry does not help.
    Unsupported,
    /// The file is missing or cannot be read. A retry does not help.
    NotReadable,
    /// The data is not valid audio: corrupt, truncated, or in another format. A retry does not help.
    Malformed,
    /// A file is damaged or truncated. All readable audio was delivered; the rest is counted as dropped. A retry does not help.
    Damaged,
    /// The system's audio backend failed for another reason. Reopening the device may help.
    Backend,
}

impl AudioErrorKind {
    /// Whether reopening the source later can succeed without user intervention.
    pub fn retry_helps(self) -> bool {
        matches!(self, Self::DeviceNotFound | Self::DeviceLost | Self::DeviceBusy | Self::Backend)
    }
}

/// An error of a device or file: its kind, where it occurred, the cause and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioError {
    kind: AudioErrorKind,
    place: String,
    message: String,
}

impl AudioError {
    /// Creates an error at `place` (a device's name or a path); `message` states the cause and what to do.
    pub fn new(kind: AudioErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, place: place.into(), message: message.into() }
    }

    /// The kind of error.
    pub fn kind(&self) -> AudioErrorKind {
        self.kind
    }

    /// The device or file.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The cause and what to do, without the device or file.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for AudioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for AudioError {}
