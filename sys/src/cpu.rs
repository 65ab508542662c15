//! Cores, CPU time and memory of this process.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// The cores this thread may run on, ascending. Respects taskset and cgroup cpusets.
///
/// # Errors
/// What sched_getaffinity(2) says: `EINVAL` on machines of more than 1,024 cores.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|&core| set.is_set(core).unwrap_or(false))
        .collect())
}

/// Binds the calling thread to one core.
///
/// # Errors
/// `EINVAL` for a core that does not exist or that this process may not use.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets the calling thread run on every core that this process may use.
///
/// # Errors
/// What sched_setaffinity(2) says.
pub(crate) fn unpin() -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::count() {
        set.set(core)?;
    }
    // The kernel takes away what the cpuset of the process does not have.
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// CPU time the calling thread has used, user and system.
///
/// # Errors
/// None in practice; what getrusage(2) says.
pub fn thread_cpu_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// CPU time this process has used: (user, system).
///
/// # Errors
/// None in practice; what getrusage(2) says.
pub fn process_cpu_time() -> io::Result<(Duration, Duration)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((duration(usage.user_time()), duration(usage.system_time())))
}

/// The most memory this process ever had resident, in bytes.
///
/// # Errors
/// None in practice; what getrusage(2) says.
pub fn peak_rss_bytes() -> io::Result<u64> {
    // ru_maxrss is in KiB.
    Ok(u64::try_from(getrusage(UsageWho::RUSAGE_SELF)?.max_rss()).unwrap_or(0) * 1024)
}

/// Memory this process has resident now, in bytes.
///
/// # Errors
/// Where /proc is not mounted.
pub fn rss_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    pages
        .map(|pages| pages * page_bytes as u64)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn duration(time: TimeVal) -> Duration {
    Duration::new(
        time.tv_sec().max(0) as u64,
        (time.tv_usec().max(0) as u32) * 1_000,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_leaves_one_core_and_only_this_thread_feels_it() {
        let all = cores().unwrap();
        let last = *all.last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin(last).unwrap();
            cores().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(cores().unwrap(), all);
        assert!(pin(1_000_000).is_err());
    }

    #[test]
    fn times_and_sizes_are_plausible() {
        assert!(
            thread_cpu_time().unwrap()
                <= process_cpu_time().unwrap().0 + process_cpu_time().unwrap().1
        );
        assert!(rss_bytes().unwrap() > 1 << 20);
        assert!(peak_rss_bytes().unwrap() > 1 << 20);
    }
}
