//! The page that compares two reports.

use std::fmt::Write;

use plotters::prelude::*;

use super::axes::{depth_against_noise, kl_against_compute};
use super::paint::{Area, Drawn, SMALL, drawn, series, series_variable};
use super::pictures::{latency, ratios};
use super::{Page, escaped};
use crate::bench::compared::Compared;
use crate::bench::report::{ConditionKind, Curve, Report};

/// The page for two reports.
pub fn compared_page(compared: &Compared<'_>) -> String {
    let Compared(a, b) = compared;
    let mut page = Page::new("Two runs side by side", a.layers.max(b.layers));
    let [first, second] = compared.titles();
    page.text(&format!("<strong>A</strong> {}<br><strong>B</strong> {}", escaped(&first), escaped(&second)));
    let names = [("A", series_variable(0)), ("B", series_variable(1))];

    page.heading(
        "Quality against compute",
        "Fixed depths as lines, policies as points, over the conditions with speech. Lower and further left is better.",
    );
    page.legend(&names, "");
    page.plots(&[("all policies", drawn(SMALL, |area| quality([a, b], area)))]);

    page.heading(
        "Cost",
        "Processor time per second of audio, and the 99th percentile of the time per chunk; means over the common conditions.",
    );
    page.raw(&table(compared));

    page.heading("Depth and time", "The pack's default policy: mean exit layer over all noises, and time per chunk.");
    page.legend(&names, "line");
    page.plots(&[
        ("depth against noise", drawn(SMALL, |area| depth([a, b], area))),
        ("time per chunk", drawn(SMALL, |area| latency(&curves([a, b]), area))),
    ]);
    page.finish("bellis bench --compare")
}

/// KL against MACs per second.
fn quality(reports: [&Report; 2], area: &Area<'_>) -> Drawn {
    let points = |report: &Report| -> Vec<(f64, f64)> {
        report
            .adaptive()
            .into_iter()
            .filter_map(|name| report.cost_and_kl(name, false))
            .map(|(cost, kl)| (cost / 1e6, kl))
            .collect()
    };
    let line = |report: &Report| -> Vec<(f64, f64)> {
        report.fixed_depths(false).into_iter().filter(|(_, kl)| *kl > 0.0).map(|(cost, kl)| (cost / 1e6, kl)).collect()
    };
    let all: Vec<(f64, f64)> = reports.iter().flat_map(|report| points(report).into_iter().chain(line(report))).collect();
    let right = all.iter().map(|(x, _)| *x).fold(0.0, f64::max) * 1.05;
    let (low, high) =
        all.iter().map(|(_, y)| *y).filter(|y| *y > 0.0).fold((f64::MAX, 0.0f64), |(low, high), y| (low.min(y), high.max(y)));
    if high == 0.0 {
        return Err("nothing to compare".into());
    }
    let floor = low * 0.7;
    let mut chart = kl_against_compute(area, right, floor..high * 1.3, "million MACs per second of audio")?;
    for (index, report) in reports.into_iter().enumerate() {
        chart.draw_series(LineSeries::new(line(report), series(index).stroke_width(2)))?;
        chart.draw_series(points(report).into_iter().map(|(x, y)| Circle::new((x, y.max(floor)), 5, series(index).filled())))?;
    }
    Ok(())
}

/// Mean exit layer of each report's default policy, over the noises, at the common SNRs.
fn depth(reports: [&Report; 2], area: &Area<'_>) -> Drawn {
    let [first, second] = reports.map(ratios);
    let shared: Vec<f64> = first.into_iter().filter(|snr| second.contains(snr)).collect();
    if shared.is_empty() {
        return Err("the reports have no SNR in common".into());
    }
    let layers = reports.iter().map(|report| report.layers).max().unwrap_or(1);
    let mut chart = depth_against_noise(area, &shared, layers)?;
    for (index, report) in reports.into_iter().enumerate() {
        let policy = report.focus();
        let of = |names: &[&str]| {
            let depths: Vec<f64> =
                report.of(policy).filter(|cell| names.contains(&cell.condition.as_str())).map(|cell| cell.depth).collect();
            depths.iter().sum::<f64>() / depths.len().max(1) as f64
        };
        let clean = report.first_of_kind(policy, ConditionKind::Clean).map_or(0.0, |cell| cell.depth);
        let at = |snr: &f64| {
            let names = report.conditions.iter().filter(|condition| condition.snr == Some(*snr));
            of(&names.map(|condition| condition.name.as_str()).collect::<Vec<_>>())
        };
        let line: Vec<(f64, f64)> =
            [clean].into_iter().chain(shared.iter().map(at)).enumerate().map(|(place, depth)| (place as f64, depth)).collect();
        chart.draw_series(LineSeries::new(line.iter().copied(), series(index).stroke_width(2)))?;
        chart.draw_series(line.iter().map(|point| Circle::new(*point, 3, series(index).filled())))?;
    }
    Ok(())
}

/// Time per chunk of each report's default policy.
fn curves<'a>(reports: [&'a Report; 2]) -> Vec<(&'a Curve, RGBColor)> {
    let own = |(index, report): (usize, &'a Report)| {
        report.chunk_latency.iter().find(|curve| curve.policy == report.focus()).map(|curve| (curve, series(index)))
    };
    reports.into_iter().enumerate().filter_map(own).collect()
}

fn table(compared: &Compared<'_>) -> String {
    let mut rows = String::new();
    let pair = |(a, b): (f64, f64), digits: usize| format!("<td>{a:.digits$}</td><td>{b:.digits$}</td>");
    for row in compared.rows() {
        let kl = row.kl.map_or_else(|| "<td>–</td><td>–</td>".to_owned(), |kl| pair(kl, 4));
        let cpu = row.cpu.map_or_else(
            || "<td>–</td><td>–</td><td>–</td>".to_owned(),
            |cpu| format!("{}<td>{:.2}</td>", pair((1e3 * cpu.0, 1e3 * cpu.1), 2), cpu.1 / cpu.0),
        );
        let _ = write!(
            rows,
            "<tr><td>{}</td>{}{kl}{cpu}{}<td>{:.2}</td></tr>",
            escaped(row.policy),
            pair(row.depth, 2),
            pair(row.p99, 2),
            row.p99.1 / row.p99.0
        );
    }
    format!(
        "<div class=\"scroll\"><table><tr><th>policy</th><th>depth A</th><th>B</th><th>KL A</th><th>B</th><th>CPU ms/s A</th><th>B</th><th>B/A</th>\
         <th>p99 ms A</th><th>B</th><th>B/A</th></tr>{rows}</table></div>"
    )
}
