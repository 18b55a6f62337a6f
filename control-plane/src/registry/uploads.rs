//! Blobs on their way in. Each goes to a file of its own while its digest is computed, so that
//! memory stays small and nothing unchecked ever lies among the blobs.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet_api::ids::Digest;
use futures_util::{Stream, StreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::WriteMultipart;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Registry, RegistryError, Repository, blobs};
use crate::secret::random;

const SESSIONS: usize = 256;
/// A session that nobody has touched for so long makes place for another.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Parts in which a blob goes to the object store.
const PART_BYTES: usize = 8 << 20;

/// The id of an upload session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UploadId(String);

impl UploadId {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) struct Uploads {
    folder: PathBuf,
    sessions: Mutex<HashMap<UploadId, Entry>>,
}

struct Entry {
    repository: Repository,
    session: Arc<tokio::sync::Mutex<Session>>,
    touched: Instant,
}

struct Session {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    bytes: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Uploads {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            sessions: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(
        &self,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<Arc<tokio::sync::Mutex<Session>>, RegistryError> {
        let mut sessions = self.lock();
        let entry = sessions
            .get_mut(id)
            .filter(|entry| entry.repository == *repository)
            .ok_or(RegistryError::UploadUnknown)?;
        entry.touched = Instant::now();
        Ok(Arc::clone(&entry.session))
    }
}

impl Registry {
    /// Starts an upload.
    pub(crate) async fn start_upload(
        &self,
        repository: &Repository,
    ) -> Result<UploadId, RegistryError> {
        let uploads = &self.0.uploads;
        {
            let mut sessions = uploads.lock();
            if sessions.len() >= SESSIONS {
                sessions.retain(|_, entry| entry.touched.elapsed() < FORGOTTEN);
            }
            if sessions.len() >= SESSIONS {
                return Err(RegistryError::TooManyUploads);
            }
        }
        let id = UploadId(hex(&random::<16>()));
        let path = uploads.folder.join(&id.0);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .await?;
        let session = Session {
            file,
            path,
            hasher: Sha256::new(),
            bytes: 0,
        };
        let entry = Entry {
            repository: repository.clone(),
            session: Arc::new(tokio::sync::Mutex::new(session)),
            touched: Instant::now(),
        };
        uploads.lock().insert(id.clone(), entry);
        Ok(id)
    }

    /// How many bytes an upload has.
    pub(crate) async fn upload_bytes(
        &self,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<u64, RegistryError> {
        let session = self.0.uploads.of(repository, id)?;
        let session = session.try_lock().map_err(|_| RegistryError::UploadBusy)?;
        Ok(session.bytes)
    }

    /// Appends to an upload. `at` is where the client believes to be. Returns the bytes it has now.
    pub(crate) async fn append<E: fmt::Display>(
        &self,
        repository: &Repository,
        id: &UploadId,
        at: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, RegistryError> {
        let session = self.0.uploads.of(repository, id)?;
        let mut session = session.try_lock().map_err(|_| RegistryError::UploadBusy)?;
        if at.is_some_and(|at| at != session.bytes) {
            return Err(RegistryError::OutOfOrder {
                have: session.bytes,
            });
        }
        let result = self.take(&mut session, body).await;
        if let Err(
            RegistryError::DiskFull | RegistryError::Io(_) | RegistryError::BlobTooLarge { .. },
        ) = &result
        {
            // What the file holds is no longer what the digest has seen.
            self.0.uploads.lock().remove(id);
        }
        result.map(|()| session.bytes)
    }

    async fn take<E: fmt::Display>(
        &self,
        session: &mut Session,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), RegistryError> {
        let max = self.0.max_blob;
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    session.file.flush().await?;
                    return Err(RegistryError::Interrupted(error.to_string()));
                }
            };
            if session.bytes + chunk.len() as u64 > max {
                return Err(RegistryError::BlobTooLarge { max });
            }
            session.file.write_all(&chunk).await?;
            session.hasher.update(&chunk);
            session.bytes += chunk.len() as u64;
        }
        Ok(session.file.flush().await?)
    }

    /// Ends an upload: if the bytes have the digest that is claimed, they become a blob.
    pub(crate) async fn finish_upload(
        &self,
        repository: &Repository,
        id: &UploadId,
        claimed: &Digest,
    ) -> Result<(), RegistryError> {
        let session = self.0.uploads.of(repository, id)?;
        let mut session = session.try_lock().map_err(|_| RegistryError::UploadBusy)?;
        // Right or wrong, the session is over; its file goes with it.
        self.0.uploads.lock().remove(id);
        let found = Digest::from_sha256(&session.hasher.clone().finalize());
        if found != *claimed {
            return Err(RegistryError::WrongDigest {
                claimed: claimed.clone(),
                found,
            });
        }
        self.keep_blob(&mut session, claimed).await?;
        self.link_blob(repository, claimed, session.bytes).await
    }

    /// Gives an upload up.
    pub(crate) fn cancel_upload(
        &self,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<(), RegistryError> {
        self.0.uploads.of(repository, id)?;
        self.0.uploads.lock().remove(id);
        Ok(())
    }

    async fn keep_blob(&self, session: &mut Session, digest: &Digest) -> Result<(), RegistryError> {
        use tokio::io::AsyncSeekExt as _;
        let path = blobs::path(digest);
        if let Ok(there) = self.0.objects.head(&path).await
            && there.size == session.bytes
        {
            return Ok(());
        }
        session.file.rewind().await?;
        let upload = self.0.objects.put_multipart(&path).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let copied = async {
            let mut buffer = vec![0; 256 << 10];
            loop {
                let read = session.file.read(&mut buffer).await?;
                if read == 0 {
                    return Ok::<_, RegistryError>(());
                }
                upload.wait_for_capacity(2).await?;
                upload.write(&buffer[..read]);
            }
        };
        match copied.await {
            Ok(()) => {
                upload.finish().await?;
                Ok(())
            }
            Err(error) => {
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
