//! The live page in Chromium, with a daemon that receives a recording through a virtual microphone. `scripts/test-live-page` installs
//! what it needs, runs it, and updates the pictures in docs/figures.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/pulse.rs"]
mod pulse;
#[path = "common/served.rs"]
mod served;

use std::path::Path;
use std::process::{Command, Stdio};

use browser::Browser;
use common::repository;
use pulse::Pulse;
use served::{Served, within};

const LONG: &str = "models/keywords/demo/long.flac";

fn enroll(folder: &Path) {
    let takes = ["1", "2", "3"].map(|number| repository(&format!("models/keywords/demo/take-{number}.wav")));
    let status = Command::new(env!("CARGO_BIN_EXE_bellis"))
        .args(["enroll", "several", "--from"])
        .args(takes)
        .env("BELLIS_KEYWORDS", folder)
        .current_dir(repository(""))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Text of the first element that matches a selector.
fn text(browser: &Browser, selector: &str) -> String {
    let found = browser.run(&format!("return document.querySelector('{selector}')?.textContent ?? ''"));
    found.as_str().unwrap().to_owned()
}

fn detections(browser: &Browser) -> u64 {
    let script =
        "return [...document.querySelectorAll('#log li:not(.near) b')].filter(line => line.textContent === 'several').length";
    browser.run(script).as_u64().unwrap()
}

fn newest(browser: &Browser) -> f64 {
    browser.run("return newest").as_f64().unwrap()
}

#[test]
#[ignore = "needs Chromium; scripts/test-live-page installs and runs it"]
fn the_page_shows_detections_survives_reloads_and_restarts_and_reports_a_lost_device() {
    let pulse = Pulse::start().expect("PulseAudio is not installed; scripts/test-live-page installs it");
    let keywords = tempfile::tempdir().unwrap();
    enroll(keywords.path());
    let mut environment = pulse.environment();
    environment.push(("BELLIS_KEYWORDS", keywords.path().display().to_string()));
    let arguments =
        ["mic", "--rate", "48000", "--channels", "1", "--ring", "30", "--consumer", "keyword", "--near-misses", "0.3"];
    let served = Served::start(&environment, &arguments);
    served.is("running");
    let address = served.address();
    let browser = Browser::start();
    browser.appearance(1180, 920, "light");
    browser.open(&format!("http://{address}/"));
    within("the page to show the state", || text(&browser, "#state") == "running");

    // What is said appears: chunks, phones, scores and detections.
    let mut playing =
        pulse.command("paplay").args(["--device=mic", "--latency-msec=1000"]).arg(repository(LONG)).spawn().unwrap();
    // The second one is 18 s into the recording.
    within("detections", || detections(&browser) >= 2);
    assert!(browser.run("return chunks.length").as_u64().unwrap() > 10);
    assert!(browser.run("return phones.length").as_u64().unwrap() > 10);
    within("a score", || browser.run("return keywords.get('several').held > 0.2") == true);
    assert_eq!(text(&browser, ".keyword .name"), "several");
    let figures = repository("docs/figures");
    browser.screenshot(&figures.join("live-light.png"));
    browser.appearance(1180, 920, "dark");
    within("the dark colours", || {
        browser.run(
            "return ink.text === getComputedStyle(document.documentElement).getPropertyValue('--ink').trim() && dark.matches",
        ) == true
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    browser.screenshot(&figures.join("live-dark.png"));
    browser.appearance(390, 844, "light");
    std::thread::sleep(std::time::Duration::from_millis(500));
    browser.screenshot(&figures.join("live-phone.png"));
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true, "the phone scrolls sideways");

    // A reload of the page continues with the stream.
    let before = newest(&browser);
    browser.reload();
    within("chunks after a reload", || text(&browser, "#state") == "running" && newest(&browser) > before);
    within("another detection", || detections(&browser) >= 1);
    assert!(playing.wait().unwrap().success());
    assert_eq!(served.metric("bellis_samples_dropped_total"), 0.0);
    assert_eq!(served.metric("bellis_event_subscribers"), 1.0);
    assert_eq!(served.metric("bellis_events_lost_total"), 0.0);
    // Each detection was verified at full depth, which counts as computation.
    assert!(served.metric("bellis_verification_passes_total") >= 1.0);
    let verification = served.metric("bellis_verification_seconds_total");
    assert!(verification > 0.0 && served.metric("bellis_compute_seconds_total") > verification);

    // A lost device.
    pulse.unload_sink();
    within("the lost device", || {
        text(&browser, "#state") == "reconnecting" && text(&browser, "#notice").contains("device is missing")
    });
    pulse.load_sink();
    within("the device's return", || text(&browser, "#state") == "running" && text(&browser, "#notice").is_empty());

    // A restart of the daemon at the same address.
    served.signal("TERM");
    assert!(served.end().0);
    within("the end of the daemon", || text(&browser, "#state") == "offline");
    let address = address.to_string();
    let again = Served::start(&environment, &[&arguments[..], &["--metrics", &address]].concat());
    again.is("running");
    within("the new daemon", || text(&browser, "#state") == "running" && newest(&browser) > 0.0 && newest(&browser) < 60.0);

    // A day of chunks, and a detection in every hundredth: what the page keeps is limited. In parts, because scripts have 30 s.
    let mut kept = serde_json::Value::Null;
    for part in 0..27 {
        kept = browser.run(&format!(
            "const one = chunks[chunks.length - 1];
             for (let number = {part} * 10000; number < ({part} + 1) * 10000; number++) {{
               const sample = (number + 1000) * 5120, start = sample / 16000;
               handlers.chunk({{ ...one, sample }});
               handlers.phone({{ phone: 'a', start, end: start + 0.1, confidence: 1 }});
               if (number % 100 === 0) found({{ keyword: 'several', score: 0.9, threshold: 0.5, start, end: start + 0.5 }}, false);
             }}
             return [chunks.length, phones.length, marks.length, document.querySelectorAll('*').length];"
        ));
    }
    let kept: Vec<u64> = kept.as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).collect();
    assert!(kept[0] < 200 && kept[1] < 200 && kept[2] < 200 && kept[3] < 500, "{kept:?}");

    // Nothing was loaded from anywhere else, and the page reported no error.
    let others = browser.run("return performance.getEntriesByType('resource').map(one => one.name)");
    for name in others.as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with(&format!("http://{address}/")), "{name}");
    }
    again.signal("TERM");
    assert!(again.end().0);
}
