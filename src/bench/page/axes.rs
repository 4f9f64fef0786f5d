//! Axes shared by several plots.

use std::error::Error;
use std::ops::Range;

use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::paint::{Area, GRID, label};

/// A plot.
pub(super) type Chart<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

/// An axis with categories 0, 1, 2, …
pub(super) struct Places {
    pub names: Vec<String>,
    /// Margin before the first and after the last.
    pub margin: f64,
}

impl Ranged for Places {
    type ValueType = f64;
    type FormatOption = NoDefaultFormatting;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let span = self.names.len() as f64 - 1.0 + 2.0 * self.margin;
        limit.0 + ((value + self.margin) / span * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (0..self.names.len()).map(|place| place as f64).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        -self.margin..self.names.len() as f64 - 1.0 + self.margin
    }
}

impl ValueFormatter<f64> for Places {
    fn format_ext(&self, value: &f64) -> String {
        self.names.get(value.round() as usize).cloned().unwrap_or_default()
    }
}

/// An empty chart of KL on a logarithmic axis against MACs from 0 to `right`.
pub(super) fn kl_against_compute<'a>(
    area: &Area<'a>,
    right: f64,
    kl: Range<f64>,
    x_axis: &str,
) -> Result<Chart<'a, RangedCoordf64, LogCoord<f64>>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(14)
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..right, kl.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc(x_axis)
        .y_desc("KL(full depth ‖ exit), nats")
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if *y >= 0.01 { format!("{y}") } else { format!("{y:.0e}") })
        .label_style(label())
        .draw()?;
    Ok(chart)
}

/// An empty chart of mean exit layers up to `layers` against clean speech and the SNRs `snrs`, dB.
pub(super) fn depth_against_noise<'a>(
    area: &Area<'a>,
    snrs: &[f64],
    layers: usize,
) -> Result<Chart<'a, Places, RangedCoordf64>, Box<dyn Error>> {
    let names = ["clean".to_owned()].into_iter().chain(snrs.iter().map(|snr| format!("{snr:.0}"))).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(14)
        .x_label_area_size(38)
        .y_label_area_size(40)
        .build_cartesian_2d(Places { names, margin: 0.25 }, 0.0..layers as f64 + 0.2)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc("SNR, dB")
        .y_desc("mean exit layer")
        .y_label_formatter(&|y| format!("{y:.0}"))
        .y_labels(6)
        .label_style(label())
        .draw()?;
    Ok(chart)
}
