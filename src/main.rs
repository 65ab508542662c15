//! The `landro` command: runs the command line and exits with its code.

#![forbid(unsafe_code)]

use landro_sys::weigh::Weighed;

/// What each connection keeps is counted here (law 5 of docs/architecture.md), whichever allocator
/// is below.
#[cfg(not(feature = "mimalloc"))]
#[global_allocator]
static ALLOCATOR: Weighed<std::alloc::System> = Weighed(std::alloc::System);

/// glibc's allocator gives memory back and faults it in again at every burst, which costs a
/// receiver of jumbo packets more than half of its speed.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: Weighed<mimalloc::MiMalloc> = Weighed(mimalloc::MiMalloc);

fn main() -> std::process::ExitCode {
    landro::cli::main()
}
