//! The `landro` command: runs the command line and exits with its code.

#![forbid(unsafe_code)]

/// glibc's allocator gives memory back and faults it in again at every burst, which costs a receiver of jumbo
/// packets more than half of its speed.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    landro::cli::main()
}
