//! How much a run sent that may have been killed: what it said, less what partial files had before.

use std::fs;
use std::path::Path;

use crate::common::Output;

/// What one run sent at least, whether or not it lived to say so. `kept_bytes`: what it found in
/// partial files.
pub fn sent_bytes(output: &Output, kept_bytes: u64) -> u64 {
    match output.of("summary").next() {
        Some(summary) => summary["sent_bytes"].as_u64().unwrap(),
        None => {
            let settled = output
                .of("progress")
                .last()
                .map_or(0, |progress| progress["bytes"].as_u64().unwrap());
            // Progress counts what came from before, too: also of a file that was not done when the
            // run was killed, of which no line says how much that is.
            settled.saturating_sub(skipped_bytes(output) + kept_bytes)
        }
    }
}

fn skipped_bytes(output: &Output) -> u64 {
    let skipped = output.of("file").filter(|file| file["status"] == "skipped");
    skipped
        .map(|file| file["size_bytes"].as_u64().unwrap())
        .sum()
}

/// What partial files in this directory and below have, as their journals say: a record for each
/// chunk of 1 MiB, behind a header.
pub fn kept_bytes(dir: &Path) -> u64 {
    const HEADER_BYTES: u64 = 96;
    const RECORD_BYTES: u64 = 44;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let kept = |entry: fs::DirEntry| {
        let meta = entry.metadata().unwrap();
        let is_journal = entry.path().extension().is_some_and(|it| it == "journal");
        match (meta.is_dir(), is_journal) {
            (true, _) => kept_bytes(&entry.path()),
            (false, true) => meta.len().saturating_sub(HEADER_BYTES) / RECORD_BYTES * (1 << 20),
            (false, false) => 0,
        }
    };
    entries.map(|entry| kept(entry.unwrap())).sum()
}
