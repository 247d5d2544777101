//! Reading the small files that settings name: with a limit, never waiting for a pipe, and a secret only when it is one.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Why a file was not read.
pub(super) enum Unread {
    /// There is none.
    Absent,
    /// It is no regular file.
    NoFile,
    /// The system does not let us.
    Io(io::Error),
    /// It is to be a secret, and others can read or write it; holds its mode.
    Open(u32),
    /// It has more bytes than such a file has.
    TooLong,
}

/// The bytes of a file, `most` of them. A `secret` is refused when others can read or write it.
pub(super) fn read(path: &Path, most: u64, secret: bool) -> Result<Vec<u8>, Unread> {
    let unread = |error: io::Error| match error.kind() {
        // Under a directory that is a file there is nothing either.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unread::Absent,
        _ => Unread::Io(error),
    };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unread)?.is_file() {
        return Err(Unread::NoFile);
    }
    let file = fs::File::open(path).map_err(unread)?;
    // The mode of what is open, not of what the path names by now.
    let mode = file.metadata().map_err(unread)?.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(Unread::Open(mode));
    }
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unread)?;
    if bytes.len() as u64 > most {
        return Err(Unread::TooLong);
    }
    Ok(bytes)
}
