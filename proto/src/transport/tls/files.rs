//! PEM files: read with errors that name them, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| file_error("read", path, error))
}

/// None: there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, TlsError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(TlsError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| damaged(path, &error))?;
    if certificates.is_empty() {
        return Err(damaged(path, &"it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| damaged(path, &error))
}

pub(super) fn damaged(path: &Path, why: &impl ToString) -> TlsError {
    TlsError::Damaged { path: path.to_owned(), why: why.to_string() }
}

/// Who may read a file.
#[derive(Clone, Copy)]
pub(super) enum Readers {
    Owner,
    All,
}

pub(super) fn create_dir(dir: &Path) -> Result<(), TlsError> {
    fs::create_dir_all(dir).map_err(|error| file_error("create", dir, error))
}

/// Writes a file so that after a crash the old one or the new one is there, and never for an instant readable by others.
pub(super) fn write(path: &Path, contents: &str, readers: Readers) -> Result<(), TlsError> {
    let mut name = path.file_name().expect("the caller names a file").to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = create(&new, readers).and_then(|mut file| {
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_dir_of(path)
    });
    written.map_err(|error| file_error("write", path, error))
}

fn create(path: &Path, readers: Readers) -> io::Result<File> {
    // One that a crash left behind may have been meant for other readers.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(
        &mut options,
        match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        },
    );
    options.open(path)
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if cfg!(unix) && !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

fn file_error(action: &'static str, path: &Path, error: io::Error) -> TlsError {
    TlsError::File { action, path: path.to_owned(), error }
}
