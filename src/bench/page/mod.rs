//! The report as one self-contained HTML page with plots, in light and dark mode.

mod axes;
mod compared;
mod paint;
mod pictures;

use std::fmt::Write;

pub use compared::compared_page;

use self::paint::{SMALL, drawn, rules, series, series_variable};
use super::device::Segment;
use super::report::{Cell, Curve, Report};
use crate::drawing::{self, Band, Bar};

/// The page.
pub fn page(report: &Report) -> String {
    let adaptive = report.adaptive();
    let mut page = Page::new(&format!("{} on {}", report.pack, report.machine), report.layers);
    let speech = report.conditions.first().map_or(0.0, |condition| condition.seconds);
    page.text(&format!(
        "Matmuls in {}, chunks of {:.0} ms, {speech:.0} s of speech at {} Hz, {} conditions{}; {} cores, Bellis {}. Each chunk runs as many of the \
         pack's {} layers as its policy decides; the reference is full depth, <strong>never</strong>.",
        escaped(&report.precision),
        report.chunk_ms,
        report.rate,
        report.conditions.len(),
        if report.realtime { ", in real time" } else { "" },
        report.cores,
        escaped(&report.bellis),
        report.layers,
    ));
    page.cards(&cards(report));

    page.heading(
        "Quality against compute",
        "Lower and further left is better. The grey line connects the fixed depths: a policy is better \
         than a fixed depth where its point is below that line.",
    );
    let policies: Vec<(&str, String)> = adaptive
        .iter()
        .enumerate()
        .map(|(index, name)| (*name, series_variable(index)))
        .chain([("fixed depths", "var(--muted)".to_owned())])
        .collect();
    page.legend(&policies, "");
    page.plots(&[
        ("speech, clean and in noise", drawn(SMALL, |area| pictures::quality(report, false, area))),
        (
            "device-like stream",
            if report.device.is_some() { drawn(SMALL, |area| pictures::quality(report, true, area)) } else { None },
        ),
    ]);

    if !pictures::ratios(report).is_empty() {
        page.heading("Depth against noise", "Mean exit layer. DAISY's premise is that harder audio goes deeper.");
        let noises: Vec<(&str, String)> =
            pictures::noises(report).into_iter().enumerate().map(|(index, name)| (name, series_variable(index))).collect();
        page.legend(&noises, "line");
        let plots = adaptive.iter().filter(|name| !name.starts_with("periodic"));
        let plots: Vec<(&str, Option<String>)> =
            plots.map(|name| (*name, drawn(SMALL, |area| pictures::depth_under_noise(report, name, area)))).collect();
        page.plots(&plots);
    }

    page.heading("Exit layers", "Share of chunks by exit layer, a bar for each condition.");
    let first = report.cells.iter().flat_map(|cell| cell.exits.iter().position(|&count| count > 0)).min().unwrap_or(1);
    page.raw(&format!("<p>layer {first}<span class=\"ramp\"></span>layer {}</p>", report.layers));
    let mut shown = vec![report.focus()];
    shown.extend(adaptive.iter().find(|name| name.starts_with("threshold") && **name != report.focus()));
    let exits = |name: &str| drawn(pictures::exits_size(report), |area| pictures::exits(report, name, area));
    page.plots(&shown.iter().map(|name| (*name, exits(name))).collect::<Vec<_>>());

    if let Some(device) = &report.device {
        page.heading(
            "Device-like stream",
            "30 % speech, 40 % silence (digital, and room tone), 30 % noise alone; exit layers by chunk.",
        );
        for (policy, exits) in device.exits.iter().filter(|(policy, _)| shown.contains(&policy.as_str())) {
            page.band(policy, &device_band(report, &device.segments, exits));
        }
    }

    let entropy: Vec<(String, Vec<f64>)> = pictures::entropy_lines(report);
    if !entropy.is_empty() || !report.chunk_latency.is_empty() {
        page.heading("Entropy and time", "Entropy of each layer's head at full depth, and time per chunk, over all conditions.");
    }
    let mut both = Vec::new();
    if !entropy.is_empty() {
        let names: Vec<_> =
            entropy.iter().enumerate().map(|(index, (name, _))| (name.as_str(), series_variable(index))).collect();
        both.push(("entropy by layer", drawn(SMALL, |area| pictures::entropy(report, area)), names));
    }
    let mut named = shown.clone();
    named.push("never");
    named.dedup();
    for (title, curves) in [("time per chunk", &report.chunk_latency), ("delay from a chunk's last sample", &report.delay)] {
        let chosen: Vec<(&Curve, _)> = named
            .iter()
            .filter_map(|name| curves.iter().find(|curve| curve.policy == *name).map(|curve| (curve, colour_of(report, name))))
            .collect();
        if !chosen.is_empty() {
            let names = chosen.iter().map(|(curve, _)| (curve.policy.as_str(), variable_of(report, &curve.policy))).collect();
            both.push((title, drawn(SMALL, |area| pictures::latency(&chosen, area)), names));
        }
    }
    page.plots_with_legends(&both);

    page.heading(
        "By policy",
        "Means over the conditions with speech; <em>fixed</em> is the KL of a fixed depth with the same MACs.",
    );
    page.raw(&policies_table(report));
    page.raw(&all_numbers(report));
    page.finish("bellis bench")
}

