//! Colours and frames of the plots.
//!
//! plotters writes fixed colours. To support light and dark mode, the plots use marker colours, and the style sheet maps each
//! of them to a variable.

use std::fmt::Write;

use plotters::prelude::*;

use crate::drawing;

pub(super) const MUTED: RGBColor = RGBColor(0, 0, 2);
pub(super) const GRID: RGBColor = RGBColor(0, 0, 3);
const NAMED: [(&str, RGBColor); 2] = [("muted", MUTED), ("grid", GRID)];
/// Colours of the style sheet's `--s0` and on.
const SERIES: u8 = 8;
const FIRST_SERIES: u8 = 16;

/// The colour of the `index`-th line of a picture.
pub(super) fn series(index: usize) -> RGBColor {
    RGBColor(0, 0, FIRST_SERIES + (index % usize::from(SERIES)) as u8)
}

/// The same for the page around the plot.
pub(super) fn series_variable(index: usize) -> String {
    format!("var(--s{})", index % usize::from(SERIES))
}

/// The colour of an exit layer.
pub(super) fn depth(layer: usize) -> RGBColor {
    RGBColor(0, 1, layer.min(255) as u8)
}

/// Rules that map every marker colour to its variable, for a pack of `layers`.
pub(super) fn rules(layers: usize) -> String {
    let mut css = String::new();
    let mut rule = |RGBColor(r, g, b): RGBColor, value: &str| {
        let marker = format!("#{r:02X}{g:02X}{b:02X}");
        let _ = write!(css, "[fill=\"{marker}\"]{{fill:{value}}}[stroke=\"{marker}\"]{{stroke:{value}}}");
    };
    NAMED.iter().for_each(|(name, colour)| rule(*colour, &format!("var(--{name})")));
    (0..usize::from(SERIES)).for_each(|index| rule(series(index), &series_variable(index)));
    for layer in 0..=layers {
        rule(depth(layer), &drawing::colour(layer, layers));
    }
    css
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Two plots side by side on wide screens, one below the other on narrow ones.
pub(super) const SMALL: (u32, u32) = (420, 310);

/// An SVG plot; `None` if there is nothing to draw.
pub(super) fn drawn(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Option<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)
            .and_then(|()| Ok(area.present()?))
            .map_err(|error| log::warn!("cannot draw a plot of the report: {error}"))
            .ok()?;
    }
    Some(text)
}

/// Labels of axes.
pub(super) fn label() -> TextStyle<'static> {
    ("sans-serif", 12.5).into_font().color(&MUTED)
}
