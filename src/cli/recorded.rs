//! Where recorded exchanges are on disk: cases (folders with `request.http` and `response.http`) and raw
//! recordings (`NAME.request.http`, `NAME.response.http`, `NAME.timing.jsonl`).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::replay::{case::Case, recording};

/// A recorded exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recorded {
    /// A case's folder.
    Case(PathBuf),
    /// What the names of a recording's files begin with.
    Recording(PathBuf),
}

const ENDS: [&str; 3] = [".request.http", ".response.http", ".timing.jsonl"];

impl Recorded {
    /// The exchange that a path names: a case's folder or a file in it, a recording's file or their names'
    /// beginning.
    fn at(path: &Path) -> Option<Self> {
        if path.is_dir() {
            return path.join("request.http").is_file().then(|| Self::Case(path.to_owned()));
        }
        if path.is_file()
            && let Some(folder) = path.parent()
            && matches!(path.file_name()?.to_str()?, "request.http" | "response.http" | "exchange.json")
        {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            return Self::at(folder);
        }
        let text = path.to_str()?;
        let name = ENDS.iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text);
        Path::new(&format!("{name}{}", ENDS[0])).is_file().then(|| Self::Recording(PathBuf::from(name)))
    }

    /// The one exchange that a path names.
    pub(super) fn one(path: &Path) -> anyhow::Result<Self> {
        Self::at(path).with_context(|| {
            format!(
                "{} is neither a case (a folder with request.http and response.http) nor a recording \
                 (NAME.request.http, NAME.response.http, NAME.timing.jsonl)",
                path.display()
            )
        })
    }

    /// All exchanges that a path names, sorted: itself, or what is below the folder.
    pub(super) fn all(path: &Path) -> anyhow::Result<Vec<Self>> {
        if let Some(one) = Self::at(path) {
            return Ok(vec![one]);
        }
        if !path.is_dir() {
            return Self::one(path).map(|one| vec![one]);
        }
        let mut found = Vec::new();
        collect(path, &mut found)?;
        if found.is_empty() {
            bail!("{} has no case and no recording below it", path.display());
        }
        found.sort();
        Ok(found)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        let (Self::Case(path) | Self::Recording(path)) = self;
        path
    }

    /// Reads it.
    pub(super) fn read(&self) -> anyhow::Result<Case> {
        let case = match self {
            Self::Case(folder) => {
                Case::parse(&read(&folder.join("request.http"))?, &read(&folder.join("response.http"))?)
            }
            Self::Recording(name) => {
                let [sent, received, timing] =
                    ENDS.map(|end| read(Path::new(&format!("{}{end}", name.display()))));
                recording::read(&sent?, &received?, &String::from_utf8_lossy(&timing?))
            }
        };
        case.map_err(anyhow::Error::msg).with_context(|| format!("could not read {}", self.path().display()))
    }

    /// What should be seen of it, where that stands beside it.
    pub(super) fn expected(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let Self::Case(folder) = self else { return Ok(None) };
        let path = folder.join("exchange.json");
        if !path.exists() {
            return Ok(None);
        }
        let json = serde_json::from_slice(&read(&path)?);
        json.map(Some).with_context(|| format!("{} is no JSON", path.display()))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

fn collect(folder: &Path, found: &mut Vec<Recorded>) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("could not read {}", folder.display()))?.path();
        let is_recording =
            || path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(ENDS[0]));
        match Recorded::at(&path) {
            Some(one @ Recorded::Case(_)) if path.is_dir() => found.push(one),
            Some(one @ Recorded::Recording(_)) if is_recording() => found.push(one),
            _ if path.is_dir() => collect(&path, found)?,
            _ => {}
        }
    }
    Ok(())
}
