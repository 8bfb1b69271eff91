//! One of what a target tries, where the environment names it.

use std::sync::LazyLock;

static ONLY: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("STREAMGAUGE_FUZZ_ONLY").ok());

pub fn is_wanted(name: &str) -> bool {
    ONLY.as_ref().is_none_or(|only| only == name)
}