/// Exit layers over the segments of the device-like stream.
fn device_band(report: &Report, segments: &[Segment], exits: &[usize]) -> Band {
    let until = segments.last().map_or(1.0, |segment| segment.start + segment.seconds);
    let chunk = report.chunk_ms / 1e3;
    let bar = |(index, &layer): (usize, &usize)| {
        let start = index as f64 * chunk;
        Bar { start, end: (start + chunk).min(until), layer }
    };
    let part = |one: &Segment| (one.start, one.start + one.seconds, one.kind.name());
    Band {
        from: 0.0,
        until,
        layers: report.layers,
        chunks: exits.iter().enumerate().map(bar).collect(),
        parts: segments.iter().map(part).collect(),
    }
}

/// Seconds of a recording in one band.
const BAND_SECONDS: f64 = 60.0;

/// The page of one run: its summary, and the exit layers of its chunks.
pub fn run_page(source: &str, summary: &str, layers: usize, chunks: &[Bar]) -> String {
    let mut page = Page::new(source, layers);
    page.raw(&format!("<pre>{}</pre>", escaped(summary)));
    page.heading("Exit layers", "The layer after which each chunk exited. Colours as in the live page.");
    let mut rest = chunks;
    while let Some(first) = rest.first() {
        let from = (first.start / BAND_SECONDS).floor() * BAND_SECONDS;
        let count = rest.iter().take_while(|bar| bar.start < from + BAND_SECONDS).count().max(1);
        let (now, later) = rest.split_at(count);
        page.band("", &Band { from, until: from + BAND_SECONDS, layers, chunks: now.to_vec(), parts: Vec::new() });
        rest = later;
    }
    page.finish("bellis run --report")
}

fn index_of(report: &Report, policy: &str) -> Option<usize> {
    report.adaptive().iter().position(|name| *name == policy)
}

fn colour_of(report: &Report, policy: &str) -> plotters::style::RGBColor {
    index_of(report, policy).map_or(paint::MUTED, series)
}

fn variable_of(report: &Report, policy: &str) -> String {
    index_of(report, policy).map_or_else(|| "var(--muted)".to_owned(), series_variable)
}

