//! The cases in `tests/golden`, from their folders.

use std::path::Path;

pub(crate) use streamgauge::replay::case::{Case, Ending, Headers, Response};

/// Reads a case's folder.
pub(crate) fn read(folder: &Path) -> Result<Case, String> {
    let file = |name: &str| std::fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    Case::parse(&file("request.http")?, &file("response.http")?)
}
