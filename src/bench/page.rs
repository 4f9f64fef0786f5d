//! The report as one self-contained HTML page with pictures.

use std::fmt::Write;

use plotters::prelude::*;

use super::report::{Cell, Report};

const SIZE: (u32, u32) = (760, 420);
const COLOURS: [RGBColor; 8] = [
    RGBColor(47, 158, 98),
    RGBColor(193, 86, 59),
    RGBColor(74, 127, 181),
    RGBColor(150, 110, 190),
    RGBColor(205, 160, 60),
    RGBColor(90, 90, 90),
    RGBColor(60, 160, 170),
    RGBColor(200, 110, 150),
];
const FONT: (&str, i32) = ("sans-serif", 14);
/// Where clean speech stands on an axis of ratios: this much above the best of them.
const CLEAN_ABOVE_DB: f64 = 8.0;

/// The page.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    let title = format!("{} on {}", escaped(&report.pack), escaped(&report.machine));
    let _ = write!(
        body,
        "<h1>{title}</h1><p>{} cores; bellis {}; chunks of {:.0} ms; {:.0} s of speech in each of {} conditions{}.</p>",
        report.cores,
        escaped(&report.bellis),
        report.chunk_ms,
        report.speech_seconds,
        report.conditions.len(),
        if report.realtime { "; at the sound's own pace" } else { "" }
    );
    let adaptive: Vec<&str> =
        report.policies().into_iter().filter(|name| !name.starts_with("fixed") && *name != "never").collect();
    let mut figure = |heading: &str, text: &str, picture: Option<String>| {
        if let Some(picture) = picture {
            let _ = write!(body, "<h2>{}</h2><p>{}</p>{picture}", escaped(heading), escaped(text));
        }
    };
    figure(
        "Quality against compute",
        "Mean over all conditions. Lower and further left is better; the line joins the fixed depths.",
        drawn(|area| compute(report, &adaptive, area)),
    );
    let depths = adaptive.iter().filter(|name| !name.starts_with("periodic"));
    for name in depths {
        figure(
            &format!("Depth under noise: {name}"),
            &report.of(name).next().map_or_else(String::new, |cell| cell.policy_with_numbers.clone()),
            drawn(|area| depth(report, name, area)),
        );
    }
    figure(
        "Where chunks stop",
        "Share of chunks by exit layer, one bar a condition; the darker, the deeper.",
        adaptive.last().and_then(|name| drawn(|area| exits(report, name, area))),
    );
    figure("Time per chunk", "Computing one chunk, over all conditions.", drawn(|area| latency(report, &adaptive, area)));
    body.push_str(&table(report));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bellis: {title}</title><style>\
         body{{font:16px/1.5 system-ui,sans-serif;max-width:820px;margin:2rem auto;padding:0 1rem;color:#222}}\
         h1{{font-size:1.6rem}}h2{{font-size:1.15rem;margin:2.2rem 0 .2rem}}p{{margin:.2rem 0;color:#555}}svg{{width:100%;height:auto}}\
         table{{border-collapse:collapse;font-size:.85rem;margin-top:1rem}}td,th{{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #eee}}\
         td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){{text-align:left}}</style></head><body>{body}</body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// An SVG picture; nothing where there is nothing to draw.
fn drawn(draw: impl FnOnce(&Area<'_>) -> Drawn) -> Option<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area).and_then(|()| Ok(area.present()?)).map_err(|error| log::warn!("a picture of the report: {error}")).ok()?;
    }
    Some(text)
}

fn compute(report: &Report, adaptive: &[&str], area: &Area<'_>) -> Drawn {
    let full = report.mean("never", |cell| cell.multiply_adds_per_second);
    let at = |name: &str| (100.0 * report.mean(name, |c| c.multiply_adds_per_second) / full, report.mean(name, |c| c.kl));
    let mut fixed: Vec<(f64, f64)> = report.policies().into_iter().filter(|name| name.starts_with("fixed")).map(at).collect();
    fixed.push((100.0, 0.0));
    fixed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let points: Vec<(&str, (f64, f64))> = adaptive.iter().map(|name| (*name, at(name))).collect();
    let all = || fixed.iter().copied().chain(points.iter().map(|(_, point)| *point));
    let right = all().map(|(x, _)| x).fold(100.0, f64::max) * 1.03;
    let top = all().map(|(_, y)| y).fold(0.01, f64::max) * 1.05;
    let mut chart =
        ChartBuilder::on(area).margin(10).x_label_area_size(44).y_label_area_size(56).build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("multiply-adds, % of full depth")
        .y_desc("KL to full depth, nats")
        .label_style(FONT)
        .draw()?;
    chart
        .draw_series(LineSeries::new(fixed.iter().copied(), BLACK.mix(0.6).stroke_width(2)).point_size(3))?
        .label("fixed depths")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.6)));
    for (index, (name, point)) in points.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        chart
            .draw_series([Circle::new(*point, 6, colour.filled())])?
            .label(*name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .label_font(FONT)
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    Ok(())
}

fn depth(report: &Report, policy: &str, area: &Area<'_>) -> Drawn {
    let mut noises: Vec<&str> = Vec::new();
    let mut snrs: Vec<f64> = Vec::new();
    for condition in &report.conditions {
        if let (Some(noise), Some(snr)) = (&condition.noise, condition.snr) {
            if !noises.contains(&noise.as_str()) {
                noises.push(noise);
            }
            if !snrs.contains(&snr) {
                snrs.push(snr);
            }
        }
    }
    let (worst, best) = snrs.iter().fold((f64::MAX, f64::MIN), |(low, high), &snr| (low.min(snr), high.max(snr)));
    if snrs.is_empty() {
        return Err("there was no noise".into());
    }
    let clean = best + CLEAN_ABOVE_DB;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(-clean - 1.0..-worst + 1.0, 0.0..report.layers as f64 + 0.3)?;
    let label = |x: &f64| match 0.0 - x {
        snr if (snr - clean).abs() < 1.5 => "clean".to_owned(),
        snr if snr > best + 0.5 => String::new(),
        snr => format!("{snr:.0} dB"),
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("signal to noise")
        .y_desc("mean exit layer")
        .x_label_formatter(&label)
        .label_style(FONT)
        .draw()?;
    let of = |name: &str| report.of(policy).find(|cell| cell.condition == name).map(|cell| cell.depth);
    for (index, noise) in noises.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut line: Vec<(f64, f64)> = of("clean").map(|depth| (-clean, depth)).into_iter().collect();
        for condition in report.conditions.iter().filter(|condition| condition.noise.as_deref() == Some(noise)) {
            line.extend(of(&condition.name).zip(condition.snr).map(|(depth, snr)| (-snr, depth)));
        }
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(3))?
            .label(*noise)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font(FONT)
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::LowerRight)
        .draw()?;
    Ok(())
}

fn exits(report: &Report, policy: &str, area: &Area<'_>) -> Drawn {
    let cells: Vec<&Cell> = report.of(policy).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(150)
        .build_cartesian_2d(0.0..100.0, 0.0..cells.len() as f64)?;
    let label = |y: &f64| {
        let row = cells.len() as f64 - y - 0.5;
        let near = row.round();
        if (row - near).abs() < 0.01 {
            cells.get(near as usize).map_or_else(String::new, |cell| cell.condition.clone())
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .disable_mesh()
        .x_desc(format!("% of chunks ({policy})"))
        .y_labels(cells.len() * 2 + 1)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 12))
        .draw()?;
    for (row, cell) in cells.iter().enumerate() {
        let total = cell.exits.iter().sum::<u64>().max(1) as f64;
        let mut left = 0.0;
        for (index, count) in cell.exits.iter().enumerate() {
            let right = left + 100.0 * *count as f64 / total;
            let shade = index as f64 / report.layers as f64;
            let colour = RGBColor((235.0 - 200.0 * shade) as u8, (245.0 - 130.0 * shade) as u8, (235.0 - 165.0 * shade) as u8);
            let y = (cells.len() - row) as f64;
            chart.draw_series([Rectangle::new([(left, y - 0.12), (right, y - 0.88)], colour.filled())])?;
            left = right;
        }
    }
    Ok(())
}

fn latency(report: &Report, adaptive: &[&str], area: &Area<'_>) -> Drawn {
    const AT: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
    let names: Vec<&str> = adaptive.iter().copied().chain(["never"]).collect();
    let curve = |name: &str| -> Vec<(f64, f64)> {
        let values: [&dyn Fn(&Cell) -> f64; 5] =
            [&|c| c.chunk_ms.p50, &|c| c.chunk_ms.p90, &|c| c.chunk_ms.p99, &|c| c.chunk_ms.p999, &|c| c.chunk_ms.max];
        values.iter().enumerate().map(|(x, value)| (x as f64, report.mean(name, value).max(1e-3))).collect()
    };
    let curves: Vec<_> = names.iter().map(|name| curve(name)).collect();
    let bounds = curves.iter().flatten().fold((f64::MAX, 0.0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.2..4.2, (bounds.0 * 0.7..bounds.1 * 1.4).log_scale())?;
    let label = |x: &f64| {
        if (x - x.round()).abs() < 0.01 { AT.get(x.round() as usize).unwrap_or(&"").to_string() } else { String::new() }
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(5)
        .x_label_formatter(&label)
        .y_desc("ms")
        .label_style(FONT)
        .draw()?;
    for (index, (name, line)) in names.iter().zip(curves).enumerate() {
        let colour = if *name == "never" { BLACK } else { COLOURS[index % COLOURS.len()] };
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font(FONT)
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    Ok(())
}

fn table(report: &Report) -> String {
    let mut rows = String::new();
    for cell in &report.cells {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.4}</td><td>{:.1} %</td><td>{:.0}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td></tr>",
            escaped(&cell.condition),
            escaped(&cell.policy),
            cell.depth,
            cell.kl,
            100.0 * cell.agreement,
            cell.multiply_adds_per_second / 1e6,
            cell.cpu_seconds_per_second.map_or_else(|| "–".to_owned(), |cpu| format!("{cpu:.4}")),
            cell.chunk_ms.p50,
            cell.chunk_ms.p99,
        );
    }
    format!(
        "<h2>All numbers</h2><table><tr><th>condition</th><th>policy</th><th>depth</th><th>KL</th><th>agreement</th>\
         <th>M mul-adds/s</th><th>CPU s/s</th><th>p50 ms</th><th>p99 ms</th></tr>{rows}</table>"
    )
}
