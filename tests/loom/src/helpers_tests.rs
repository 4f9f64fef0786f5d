//! The helper threads: every panel is put once, and a helper's result is complete.

use crate::explore;
use crate::helpers::{Helpers, Panels};

struct Squares;

impl Panels for Squares {
    fn compute(&self, panel: usize) -> Vec<f32> {
        loom::thread::yield_now();
        vec![(panel * panel) as f32; 2]
    }
}

#[test]
fn every_panel_is_put_once_and_complete() {
    explore(2, || {
        let helpers = Helpers::start(1, 0).unwrap();
        let mut put = [0; 3];
        helpers.share(put.len(), || Squares, |panel, block| {
            put[panel] += 1;
            if let Some(block) = block {
                assert_eq!(block, [(panel * panel) as f32; 2]);
            }
        });
        assert_eq!(put, [1; 3]);
    });
}

#[test]
fn two_helpers_share_the_panels_of_one_matmul() {
    explore(1, || {
        let helpers = Helpers::start(2, 0).unwrap();
        let mut put = 0;
        helpers.share(2, || Squares, |_, _| put += 1);
        assert_eq!(put, 2);
    });
}
