//! Arguments to commands; the only exit.

fn main() {}