/// The headline figures: (number, description).
fn cards(report: &Report) -> Vec<(String, String)> {
    let focus = report.focus();
    let full = report.mean("never", |cell| Some(cell.macs_per_second));
    let mut cards = Vec::new();
    let mut card = |number: Option<String>, what: String| cards.extend(number.map(|number| (number, what)));
    let mean = |value: &dyn Fn(&Cell) -> Option<f64>| report.mean(focus, value);
    card(
        mean(&|c| Some(c.depth)).map(|depth| format!("{depth:.1} of {}", report.layers)),
        format!("layers on speech, policy {focus}"),
    );
    let share = mean(&|c| Some(c.macs_per_second)).zip(full).map(|(own, full)| format!("{:.0} %", 100.0 * own / full));
    card(share, "of full depth's MACs".into());
    card(mean(&|c| c.kl).map(|kl| format!("{kl:.3} nats")), "KL(full depth ‖ exit)".into());
    let cpu = mean(&|c| c.cpu_seconds_per_second);
    card(cpu.map(|cpu| format!("{:.1} ms", 1e3 * cpu)), "of processor time per second of speech".into());
    let device = report.device_over_clean(focus).1.map(|ratio| format!("{:.0} %", 100.0 * ratio));
    card(device, "of clean speech's MACs on the device-like stream".into());
    let curve = report.chunk_latency.iter().find(|curve| curve.policy == focus);
    let p99 = curve
        .and_then(|curve| curve.points.iter().find(|(quantile, _)| *quantile >= 0.9899))
        .map(|(_, ms)| format!("{ms:.1} ms"));
    card(p99, format!("99th percentile of the time per chunk of {:.0} ms", report.chunk_ms));
    card(report.peak_memory_bytes.map(|bytes| format!("{:.0} MB", bytes as f64 / 1e6)), "peak memory".into());
    cards
}

const POLICY_HEAD: [&str; 12] =
    ["policy", "depth", "KL", "fixed", "agreement", "M MAC/s", "CPU s/s", "RTF", "p50 ms", "p90", "p99", "max"];

fn policies_table(report: &Report) -> String {
    let mut rows = String::new();
    let number = |value: Option<f64>, digits: usize| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"));
    for policy in report.policies() {
        let mean = |value: &dyn Fn(&Cell) -> Option<f64>| report.mean(policy, value);
        let same_cost = report.fixed_at_same_cost(policy, false).filter(|_| index_of(report, policy).is_some());
        let agreement = mean(&|c| c.agreement).map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let cells = [
            number(mean(&|c| Some(c.depth)), 2),
            number(mean(&|c| c.kl), 4),
            number(same_cost, 4),
            agreement,
            number(mean(&|c| Some(c.macs_per_second / 1e6)), 0),
            number(mean(&|c| c.cpu_seconds_per_second), 4),
            number(mean(&|c| Some(c.real_time_factor)), 4),
            number(mean(&|c| Some(c.chunk_ms.p50)), 2),
            number(mean(&|c| Some(c.chunk_ms.p90)), 2),
            number(mean(&|c| Some(c.chunk_ms.p99)), 2),
            number(report.with_speech(policy).map(|cell| cell.chunk_ms.max).reduce(f64::max), 2),
        ];
        let class = if policy == report.focus() { " class=\"focus\"" } else { "" };
        let _ = write!(rows, "<tr{class}><td>{}</td><td>{}</td></tr>", escaped(policy), cells.join("</td><td>"));
    }
    format!("<div class=\"scroll\"><table><tr><th>{}</th></tr>{rows}</table></div>", POLICY_HEAD.join("</th><th>"))
}

