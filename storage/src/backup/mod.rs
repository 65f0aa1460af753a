//! Backups: the rows of some partitions as of a closed epoch, in a file, a *part* of a backup.
//!
//! * [`PartWriter`]: a machine that is given rows and asks for disk operations;
//! * [`PartFile`]: a finished part, read in place, block by block and in parallel.
//!
//! A part holds rows and nothing else: what is prepared and undecided as of a closed epoch has not
//! happened, and outcomes belong to the cluster that is backed up. The catalog is a table like the
//! others; it has a copy in every partition, and a backup has the one of the first.
//!
//! Invariant: a file under its final name is complete. It is written under another one, synced, and
//! renamed; and without its trailer, which names its length, it is not read.

mod format;
mod reader;
mod writer;

pub use format::PartHeader;
pub use reader::{PartBlock, PartFile, Rows, StoredRow, Unpacked};
pub use writer::{PartState, PartWriter};
