//! The ledger's folder. Names of files sort by the time at which they were begun, and no two are alike.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::super::json::is_torn;
use super::writer::{Disk, LedgerFile};

const FOLDER_MODE: u32 = 0o750; // who may read bills is decided by the group
const FILE_MODE: u32 = 0o640;
const LOOK_BACK: usize = 16; // the newest files: those of the run before, and of others that share the folder

/// A folder that is there.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it where it is missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
            if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                File::open(above)?.sync_all()?;
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The newest files whose last line has no end, but for those that are being written.
    pub(super) fn torn(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_ours(path)).collect();
        files.sort_unstable();
        let newest = files.split_off(files.len().saturating_sub(LOOK_BACK));
        // A file that cannot be read is the reader's affair.
        newest.into_iter().filter(|path| is_left_torn(path).unwrap_or_default()).collect()
    }
}

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("usage-") && name.ends_with(".jsonl"))
}

fn is_left_torn(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    Ok(!matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) && is_torn(&file)?)
}

impl Disk for Folder {
    type File = File;

    fn create(&mut self, name: &str) -> io::Result<File> {
        let path = self.0.join(name);
        let file = OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(&path)?;
        // The lock only tells a process that begins that this file is not torn; not every filesystem has locks.
        let _: Result<(), TryLockError> = file.try_lock();
        if let Err(error) = File::open(&self.0).and_then(|folder| folder.sync_all()) {
            self.remove(name);
            return Err(error);
        }
        Ok(file)
    }

    fn remove(&mut self, name: &str) {
        // An empty file that stays does no harm.
        let _: io::Result<()> = std::fs::remove_file(self.0.join(name));
    }
}

impl LedgerFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_never_written_over_and_a_torn_one_is_seen_unless_it_is_being_written() {
        let path = std::env::temp_dir().join(format!("streamgauge-ledger-{}", std::process::id()));
        let mut folder = Folder::open(&path.join("usage")).unwrap();
        let mut file = folder.create("usage-1.jsonl").unwrap();
        assert_eq!(folder.create("usage-1.jsonl").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path.join("usage/usage-1.jsonl")) & !FILE_MODE, 0);
        assert_eq!(mode(&path.join("usage")) & !FOLDER_MODE, 0);
        file.append(b"{\"seq\":1}\n{\"se").unwrap();
        std::fs::write(path.join("usage/notes.txt"), "not ours").unwrap();
        std::fs::write(path.join("usage/usage-0.jsonl"), "").unwrap();
        assert_eq!(folder.torn(), [""; 0].map(PathBuf::from), "it is being written");
        drop(file);
        assert_eq!(folder.torn(), [path.join("usage/usage-1.jsonl")]);
        for name in 0..LOOK_BACK {
            std::fs::write(path.join(format!("usage/usage-2{name:02}.jsonl")), "{}\n").unwrap();
        }
        assert!(folder.torn().is_empty(), "it was told at the starts before");
        folder.remove("usage-1.jsonl");
        assert!(!path.join("usage/usage-1.jsonl").exists());
        std::fs::remove_dir_all(path).unwrap();
    }
}
