//! Arguments to a command; the only exit.

/// What one thread allocates another frees here, for each exchange: the system's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    streamgauge::cli::main()
}
