//! A working folder read as a bundle, for `trimtab validate` and `trimtab render`: what Git would hand over, without Git.
//!
//! Symlinks are read and never followed. Files that Git ignores are seen all the same, for this reads no `.gitignore`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use trimtab_model::bundle::{Blob, BlobKind, Bundle};
use trimtab_model::names::{ComponentName, NameError, RepoPath};

/// More files than this are no configuration.
const MAX_FILES: usize = 50_000;
/// Nor are larger ones.
const MAX_FILE: u64 = 16 << 20;
/// Nor is more than this together.
const MAX_TOTAL: u64 = 128 << 20;

/// Why a folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system said no.
    #[error("cannot read {path}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that no repository of ours may hold.
    #[error("{path} cannot be part of a fleet repository")]
    Name {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: NameError,
    },
    /// A name that is not text.
    #[error("the name of {path} is not UTF-8")]
    NotText {
        /// The path, as far as it can be shown.
        path: PathBuf,
    },
    /// Neither a file, nor a folder, nor a symlink.
    #[error("{path} is neither a file nor a folder nor a symlink")]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// Too large.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// The file, or the folder as a whole.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// Too many files.
    #[error("{path} holds more than {MAX_FILES} files")]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

/// Reads `fleet.toml`, `hosts/` and `components/` of a folder.
pub fn read_dir(path: &Path) -> Result<Bundle, FolderError> {
    let mut reader = Reader { top: path, bundle: Bundle::default(), total: 0 };
    for name in ["fleet.toml", "hosts", "components"] {
        match fs::symlink_metadata(path.join(name)) {
            Ok(meta) => reader.walk(name.to_owned(), &meta)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FolderError::Read { path: path.join(name), source }),
        }
    }
    // A path that does not exist is not an empty repository.
    fs::read_dir(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    Ok(reader.bundle)
}

struct Reader<'p> {
    top: &'p Path,
    bundle: Bundle,
    total: u64,
}

impl Reader<'_> {
    fn walk(&mut self, name: String, meta: &fs::Metadata) -> Result<(), FolderError> {
        let mut queue = vec![(name, meta.clone())];
        while let Some((name, meta)) = queue.pop() {
            let path = self.top.join(&name);
            if !meta.is_dir() {
                self.take(&name, &path, &meta)?;
                continue;
            }
            let read = |source| FolderError::Read { path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(read)? {
                let entry = entry.map_err(read)?;
                let Ok(below) = entry.file_name().into_string() else { return Err(FolderError::NotText { path: entry.path() }) };
                if below == ".git" {
                    continue;
                }
                let meta = entry.metadata().map_err(|source| FolderError::Read { path: entry.path(), source })?;
                queue.push((format!("{name}/{below}"), meta));
                if queue.len() > MAX_FILES {
                    return Err(FolderError::TooMany { path: self.top.to_owned() });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, path: &Path, meta: &fs::Metadata) -> Result<(), FolderError> {
        let named = |source| FolderError::Name { path: path.to_owned(), source };
        let file: RepoPath = name.parse().map_err(named)?;
        if let Some((component, _)) = name.strip_prefix("components/").and_then(|rest| rest.split_once('/')) {
            self.bundle.components.insert(component.parse::<ComponentName>().map_err(named)?);
        }
        let blob = if meta.is_symlink() {
            let target = fs::read_link(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
            Blob { kind: BlobKind::Symlink, bytes: target.into_os_string().into_vec() }
        } else if meta.is_file() {
            let kind = if meta.permissions().mode() & 0o100 == 0 { BlobKind::Regular } else { BlobKind::Executable };
            Blob { kind, bytes: content(path)? }
        } else {
            return Err(FolderError::Special { path: path.to_owned() });
        };
        self.total += blob.bytes.len() as u64;
        if self.total > MAX_TOTAL {
            return Err(FolderError::TooLarge { path: self.top.to_owned(), limit: MAX_TOTAL });
        }
        if self.bundle.files.len() >= MAX_FILES {
            return Err(FolderError::TooMany { path: self.top.to_owned() });
        }
        self.bundle.files.insert(file, blob);
        Ok(())
    }
}

fn content(path: &Path) -> Result<Vec<u8>, FolderError> {
    let read = |source| FolderError::Read { path: path.to_owned(), source };
    // It was a file a moment ago; whoever swapped it for a link or a FIFO since gets an error, not a hang.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FolderError::TooLarge { path: path.to_owned(), limit: MAX_FILE });
    }
    Ok(bytes)
}