fn all_numbers(report: &Report) -> String {
    let mut rows = String::new();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    for cell in &report.cells {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class=\"name\">{}</td><td>{:.2}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td>\
             <td>{:.2}</td><td>{:.2}</td><td>{:.2}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(&cell.condition),
            escaped(&cell.policy),
            cell.depth,
            or_dash(cell.kl.map(|kl| format!("{kl:.4}"))),
            or_dash(cell.agreement.map(|share| format!("{:.1} %", 100.0 * share))),
            cell.macs_per_second / 1e6,
            or_dash(cell.cpu_seconds_per_second.map(|cpu| format!("{cpu:.4}"))),
            cell.chunk_ms.p50,
            cell.chunk_ms.p90,
            cell.chunk_ms.p99,
            cell.chunk_ms.p999,
            cell.chunk_ms.max,
            or_dash(cell.delay_ms.map(|delay| format!("{:.1}", delay.p99))),
            or_dash(cell.allocations_per_chunk.map(|found| format!("{:.0}", found.count))),
            cell.dropped,
        );
    }
    format!(
        "<details><summary>All numbers</summary><div class=\"scroll\"><table><tr><th>condition</th><th class=\"name\">policy</th><th>depth</th>\
         <th>KL</th><th>agreement</th><th>M MAC/s</th><th>CPU s/s</th><th>p50 ms</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th>\
         <th>delay p99</th><th>allocations</th><th>dropped</th></tr>{rows}</table></div></details>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Names and their colours.
type Legend<'a> = Vec<(&'a str, String)>;

/// A page under construction.
struct Page {
    title: String,
    layers: usize,
    body: String,
    has_bands: bool,
}

impl Page {
    fn new(title: &str, layers: usize) -> Self {
        let title = escaped(title);
        Self { body: format!("<h1>{title}</h1>"), title, layers, has_bands: false }
    }

    fn raw(&mut self, html: &str) {
        self.body.push_str(html);
    }

    fn text(&mut self, html: &str) {
        let _ = write!(self.body, "<p>{html}</p>");
    }

    fn heading(&mut self, heading: &str, html: &str) {
        let _ = write!(self.body, "<h2>{}</h2><p>{html}</p>", escaped(heading));
    }

    fn cards(&mut self, cards: &[(String, String)]) {
        self.body.push_str("<div class=\"cards\">");
        for (number, what) in cards {
            let _ = write!(self.body, "<div class=\"card\"><b>{}</b><span>{}</span></div>", escaped(number), escaped(what));
        }
        self.body.push_str("</div>");
    }

    /// Names and their colours; `class` is the shape of the mark.
    fn legend(&mut self, entries: &[(&str, String)], class: &str) {
        let html = legend(entries, class);
        self.body.push_str(&html);
    }

    /// Plots side by side; those that failed are omitted.
    fn plots(&mut self, plots: &[(&str, Option<String>)]) {
        self.plots_with_legends(&plots.iter().map(|(title, picture)| (*title, picture.clone(), Vec::new())).collect::<Vec<_>>());
    }

    fn plots_with_legends(&mut self, plots: &[(&str, Option<String>, Legend<'_>)]) {
        self.body.push_str("<div class=\"plots\">");
        for (title, picture, names) in plots {
            let Some(picture) = picture else { continue };
            let names = if names.is_empty() { String::new() } else { legend(names, "line") };
            let _ = write!(self.body, "<figure><h3>{}</h3>{names}{picture}</figure>", escaped(title));
        }
        self.body.push_str("</div>");
    }

    fn band(&mut self, title: &str, band: &Band) {
        let title = if title.is_empty() { String::new() } else { format!("<h3>{}</h3>", escaped(title)) };
        let _ = write!(self.body, "<figure class=\"wide\">{title}{}</figure>", band.canvas());
        self.has_bands = true;
    }

    fn finish(self, command: &str) -> String {
        let Self { title, layers, body, has_bands } = self;
        let (style, colours, rules) = (include_str!("style.css"), drawing::STYLE, rules(layers));
        let scripts = if has_bands { drawing::scripts() } else { String::new() };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>Bellis: {title}</title><style>{style}{colours}{rules}</style></head><body><main>{body}\
             <footer>Created by <code>{command}</code>.</footer></main>{scripts}</body></html>\n"
        )
    }
}

fn legend(entries: &[(&str, String)], class: &str) -> String {
    let item = |(name, colour): &(&str, String)| format!("<li class=\"{class}\" style=\"--c:{colour}\">{}</li>", escaped(name));
    format!("<ul class=\"legend\">{}</ul>", entries.iter().map(item).collect::<String>())
}
