//! The small files of a directory, as bytes: who lives here, the newest view, the register.
//!
//! Every file is `LKSF`, kind u8, version u8, length u32, crc32c u32 of the body, body (one codec
//! value); integers little-endian. The head tells a file that was torn or damaged from one that
//! somebody else put there or a later version wrote, because the operator must do different
//! things about them.
//!
//! Invariant: decoding gives exactly what was encoded, or an error; never a guess.

use bytes::BufMut;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::events::EventLog;
use crate::ids::{ClusterId, NodeId, NodeInstance};
use crate::process::StoredFile;
use crate::register::Register;
use crate::view::View;
use crate::wire::backup::{BackupRecord, Manifest};
use crate::wire::bytes::Reader;
use crate::wire::{WireError, codec};

const MAGIC: &[u8; 4] = b"LKSF";
const HEAD_BYTES: usize = 4 + 1 + 1 + 4 + 4;

/// Why the bytes of a small file cannot be used. Reads on from "the file … ".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StoredError {
    /// The head is not ours.
    #[error("is not a Lockstep file")]
    Foreign,
    /// One of our files under another one's name.
    #[error("is a Lockstep file of another kind")]
    WrongKind,
    /// Written by another version.
    #[error("has format version {found}; this program reads version {reads}")]
    WrongVersion {
        /// The version found.
        found: u8,
        /// The version that is read.
        reads: u8,
    },
    /// Shorter or longer than its head says, or the checksum does not match.
    #[error("is damaged: length or checksum do not match its content")]
    Damaged,
    /// The checksum matches but the content is no value of this kind.
    #[error("has content that cannot be decoded")]
    Unreadable,
}

/// What can be a small file: which one, and the kind byte that says so.
pub trait Stored: Serialize + DeserializeOwned {
    /// The file it is kept in.
    const FILE: StoredFile;
    /// Tells the contents of equal files of different processes apart.
    const KIND: u8;
    /// The version of its format.
    const VERSION: u8 = 1;

    /// The file's bytes.
    #[must_use]
    fn to_file(&self) -> Vec<u8> {
        file_of((Self::KIND, Self::VERSION), &codec::encode(self))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`StoredError`], for the operator to tell what to do about the file.
    fn from_file(bytes: &[u8]) -> Result<Self, StoredError> {
        let body = checked_body(bytes, (Self::KIND, Self::VERSION))?;
        codec::decode(body).map_err(|_| StoredError::Unreadable)
    }
}

/// Whose directory a data node's is. Written once, before the node is ever part of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node and its latest life.
    pub instance: NodeInstance,
}

/// What a management server keeps of its cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredCluster {
    /// The newest view it has been told.
    pub view: View,
    /// Who was given which identity when the cluster was created; empty on a server that only
    /// holds a copy.
    pub admissions: Vec<Admission>,
}

/// One identity, given to one process for ever: a second process at the same address has an
/// emptied directory and must not become the same node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// The node.
    pub node: NodeId,
    /// Where it listened.
    pub addr: String,
    /// The number by which the process named itself.
    pub process: u64,
}

/// The arbitrator's register and whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredRegister {
    /// The cluster.
    pub cluster: ClusterId,
    /// The register.
    pub register: Register,
}

impl Stored for StoredIdentity {
    const FILE: StoredFile = StoredFile::Identity;
    const KIND: u8 = 1;
}

impl Stored for View {
    const FILE: StoredFile = StoredFile::View;
    const KIND: u8 = 2;
    const VERSION: u8 = 4;
}

impl Stored for StoredRegister {
    const FILE: StoredFile = StoredFile::Register;
    const KIND: u8 = 3;
}

impl Stored for StoredCluster {
    const FILE: StoredFile = StoredFile::View;
    const KIND: u8 = 4;
    const VERSION: u8 = 4;
}

/// What a management server knows of the backups it made, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoredBackups {
    /// The newest ones.
    pub list: Vec<BackupRecord>,
}

