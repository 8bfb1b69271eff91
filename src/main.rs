//! Arguments to a command; the only exit.

fn main() -> std::process::ExitCode {
    streamgauge::cli::main()
}
