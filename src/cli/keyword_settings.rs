//! `bellis keywords set` and `bellis keywords feedback`: changes in a keyword's file.

use std::path::{Path, PathBuf};

use anyhow::bail;
use bellis::keyword::{Keyword, KeywordError, Label, MOST_REFRACTORY, false_accepts_of, load};
use clap::{ArgGroup, Args};

use super::enroll::{requested_rate, rounded};
use super::keywords::file_of;

/// Change the settings of a keyword
///
/// They are stored in its file and apply to every program that searches for it. A running daemon applies them within seconds.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("settings").required(true).multiple(true)))]
pub struct Set {
    /// Name or file of the keyword
    keyword: PathBuf,
    /// False accepts per hour of speech that the threshold allows
    #[arg(long, value_name = "PER-HOUR", group = "settings", conflicts_with_all = ["sensitivity", "threshold"])]
    false_accepts: Option<f64>,
    /// Sensitivity, 0 to 1: 0.05 to 5 false accepts per hour
    #[arg(long, value_name = "SENSITIVITY", group = "settings", conflicts_with = "threshold")]
    sensitivity: Option<f64>,
    /// Fixed threshold, 0 to 1
    #[arg(long, value_name = "SCORE", group = "settings")]
    threshold: Option<f32>,
    /// Seconds without a second detection
    #[arg(long, value_name = "SECONDS", group = "settings")]
    refractory: Option<f64>,
    /// Priority among keywords that are detected in the same audio; the highest one is reported
    #[arg(long, value_name = "NUMBER", group = "settings", allow_hyphen_values = true)]
    priority: Option<i32>,
}

/// Label detections as wrong, or utterances as missed, to adjust the threshold
///
/// Scores are those of detections and near misses. The threshold moves as far as it has to, within 0.05 to 5 false accepts per hour, and up to 0.5
/// for keywords from text.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("labels").required(true).multiple(true)))]
pub struct Feedback {
    /// Name or file of the keyword
    keyword: PathBuf,
    /// Score of a detection of something else; repeatable
    #[arg(long, value_name = "SCORE", group = "labels")]
    wrong: Vec<f32>,
    /// Score of an utterance of the phrase, for example of a near miss; repeatable
    #[arg(long, value_name = "SCORE", group = "labels")]
    right: Vec<f32>,
    /// Forget all earlier feedback
    #[arg(long, group = "labels")]
    forget: bool,
}

impl Set {
    pub fn run(self, folder: &Path) -> anyhow::Result<()> {
        let path = file_of(folder, &self.keyword)?;
        let mut keyword = load(&path, None)?;
        if let Some(rate) = requested_rate(self.false_accepts, self.sensitivity)?
            && !keyword.set_false_accepts(rate)
        {
            return Err(KeywordError::FixedThreshold { path }.into());
        }
        if let Some(threshold) = self.threshold {
            if !(0.0..=1.0).contains(&threshold) {
                bail!("--threshold must be between 0 and 1, got {threshold}");
            }
            keyword.set_threshold(threshold);
        }
        if let Some(seconds) = self.refractory {
            if !(0.0..=MOST_REFRACTORY).contains(&seconds) {
                bail!("--refractory must be between 0 and {MOST_REFRACTORY} seconds, got {seconds}");
            }
            keyword.refractory_seconds = Some(seconds);
        }
        keyword.priority = self.priority.unwrap_or(keyword.priority);
        keyword.save(&path)?;
        outln!("{}", settings(&keyword));
        if self.false_accepts.or(self.sensitivity).is_some()
            && keyword.feedback.is_empty()
            && keyword.threshold_for(false_accepts_of(0.0)) == keyword.threshold_for(false_accepts_of(1.0))
        {
            errln!(
                "note: the threshold is the lowest one for a phrase from text at any rate, because the background speech never resembles the \
                 phrase; --threshold raises it"
            );
        }
        Ok(())
    }
}

impl Feedback {
    pub fn run(self, folder: &Path) -> anyhow::Result<()> {
        let path = file_of(folder, &self.keyword)?;
        let mut keyword = load(&path, None)?;
        if let Some(score) = self.wrong.iter().chain(&self.right).find(|score| !(0.0..=1.0).contains(*score)) {
            bail!("a score must be between 0 and 1, got {score}");
        }
        if self.forget {
            keyword.feedback.forget();
        }
        self.wrong.iter().for_each(|score| keyword.feedback.add(Label::FalseAccept, *score));
        self.right.iter().for_each(|score| keyword.feedback.add(Label::Utterance, *score));
        let before = keyword.threshold;
        keyword.apply_feedback();
        keyword.save(&path)?;
        outln!("{}: threshold {before:.3} before, {:.3} now", keyword.name, keyword.threshold);
        let against = keyword.feedback.contradicted(keyword.threshold);
        if against > 0 {
            let remedy = match &keyword.say {
                None => "Enroll it again with its recordings and one more, or use a longer phrase".to_owned(),
                Some(say) => format!(
                    "Enroll it again with a recording (`bellis enroll {} --say \"{}\" --language {} --pack {} --record 1 --replace`), or use a \
                     longer phrase",
                    keyword.name, say.phrase, say.language, keyword.pack.name
                ),
            };
            errln!(
                "warning: this threshold contradicts {against} of the scores, and no allowed one agrees with more of them. {remedy}."
            );
        }
        Ok(())
    }
}

/// The settings of a keyword, in one line.
fn settings(keyword: &Keyword) -> String {
    let mut parts = vec![format!("{}: threshold {:.3}", keyword.name, keyword.threshold)];
    let own = keyword.threshold_without_feedback();
    parts.extend((own != keyword.threshold).then(|| format!("{own:.3} without feedback")));
    parts.extend(keyword.false_accepts_per_hour.map(|rate| format!("{} false accepts per hour", rounded(rate))));
    parts.extend(keyword.refractory_seconds.map(|seconds| format!("refractory {seconds} s")));
    parts.extend((keyword.priority != 0).then(|| format!("priority {}", keyword.priority)));
    parts.join(", ")
}
