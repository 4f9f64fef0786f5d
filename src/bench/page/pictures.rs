//! Plots of one report.

use plotters::prelude::*;

use super::axes::{Places, depth_against_noise, kl_against_compute};
use super::paint::{Area, Drawn, GRID, MUTED, depth, label, series};
use crate::bench::report::{ConditionKind, Curve, Report};

/// KL against MACs, % of full depth: the fixed depths as a line, each policy as a point.
pub(super) fn quality(report: &Report, device: bool, area: &Area<'_>) -> Drawn {
    let full = report.cost_and_kl("never", device).ok_or("nothing to compare with")?.0;
    let share = |(cost, kl): (f64, f64)| (100.0 * cost / full, kl);
    // Full depth's KL of 0 has no position on a logarithmic axis.
    let fixed: Vec<(f64, f64)> = report.fixed_depths(device).into_iter().map(share).filter(|(_, kl)| *kl > 0.0).collect();
    let adaptive = report.adaptive();
    let policies: Vec<(usize, (f64, f64))> =
        adaptive.iter().enumerate().filter_map(|(index, name)| Some((index, share(report.cost_and_kl(name, device)?)))).collect();
    let all = || fixed.iter().copied().chain(policies.iter().map(|(_, point)| *point));
    let right = all().map(|(x, _)| x).fold(100.0, f64::max) * 1.03;
    let (low, high) =
        all().map(|(_, y)| y).filter(|y| *y > 0.0).fold((f64::MAX, 0.0), |(low, high), y| (y.min(low), y.max(high)));
    if high == 0.0 {
        return Err("no policy exits early".into());
    }
    let floor = low * 0.7;
    let mut chart = kl_against_compute(area, right, floor..high * 1.3, "MACs, % of full depth")?;
    chart.draw_series(LineSeries::new(fixed.iter().copied(), MUTED.stroke_width(2)))?;
    chart.draw_series(fixed.iter().map(|point| Circle::new(*point, 3, MUTED.filled())))?;
    for (index, (x, y)) in policies {
        chart.draw_series([Circle::new((x, y.max(floor)), 6, series(index).filled())])?;
    }
    Ok(())
}

/// Kinds of noise in a report.
pub(super) fn noises(report: &Report) -> Vec<&str> {
    let mut noises: Vec<&str> = Vec::new();
    for noise in report.conditions.iter().filter_map(|condition| condition.noise.as_deref()) {
        if !noises.contains(&noise) {
            noises.push(noise);
        }
    }
    noises
}

/// SNRs in a report, in descending order.
pub(super) fn ratios(report: &Report) -> Vec<f64> {
    let mut snrs: Vec<f64> = report.conditions.iter().filter_map(|condition| condition.snr).collect();
    snrs.sort_by(|a, b| b.total_cmp(a));
    snrs.dedup();
    snrs
}

