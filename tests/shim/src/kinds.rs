//! The log's entries: `length u32 | kind u8 | fields`, numbers little-endian, `length`
//! counts kind and fields. A file is named by its inode.

/// `inode u64 | offset u64 | data`
pub(crate) const WRITE: u8 = 1;
/// `inode u64 | size u64`: cut off or made longer.
pub(crate) const RESIZE: u8 = 2;
/// `inode u64 | path`: a new file.
pub(crate) const CREATE: u8 = 3;
/// `from | 0 | to`
pub(crate) const RENAME: u8 = 4;
/// `path`
pub(crate) const UNLINK: u8 = 5;
/// `path`: a new folder.
pub(crate) const MKDIR: u8 = 6;
/// `path`
pub(crate) const RMDIR: u8 = 7;
/// `id u64 | inode u64 | how u8 | offset u64 | bytes u64`: a sync begins; `how` is one of the three below.
pub(crate) const SYNC_BEGIN: u8 = 8;
/// `id u64`: what was written before it began is durable.
pub(crate) const SYNC_END: u8 = 9;
/// `text`: the program under test, or its client, knows something to be durable.
pub(crate) const ACK: u8 = 10;
/// `call u8 | number u64 | inode u64`: a call was made to fail; the inode is 0 where there is none yet.
pub(crate) const FAILED: u8 = 11;

/// fsync
pub(crate) const HOW_FSYNC: u8 = 0;
/// fdatasync
pub(crate) const HOW_FDATASYNC: u8 = 1;
/// sync_file_range
pub(crate) const HOW_RANGE: u8 = 2;

/// The call of a failed sync.
pub(crate) const CALL_SYNC: u8 = 1;
