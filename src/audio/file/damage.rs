//! Damage to a file, reported in one line after all readable audio was delivered.

use crate::audio::{AudioError, AudioErrorKind};

/// Maximum number of damaged places in the message.
const NAMED: usize = 4;

/// The damaged and missing samples of a file.
#[derive(Debug, Default)]
pub(super) struct Damage {
    places: Vec<(u64, u64)>,
    count: u64,
    lost: u64,
    cut_off: Option<(u64, u64)>,
}

impl Damage {
    /// Records `samples` lost at `position`.
    pub fn lose(&mut self, position: u64, samples: u64) {
        self.lost += samples;
        match self.places.last_mut() {
            Some((at, count)) if *at + *count == position => *count += samples,
            _ => {
                self.count += 1;
                if self.places.len() < NAMED {
                    self.places.push((position, samples));
                }
            }
        }
    }

    /// Records that the file ends at `position` although its header declares `samples` more (0: unknown).
    pub fn cut_off(&mut self, position: u64, samples: u64) {
        self.cut_off.get_or_insert((position, samples));
    }

    pub fn is_none(&self) -> bool {
        self.count == 0 && self.cut_off.is_none()
    }

    /// Returns an error of kind [`AudioErrorKind::Damaged`] if any samples are lost.
    pub fn outcome(&self, place: &str, rate: u32, delivered: u64) -> Result<(), AudioError> {
        if self.is_none() {
            return Ok(());
        }
        let seconds = |samples: u64| format!("{:.2} s", samples as f64 / f64::from(rate.max(1)));
        let mut text = String::new();
        if self.count > 0 {
            let mut places: Vec<String> =
                self.places.iter().map(|(at, count)| format!("{count} at sample {at} ({})", seconds(*at))).collect();
            if self.count > self.places.len() as u64 {
                places.push(format!("and {} more", self.count - self.places.len() as u64));
            }
            text = format!("is damaged: {} samples are lost ({})", self.lost, places.join(", "));
        }
        if let Some((at, missing)) = self.cut_off {
            let and = if text.is_empty() { "" } else { ", and it " };
            text += &match missing {
                0 => format!("{and}is cut off at sample {at} ({})", seconds(at)),
                _ => format!("{and}is cut off at sample {at} ({}): the header declares {missing} more", seconds(at)),
            };
        }
        text += &format!("; the other {delivered} samples were read");
        Err(AudioError::new(AudioErrorKind::Damaged, place, text))
    }
}
