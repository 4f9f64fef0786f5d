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

use std::io::{Read, Write};
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

/// A site that is not the daemon's.
fn other_site() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        }
    });
    address
}

/// Waits for something that takes minutes on a loaded machine.
#[track_caller]
fn patiently(what: &str, mut condition: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(900);
    while !condition() {
        assert!(std::time::Instant::now() < until, "timeout while waiting for {what}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs Chromium; scripts/test-live-page installs and runs it"]
fn keywords_are_enrolled_from_the_page_by_recording_and_by_text() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let pulse = Pulse::start().expect("PulseAudio is not installed; scripts/test-live-page installs it");
    let folder = tempfile::tempdir().unwrap();
    let (token, keywords) = (folder.path().join("token"), folder.path().join("keywords"));
    std::fs::write(&token, TOKEN).unwrap();
    let mut environment = pulse.environment();
    environment.push(("BELLIS_KEYWORDS", keywords.display().to_string()));
    let token = token.display().to_string();
    let arguments =
        ["mic", "--rate", "48000", "--channels", "1", "--ring", "30", "--consumer", "keyword", "--page-token-file", &token];
    let served = Served::start(&environment, &arguments);
    served.is("running");
    let address = served.address();
    let browser = Browser::start();
    browser.appearance(1180, 980, "light");
    browser.open(&format!("http://{address}/"));
    within("the form", || browser.run("return !document.getElementById('enrolment').hidden") == true);
    let submit = |form: &str, values: &[(&str, &str)]| {
        let set: String =
            values.iter().map(|(id, value)| format!("document.getElementById('{id}').value = '{value}';")).collect();
        browser.run(&format!("{set} document.getElementById('{form}').requestSubmit();"));
    };
    let progress = || text(&browser, "#progress");
    submit("unlock", &[("token", "not the token")]);
    within("the wrong token to be refused", || progress() == "This is not the token.");
    assert_eq!(browser.run("return document.getElementById('enroll').hidden"), true);
    submit("unlock", &[("token", TOKEN)]);
    within("the keywords", || browser.run("return !document.getElementById('enroll').hidden") == true);

    // By recording on the device.
    submit("enroll", &[("name", "several"), ("takes", "3")]);
    for number in 1..=3 {
        within("the request to speak", || progress().contains(&format!("take {number} of 3")));
        // The recorder learns the level of the room first.
        std::thread::sleep(std::time::Duration::from_millis(700));
        let take = repository(&format!("models/keywords/demo/take-{number}.wav"));
        assert!(pulse.command("paplay").arg("--device=mic").arg(take).status().unwrap().success());
    }
    patiently("the threshold", || progress().contains("enrolled"));
    let listed = || text(&browser, "#enrolled li b");
    within("the list", || listed() == "several");
    // It is searched for at once.
    let mut playing =
        pulse.command("paplay").args(["--device=mic", "--latency-msec=1000"]).arg(repository(LONG)).spawn().unwrap();
    within("a detection", || detections(&browser) >= 1);
    browser.screenshot(&repository("docs/figures").join("live-enrol.png"));
    playing.kill().unwrap();
    playing.wait().unwrap();

    // The sensitivity sets the threshold.
    let threshold = || {
        let text = std::fs::read_to_string(keywords.join("several.keyword.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("threshold")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let before = threshold();
    browser.run(
        "const slide = document.querySelector('#enrolled input'); slide.value = 0; slide.dispatchEvent(new Event('change'));",
    );
    within("a higher threshold", || threshold() > before);
    within("the running search", || {
        browser.run(&format!("return keywords.get('several')?.title === 'threshold {:.3}'", threshold())) == true
    });

    // Saying that a near miss was the phrase moves the threshold below its score.
    let missed = threshold() - 0.05;
    browser.run(&format!(
        "found({{ keyword: 'several', score: {missed}, threshold: {} }}, true); document.querySelector('#log .near .label').click();",
        threshold()
    ));
    within("the feedback", || threshold() < missed);

    // From text, beside it.
    submit("enroll", &[("name", "lamp"), ("say", "turn on the lamp"), ("takes", "0")]);
    patiently("the keyword from text", || progress().contains("lamp”: enrolled"));
    within("the list", || browser.run("return document.querySelectorAll('#enrolled li').length") == 2);
    submit("enroll", &[("name", "lamp"), ("say", "turn on the lamp")]);
    within("the refusal", || progress().contains("exists"));

    // Another site cannot use the daemon through this browser, even if it knows the token.
    let other = Browser::start();
    other.open(&format!("http://{}/", other_site()));
    let answered = other.run(&format!(
        "return fetch('http://{address}/keywords', {{ method: 'POST', headers: {{ Authorization: 'Bearer {TOKEN}', 'Content-Type': 'application/json' }},
           body: JSON.stringify({{ action: 'remove', name: 'lamp' }}) }}).then(answer => answer.status, error => 'failed')"
    ));
    assert_eq!(answered, "failed");
    let blind = other.run(&format!(
        "return fetch('http://{address}/keywords', {{ method: 'POST', mode: 'no-cors', body: JSON.stringify({{ action: 'remove', name: 'lamp' }}) }})
           .then(answer => answer.type, error => 'failed')"
    ));
    assert_eq!(blind, "opaque");
    assert!(keywords.join("lamp.keyword.toml").exists());

    // Removed from the page, and no longer searched for, down to the last one.
    for left in [1, 0] {
        browser.run("window.confirm = () => true; document.querySelector('#enrolled button').click();");
        within("the list", || browser.run("return document.querySelectorAll('#enrolled li').length") == left);
    }
    within("the end of the search", || {
        browser.run("return chunks.length") != 0 && browser.run("return document.querySelectorAll('.keyword').length") == 0
    });
    served.signal("TERM");
    assert!(served.end().0);
}
