//! Values of chunks that a daemon remembers: rightly, wrongly, of some of its files.

use std::cell::Cell;

use super::scenario::Scenario;
use super::tests::{for_seeds, run_and_tap};
use super::tree::TreeShape;

/// What is remembered rightly is not hashed, and what is wrong is asked for again; all of it
/// arrives whole.
#[test]
fn what_is_remembered_wrongly_is_asked_for_again() {
    let counts = Cell::new((0, 0, 0));
    for_seeds(
        "what_is_remembered_wrongly_is_asked_for_again",
        300,
        |seed| {
            let shape = TreeShape {
                max_entries: 6,
                max_large: 3,
            };
            let mut scenario = Scenario::random(seed, shape);
            scenario.push = false;
            scenario.source_limits.keeps_digests = true;
            let (totals, asked_again) = run_and_tap(scenario);
            let is_right = totals.kept_chunks > 0 && asked_again == 0;
            counts.update(|(kept, again, right)| {
                (
                    kept + totals.kept_chunks,
                    again + asked_again,
                    right + usize::from(is_right),
                )
            });
        },
    );
    // Unless one seed was asked for.
    if std::env::var_os("LANDRO_SIM_SEED").is_none() {
        let (kept, again, right) = counts.get();
        assert!(
            kept > 50 && again > 10 && right > 15,
            "{kept} {again} {right}"
        );
    }
}