impl Stored for StoredBackups {
    const FILE: StoredFile = StoredFile::Backups;
    const KIND: u8 = 5;
}

/// A backup's manifest lies among its parts.
impl Manifest {
    /// Its kind byte.
    const KIND: u8 = 6;
    /// The version of its format: what lies among the parts of a backup is read for years.
    const VERSION: u8 = 1;

    /// The file's bytes.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        file_of((Self::KIND, Self::VERSION), &codec::encode(self))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`StoredError`], for the operator to tell what to do about the file.
    pub fn from_file(bytes: &[u8]) -> Result<Self, StoredError> {
        let manifest: Self = codec::decode(checked_body(bytes, (Self::KIND, Self::VERSION))?)
            .map_err(|_| StoredError::Unreadable)?;
        if manifest.is_whole() { Ok(manifest) } else { Err(StoredError::Unreadable) }
    }
}

fn file_of((kind, version): (u8, u8), body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.put_slice(MAGIC);
    bytes.put_u8(kind);
    bytes.put_u8(version);
    bytes.put_u32_le(u32::try_from(body.len()).expect("small files are small"));
    bytes.put_u32_le(crc32c::crc32c(body));
    bytes.put_slice(body);
    bytes
}

impl Stored for EventLog {
    const FILE: StoredFile = StoredFile::Events;
    const KIND: u8 = 7;
}

fn checked_body(bytes: &[u8], (kind, reads): (u8, u8)) -> Result<&[u8], StoredError> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        // A torn write of ours is a prefix of the magic; anything else was never ours.
        let torn = MAGIC.starts_with(bytes);
        return Err(if torn { StoredError::Damaged } else { StoredError::Foreign });
    };
    let mut reader = Reader::new(rest);
    let mut head = || -> Result<(u8, u8, u32, u32), WireError> {
        Ok((reader.u8()?, reader.u8()?, reader.u32()?, reader.u32()?))
    };
    let (found_kind, version, length, checksum) = head().map_err(|_| StoredError::Damaged)?;
    if found_kind != kind {
        return Err(StoredError::WrongKind);
    }
    if version != reads {
        return Err(StoredError::WrongVersion { found: version, reads });
    }
    let body = reader.rest();
    let whole = usize::try_from(length).is_ok_and(|length| length == body.len());
    if whole && crc32c::crc32c(body) == checksum { Ok(body) } else { Err(StoredError::Damaged) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Incarnation, ViewNumber};
    use crate::view::ViewIdentity;

    fn identity() -> StoredIdentity {
        let instance = NodeInstance { node: NodeId(3), incarnation: Incarnation(1) };
        StoredIdentity { cluster: ClusterId(77), instance }
    }

    #[test]
    fn a_file_gives_back_what_was_put_in() {
        assert_eq!(StoredIdentity::from_file(&identity().to_file()), Ok(identity()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let file = identity().to_file();
        for cut in 0..file.len() {
            let error = StoredIdentity::from_file(&file[..cut]).expect_err("cut");
            assert_eq!(error, StoredError::Damaged, "cut at {cut}");
        }
        for bit in 0..file.len() * 8 {
            let mut bytes = file.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredIdentity::from_file(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn files_of_others_are_told_apart() {
        assert_eq!(StoredIdentity::from_file(b"hello, world"), Err(StoredError::Foreign));
        let view = ViewIdentity { number: ViewNumber(1), members: Vec::new() };
        let register =
            StoredRegister { cluster: ClusterId(77), register: Register::new(view) }.to_file();
        assert_eq!(StoredIdentity::from_file(&register), Err(StoredError::WrongKind));
        let mut later = identity().to_file();
        later[5] = 9;
        assert_eq!(
            StoredIdentity::from_file(&later),
            Err(StoredError::WrongVersion { found: 9, reads: 1 })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(StoredIdentity::from_file(&bytes).is_err());
            prop_assert!(StoredCluster::from_file(&bytes).is_err());
        }
    }
}
