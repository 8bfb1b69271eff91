//! `dashboards`, as who types it sees it, and the files that are shipped.

use std::path::Path;
use std::process::Command;

#[test]
fn what_is_shipped_is_what_the_command_writes() {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let fresh = std::env::temp_dir().join(format!("streamgauge-dashboards-{}", std::process::id()));
    let out = if std::env::var_os("UPDATE").is_some() { &shipped } else { &fresh };
    let given = Command::new(program).args(["dashboards", "--out"]).arg(out).output().unwrap();
    let said = String::from_utf8(given.stderr).unwrap();
    assert!(given.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("streamgauge: wrote ")).count(), 7, "{said}");
    for file in std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap();
        let same =
            std::fs::read_to_string(&file).unwrap() == std::fs::read_to_string(shipped.join(name)).unwrap();
        assert!(same, "{}: UPDATE=1 cargo test --test it dashboards writes it anew", file.display());
    }
    if out == &fresh {
        std::fs::remove_dir_all(fresh).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_said() {
    let given = Command::new(env!("CARGO_BIN_EXE_streamgauge"))
        .args(["dashboards", "--out", "/dev/null/x"])
        .output()
        .unwrap();
    assert_eq!(given.status.code(), Some(1));
    assert!(String::from_utf8(given.stderr).unwrap().contains("could not make the folder /dev/null/x"));
}
