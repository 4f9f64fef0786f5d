//! Drawing code that the live page and the reports share: the colours of exit layers, and the band of exit layers.

use std::fmt::Write;

/// The style sheet with the colours, `--layer-0` to `--layer-4`.
pub const STYLE: &str = include_str!("layers.css");
/// The script that draws bands in the live page.
pub const SCRIPT: &str = include_str!("layers.js");
/// The script that draws the bands of a report.
const REPORT: &str = include_str!("report.js");
/// Numbers of the colours.
pub const COLOURS: usize = 5;

/// The colour of `layer` of `layers`, for a style sheet.
pub fn colour(layer: usize, layers: usize) -> String {
    let place = layer.min(layers) * 100 * (COLOURS - 1) / layers.max(1);
    let (below, share) = (place / 100, place % 100);
    match share {
        0 => format!("var(--layer-{below})"),
        _ => format!("color-mix(in srgb,var(--layer-{}) {share}%,var(--layer-{below}))", below + 1),
    }
}

/// A chunk in a band.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Start, seconds.
    pub start: f64,
    /// End, seconds.
    pub end: f64,
    /// Exit layer.
    pub layer: usize,
}

/// The exit layers of a stretch of a stream, over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// Start and end of the stretch, seconds.
    pub from: f64,
    /// See `from`.
    pub until: f64,
    /// Number of layers.
    pub layers: usize,
    /// The chunks.
    pub chunks: Vec<Bar>,
    /// Start, end and name of its parts, if it has any. A name is a word.
    pub parts: Vec<(f64, f64, &'static str)>,
}

impl Band {
    /// A canvas, drawn by [`scripts`].
    pub fn canvas(&self) -> String {
        let mut chunks = String::new();
        for Bar { start, end, layer } in &self.chunks {
            let _ = write!(chunks, "{}[{start:.2},{end:.2},{layer}]", if chunks.is_empty() { "" } else { "," });
        }
        let mut parts = String::new();
        for (start, end, name) in &self.parts {
            let _ = write!(parts, "{}[{start:.2},{end:.2},\"{name}\"]", if parts.is_empty() { "" } else { "," });
        }
        let Self { from, until, layers, .. } = self;
        format!(
            "<canvas class=\"band\" role=\"img\" aria-label=\"Exit layers\" data-band='{{\"from\":{from:.2},\"until\":{until:.2},\
             \"count\":{layers},\"chunks\":[{chunks}],\"parts\":[{parts}]}}'></canvas>"
        )
    }
}

/// The scripts that draw the bands of a report, for the end of its body.
pub fn scripts() -> String {
    format!("<script>\n\"use strict\";\n{SCRIPT}{REPORT}</script>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_the_first_to_the_last() {
        assert_eq!(
            (colour(0, 10), colour(5, 10), colour(10, 10)),
            ("var(--layer-0)".into(), "var(--layer-2)".into(), "var(--layer-4)".into())
        );
        assert_eq!(colour(3, 10), "color-mix(in srgb,var(--layer-2) 20%,var(--layer-1))");
        assert_eq!((colour(0, 0), colour(9, 4)), ("var(--layer-0)".into(), "var(--layer-4)".into()));
        (0..COLOURS).for_each(|number| assert_eq!(STYLE.matches(&format!("--layer-{number}:")).count(), 2, "light and dark"));
    }

    #[test]
    fn a_band_is_json_in_an_attribute() {
        let chunks = vec![Bar { start: 0.0, end: 0.32, layer: 3 }, Bar { start: 0.32, end: 0.64, layer: 10 }];
        let canvas = Band { from: 0.0, until: 0.64, layers: 10, chunks, parts: vec![(0.0, 0.5, "speech")] }.canvas();
        let json = canvas.split('\'').nth(1).unwrap();
        let band: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(band["chunks"], serde_json::json!([[0.0, 0.32, 3], [0.32, 0.64, 10]]));
        assert_eq!((&band["count"], &band["parts"][0][2]), (&10.into(), &"speech".into()));
    }
}
