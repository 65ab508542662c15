//! What a process took so far: CPU time and its most resident memory, as /proc has it.

use std::fs;

use crate::transport::Result;

/// Of /proc/PID/stat on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU, in the program and in the kernel.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // A name may have spaces; behind it come the state and numbers (proc_pid_stat(5)).
    let numbers = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let ticks = |at: usize| -> Result<f64> {
        let word = numbers.split_whitespace().nth(at).ok_or("a short stat")?;
        Ok(word.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The most memory that was resident, in bytes.
pub fn peak_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kibibytes.ok_or("no VmHWM in status")?.parse::<f64>()? * 1024.0)
}
