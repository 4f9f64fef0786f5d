//! One chunk on its way down the layers: evidence after each layer, and the policy's decision.

use std::time::{Duration, Instant};

use crate::engine::{Encoder, EngineError, Frames, Pass};
use crate::exit::{Decision, Evidence, ExitPolicy, Measurer, Needs, Observation, Reason};

/// What decides where the chunks of one stream exit, and what it measures for that.
pub(crate) struct Judge {
    pub policy: Box<dyn ExitPolicy>,
    pub measurer: Measurer,
    ctc_measurer: Measurer,
    /// Whether to evaluate every head, even if the policy does not need it.
    pub all_heads: bool,
    /// Whether a chunk exits only at layers with a CTC branch.
    pub ctc: bool,
    /// Evaluated heads and CTC branches with logits that were not all finite.
    pub non_finite: u64,
}

/// Where a chunk's way ended, and what was found on it.
#[derive(Default)]
pub(crate) struct Descent {
    /// Why it exited; `None` if it was handed over instead.
    pub reason: Option<Reason>,
    /// Layer of the decision: the present depth, unless layers without a CTC branch followed.
    pub layer: usize,
    pub forecast: Option<Frames>,
    pub evidence: Vec<Evidence>,
    pub ctc_evidence: Vec<Evidence>,
    /// CTC logits of the last evaluated branch, with its layer.
    pub ctc_logits: Option<(usize, Frames)>,
}

impl Judge {
    pub fn new(encoder: &Encoder, policy: Box<dyn ExitPolicy>) -> Self {
        let (measurer, ctc_measurer) = (Measurer::for_units(encoder.quiet_unit()), Measurer::default());
        Self { policy, measurer, ctc_measurer, all_heads: false, ctc: false, non_finite: 0 }
    }

    /// Resets what is kept from layer to layer.
    pub fn begin_chunk(&mut self) {
        self.measurer.begin_chunk();
        self.ctc_measurer.begin_chunk();
        self.policy.begin_chunk();
    }

    /// Whether a chunk may exit at `layer`.
    pub fn may_exit(&self, encoder: &Encoder, layer: usize) -> bool {
        !self.ctc || encoder.has_ctc(layer)
    }

    /// Runs layer after layer, from the present one of `pass`, to the exit, or to where `hand_over` returns true: it is called
    /// after every layer that the policy lets continue.
    pub fn descend(
        &mut self,
        encoder: &Encoder,
        pass: &mut Pass<'_>,
        (began, backlog): (Instant, Duration),
        mut hand_over: impl FnMut(&mut Pass<'_>, &dyn ExitPolicy) -> bool,
    ) -> Result<Descent, EngineError> {
        let (layers, units) = (encoder.layers(), encoder.units());
        let (mut evidence, mut ctc_evidence) = (Vec::<Evidence>::new(), Vec::<Evidence>::new());
        let mut ctc_logits: Option<(usize, Frames)> = None;
        // Where the chunk must exit.
        let deepest = (0..=layers).rev().find(|&layer| self.may_exit(encoder, layer)).unwrap_or(layers);
        let mut layer = pass.depth();
        let (reason, forecast) = loop {
            let needs = self.policy.needs(layer);
            let all = self.all_heads;
            if all || matches!(needs, Needs::Head | Needs::Change) {
                evidence.reserve(layers);
                evidence.push(self.measure(pass, units, all || needs == Needs::Change)?);
            }
            let mut ctc = None;
            if needs == Needs::Ctc
                && let Some(logits) = pass.ctc()?
            {
                let found = self.ctc_measurer.measure(layer, logits.as_slice(), encoder.vocabulary().len(), false);
                self.non_finite += u64::from(!found.finite);
                ctc_evidence.push(found);
                ctc = ctc_evidence.last();
                ctc_logits = Some((layer, logits));
            }
            let forecast = if needs == Needs::Forecast { Some(pass.forecast()?) } else { None };
            let predicted = forecast.as_ref().map_or(&[][..], Frames::as_slice);
            let elapsed = began.elapsed();
            match self.policy.decide(&Observation {
                layer,
                layers,
                evidence: &evidence,
                ctc,
                forecast: predicted,
                elapsed,
                backlog,
            }) {
                Decision::Exit(Reason::Schedule) | Decision::Continue if layer == deepest => {
                    break (Some(Reason::LastLayer), forecast);
                }
                Decision::Exit(reason) => break (Some(reason), forecast),
                Decision::Continue if hand_over(pass, self.policy.as_ref()) => break (None, forecast),
                Decision::Continue => layer = pass.step()?,
            }
        };
        // A layer where the chunk may not exit is passed without asking the policy again.
        while reason.is_some() && !self.may_exit(encoder, pass.depth()) {
            pass.step()?;
        }
        Ok(Descent { reason, layer, forecast, evidence, ctc_evidence, ctc_logits })
    }

    /// Evidence of the head at the present depth.
    pub fn measure(&mut self, pass: &mut Pass<'_>, units: usize, change: bool) -> Result<Evidence, EngineError> {
        let found = self.measurer.measure(pass.depth(), pass.head()?.as_slice(), units, change);
        self.non_finite += u64::from(!found.finite);
        Ok(found)
    }
}