/// Mean exit layer against the SNR, a line for each noise.
pub(super) fn depth_under_noise(report: &Report, policy: &str, area: &Area<'_>) -> Drawn {
    let snrs = ratios(report);
    if snrs.is_empty() {
        return Err("no noise was measured".into());
    }
    let mut chart = depth_against_noise(area, &snrs, report.layers)?;
    let of = |name: &str| report.of(policy).find(|cell| cell.condition == name).map(|cell| cell.depth);
    for (index, noise) in noises(report).into_iter().enumerate() {
        let clean = report.first_of_kind(policy, ConditionKind::Clean).map(|cell| (0.0, cell.depth));
        let noisy = report.conditions.iter().filter(|condition| condition.noise.as_deref() == Some(noise));
        let place = |snr: f64| snrs.iter().position(|known| *known == snr).map(|place| place as f64 + 1.0);
        let mut line: Vec<(f64, f64)> =
            clean.into_iter().chain(noisy.filter_map(|condition| Some((place(condition.snr?)?, of(&condition.name)?)))).collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let colour = series(index);
        chart.draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(line.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    Ok(())
}

/// Height of a row of [`exits`].
const ROW: u32 = 19;

/// Width of the names of conditions in [`exits`]; a character of the labels takes about 6.8 pixels.
fn names_width(report: &Report) -> u32 {
    let longest = report.conditions.iter().map(|condition| condition.name.chars().count()).max().unwrap_or(0);
    (longest as f64 * 6.8).ceil() as u32 + 8
}

/// Size of [`exits`]: a row for each condition, with its whole name.
pub(super) fn exits_size(report: &Report) -> (u32, u32) {
    (304 + names_width(report), ROW * report.conditions.len() as u32 + 54)
}

/// Share of chunks by exit layer, a bar for each condition.
pub(super) fn exits(report: &Report, policy: &str, area: &Area<'_>) -> Drawn {
    let cells: Vec<_> = report.of(policy).collect();
    let names = cells.iter().rev().map(|cell| cell.condition.clone()).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(38)
        .y_label_area_size(names_width(report))
        .build_cartesian_2d(0.0..100.0, Places { names, margin: 0.5 })?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(TRANSPARENT)
        .x_desc("% of chunks")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_labels(6)
        .label_style(label())
        .draw()?;
    for (row, cell) in cells.iter().rev().enumerate() {
        let total = cell.exits.iter().sum::<u64>().max(1) as f64;
        let mut left = 0.0;
        for (layer, count) in cell.exits.iter().enumerate().filter(|(_, count)| **count > 0) {
            let right = left + 100.0 * *count as f64 / total;
            let y = row as f64;
            chart.draw_series([Rectangle::new([(left, y - 0.38), (right, y + 0.38)], depth(layer).filled())])?;
            left = right;
        }
    }
    Ok(())
}

/// Mean entropy of every head at full depth: clean, the mean over the noises at each SNR, and the device-like stream.
pub(super) fn entropy(report: &Report, area: &Area<'_>) -> Drawn {
    let lines = entropy_lines(report);
    if lines.is_empty() {
        return Err("the pack has no heads".into());
    }
    let top = lines.iter().flat_map(|(_, line)| line).fold(0.0f64, |top, value| top.max(*value)) * 1.05;
    let names = report.heads.iter().map(usize::to_string).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(14)
        .x_label_area_size(38)
        .y_label_area_size(40)
        .build_cartesian_2d(Places { names, margin: 0.25 }, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc("layer")
        .y_desc("entropy of the head, nats")
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.1}"))
        .label_style(label())
        .draw()?;
    for (index, (_, line)) in lines.iter().enumerate() {
        let points = line.iter().enumerate().map(|(place, entropy)| (place as f64, *entropy));
        chart.draw_series(LineSeries::new(points, series(index).stroke_width(2)))?;
    }
    Ok(())
}

/// Data of [`entropy`]: name, and the value of every head.
pub(super) fn entropy_lines(report: &Report) -> Vec<(String, Vec<f64>)> {
    let of_kind = |kind| report.conditions.iter().filter(move |condition| condition.kind == kind);
    let line = |name: String, conditions: Vec<&Vec<f64>>| {
        let mean = |head: usize| conditions.iter().map(|entropy| entropy[head]).sum::<f64>() / conditions.len() as f64;
        (!conditions.is_empty() && !report.heads.is_empty()).then(|| (name, (0..report.heads.len()).map(mean).collect()))
    };
    let clean = line("clean".into(), of_kind(ConditionKind::Clean).map(|condition| &condition.entropy).collect());
    let noisy = ratios(report).into_iter().filter_map(|snr| {
        let conditions = of_kind(ConditionKind::Noisy).filter(|condition| condition.snr == Some(snr));
        line(format!("{snr:.0} dB"), conditions.map(|condition| &condition.entropy).collect())
    });
    let device = line("device-like".into(), of_kind(ConditionKind::Device).map(|condition| &condition.entropy).collect());
    clean.into_iter().chain(noisy).chain(device).collect()
}

/// Latency by percentile; the axis gives 90 to 99 % as much room as 0 to 90 %.
pub(super) fn latency(curves: &[(&Curve, RGBColor)], area: &Area<'_>) -> Drawn {
    let place = |quantile: f64, chunks: u64| -(1.0 - quantile).max(1.0 / (chunks.max(1) as f64 * 1.3)).log10();
    let lines: Vec<(Vec<(f64, f64)>, RGBColor)> = curves
        .iter()
        .map(|(curve, colour)| (curve.points.iter().map(|(q, ms)| (place(*q, curve.chunks), ms.max(1e-3))).collect(), *colour))
        .collect();
    let points = || lines.iter().flat_map(|(line, _)| line);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max) * 1.02;
    let (low, high) = points().fold((f64::MAX, 0.0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    if high == 0.0 {
        return Err("no chunk was measured".into());
    }
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(14)
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..right, (low * 0.8..high * 1.25).log_scale())?;
    let percent = |x: &f64| {
        let digits = (x.round() as usize).saturating_sub(2);
        if *x < 0.5 { "0 %".to_owned() } else { format!("{:.digits$} %", 100.0 * (1.0 - 10f64.powf(-x.round()))) }
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(right as usize + 1)
        .x_desc("percentile")
        .x_label_formatter(&percent)
        .y_desc("ms")
        .y_labels(6)
        .y_label_formatter(&|y| if *y >= 1.0 { format!("{y:.0}") } else { format!("{y}") })
        .label_style(label())
        .draw()?;
    for (line, colour) in lines {
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
    }
    Ok(())
}
