//! Greedy CTC decoding: the most probable class of each frame, repeats merged, blanks removed (Graves et al. 2006, best path decoding).

use super::phone::{BLANK, OpenSpan, PhoneSpan};

/// Decodes frame by frame. A phone is output when its run of frames has ended.
#[derive(Debug, Clone, Default)]
pub struct Greedy {
    frame: u64,
    run: Option<OpenSpan>,
}

impl Greedy {
    /// One frame's log-probabilities.
    pub fn push(&mut self, log_p: &[f32], out: &mut Vec<PhoneSpan>) {
        let (class, best) = log_p
            .iter()
            .enumerate()
            .fold((BLANK, f32::NEG_INFINITY), |best, (class, &value)| if value > best.1 { (class, value) } else { best });
        match &mut self.run {
            Some(run) if run.class() == class => run.extend(best),
            _ => {
                let fresh = (class != BLANK).then(|| OpenSpan::new(class, self.frame, best));
                out.extend(std::mem::replace(&mut self.run, fresh).map(OpenSpan::close));
            }
        }
        self.frame += 1;
    }

    /// Outputs the open run.
    pub fn finish(&mut self, out: &mut Vec<PhoneSpan>) {
        out.extend(self.run.take().map(OpenSpan::close));
    }

    /// The first frame of the open run, or the next frame.
    pub fn pending_since(&self) -> u64 {
        self.run.map_or(self.frame, |run| run.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames in which class `classes[t]` of three has probability 0.8.
    fn decode(classes: &[usize]) -> Vec<(usize, u64, u64)> {
        let (mut greedy, mut out) = (Greedy::default(), Vec::new());
        for &class in classes {
            let row: Vec<f32> = (0..3).map(|c| if c == class { 0.8f32.ln() } else { 0.1f32.ln() }).collect();
            greedy.push(&row, &mut out);
        }
        greedy.finish(&mut out);
        assert!(out.iter().all(|phone| (phone.confidence - 0.8).abs() < 1e-6));
        out.iter().map(|phone| (phone.class, phone.start, phone.end)).collect()
    }

    #[test]
    fn repeats_are_one_and_a_blank_between_makes_two() {
        assert_eq!(decode(&[0, 1, 1, 0, 1, 2, 0]), [(1, 1, 3), (1, 4, 5), (2, 5, 6)]);
        assert_eq!(decode(&[0, 0]), []);
        assert_eq!(decode(&[2, 2]), [(2, 0, 2)]);
    }
}
