//! The house rules that a program can see: layers, clocks, tables and files that go together.

use std::path::{Path, PathBuf};

/// The layers from below; a module may use those of its own layer and the ones below.
const LAYERS: &[&[&str]] = &[
    &["clock", "vitals", "live", "exchange"],
    &["wire", "dialect", "observe", "account", "replay"],
    &["config"],
    &[
        "proxy",
        "pipeline",
        "counting",
        "admission",
        "budgets",
        "jwks",
        "sinks",
        "status",
        "admin",
        "sim",
        "ops",
    ],
    &["app"],
    &["demo"],
    &["cli"],
];

/// Crates of the edges, and the lowest layer that may use them. `clock` is what it is there for.
const EDGE_CRATES: &[&str] =
    &["tokio", "hyper", "hyper_util", "prometheus", "socket2", "rustls", "tokio_rustls", "tracing"];
const EDGES: usize = 3;

const FILE_LIMIT: usize = 420; // lines of code without tests and comments; the aim is 400

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, with its code: no comments, nothing that stands behind `#[cfg(test)]`.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("\n#[cfg(test)]\n").next().unwrap();
                let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                let code = code.collect::<Vec<_>>().join("\n");
                found.push((path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), code));
            }
        }
    }
    found.sort();
    found
}

/// The module of `src` that a file belongs to.
fn module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn arrows_point_downwards() {
    let mut wrong = Vec::new();
    for (path, code) in sources("src").iter().filter(|(path, _)| !path.ends_with("/tests.rs")) {
        let own = module(path);
        let Some(own_layer) = layer(own) else {
            assert!(["main", "lib"].contains(&own), "{path} belongs to no layer: put `{own}` into the table");
            continue;
        };
        for used in code.split("crate::").skip(1) {
            let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            if layer(used).is_some_and(|layer| layer > own_layer) {
                wrong.push(format!("{path} uses {used}, which is above it"));
            }
        }
        for krate in EDGE_CRATES.iter().filter(|_| own_layer < EDGES && own != "clock") {
            if code.contains(&format!("{krate}::")) {
                wrong.push(format!("{path} uses {krate}, which belongs to the edges"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_small() {
    let long: Vec<_> = sources("src")
        .into_iter()
        .filter(|(path, _)| !path.ends_with("/tests.rs"))
        .map(|(path, code)| (path, code.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LIMIT)
        .collect();
    assert!(long.is_empty(), "more than {FILE_LIMIT} lines: {long:?}");
}

#[test]
fn what_is_expected_has_a_reason_and_nothing_is_allowed_or_ignored() {
    for (path, _) in sources("src").iter().chain(&sources("tests")) {
        if path == "tests/it/tidy.rs" {
            continue;
        }
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        for word in [
            "#[allow(",
            "#![allow(",
            "#[ignore",
            "todo!(",
            "unimplemented!(",
            "thread::sleep",
            "TODO",
            "FIXME",
        ] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn every_dialect_has_cases_of_its_own() {
    for dialect in streamgauge::dialect::DIALECTS {
        let folder = root().join("tests/golden").join(dialect.id().0);
        let cases = std::fs::read_dir(&folder).map(Iterator::count).unwrap_or_default();
        assert!(cases >= 12, "{} has {cases} cases", folder.display());
    }
}

#[test]
fn docs_name_only_metrics_that_there_are() {
    let known: Vec<String> =
        streamgauge::sinks::metrics::catalog::TABLE.iter().map(|row| row.full_name()).collect();
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
            .map(|name| root().join(name))
            .to_vec();
    files.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(file).unwrap();
        let pieces: Vec<&str> = text.split("streamgauge_").collect();
        for pair in pieces.windows(2) {
            let [before, rest] = pair else { continue };
            if before.ends_with(':') {
                continue; // a recorded series: `ops::rules` holds those to the catalogue
            }
            let rest = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let word = format!("streamgauge_{rest}");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let is_known = known.iter().any(|name| *name == word || Some(name.as_str()) == base);
            assert!(is_known || word.ends_with('_'), "{}: no metric is called {word}", file.display());
        }
    }
}

#[test]
fn nothing_names_this_machine_or_how_it_was_made() {
    let mut folders = vec![root().to_owned()];
    let skipped = ["target", ".git", ".cache", "golden", "recordings", "__pycache__"];
    let words = ["/work/", "shared/", "closing note", "before-stop", "artifactory", "nexus"];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if skipped.contains(&name.as_str()) {
                continue; // `.git` is a file in a second working tree
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file()
                && !["tidy.rs", ".git"].contains(&name.as_str()) // a worktree has a file of that name
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                for word in words {
                    assert!(!text.contains(word), "{} has {word:?}", path.display());
                }
            }
        }
    }
}
