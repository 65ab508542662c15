//! What all rounds found: medians with their spread, libraries side by side.

use std::collections::BTreeMap;

use crate::Peer;
use crate::scenario::Scenario;

#[derive(Default)]
pub struct Report {
    found: BTreeMap<Scenario, BTreeMap<Peer, Vec<Values>>>,
}

/// Of one thing that was measured: its name, and what each round found.
type Values = (String, Vec<f64>);

impl Report {
    pub fn add(&mut self, (scenario, peer): (Scenario, Peer), found: Vec<(String, f64)>) {
        let of_peer = self.found.entry(scenario).or_default();
        let all = of_peer.entry(peer).or_default();
        for (name, value) in found {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => all.push((name, vec![value])),
            }
        }
    }

    pub fn print(&mut self) {
        for (scenario, peers) in &mut self.found {
            let names: Vec<&str> = peers.keys().map(|peer| peer.name()).collect();
            println!("\n| {} | {} |", scenario.name(), names.join(" | "));
            println!("|---{}|", "|---".repeat(names.len()));
            let rows = peers.values().next().map_or(0, Vec::len);
            for row in 0..rows {
                let mut cells = Vec::new();
                let mut name = "";
                for measured in peers.values_mut() {
                    let Some((known, values)) = measured.get_mut(row) else {
                        continue;
                    };
                    name = known;
                    cells.push(median(values));
                }
                println!("| {name} | {} |", cells.join(" | "));
            }
        }
    }
}

fn median(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    let digits = match middle.abs() {
        above if above >= 100.0 => 0,
        above if above >= 10.0 => 1,
        _ => 2,
    };
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}
