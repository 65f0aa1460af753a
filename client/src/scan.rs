//! Rows of a partition in key order, page by page: for export and for comparing replicas.

use std::marker::PhantomData;
use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::ids::PartitionId;
use lockstep_proto::key::decode_key;
use lockstep_proto::wire::bytes::Reader;

use crate::client::unexpected;
use crate::core::{Call, Moment, ReadFrom, Reply};
use crate::error::{Error, Result};
use crate::row::{Binding, TableRow};
use crate::table::TableCore;

/// Rows asked for at a time unless chosen otherwise.
const PAGE_ROWS: u32 = 1000;

/// A scan of one partition of a table. Each row is committed; two rows may be of different moments,
/// unless the table is that of a snapshot. Made by [`crate::Table::scan_partition`].
pub struct PartitionScan<R> {
    table: Arc<TableCore>,
    binding: Option<Arc<Binding>>,
    partition: PartitionId,
    from: ReadFrom,
    rows_max: u32,
    after: Vec<u8>,
    at: Option<Moment>,
    at_end: bool,
    row: PhantomData<fn() -> R>,
}

/// A row of a scan with its encoded key: keys of a table sort as their bytes do.
#[derive(Clone, PartialEq, Debug)]
pub struct Scanned<R> {
    /// The encoded primary key.
    pub key: Vec<u8>,
    /// The row.
    pub row: R,
}

impl<R: TableRow> PartitionScan<R> {
    pub(crate) fn new(
        table: Arc<TableCore>,
        partition: PartitionId,
        from: ReadFrom,
        at: Option<Moment>,
    ) -> Self {
        Self {
            table,
            binding: None,
            partition,
            from,
            rows_max: PAGE_ROWS,
            after: Vec::new(),
            at,
            at_end: false,
            row: PhantomData,
        }
    }

    /// Chooses the replica; the nearest unless chosen.
    #[must_use]
    pub fn from(mut self, from: ReadFrom) -> Self {
        self.from = from;
        self
    }

    /// Chooses how many rows a page has at most.
    #[must_use]
    pub fn page_rows(mut self, rows_max: u32) -> Self {
        self.rows_max = rows_max.max(1);
        self
    }

    /// Starts behind this encoded key: where an earlier scan ended.
    #[must_use]
    pub fn after(mut self, key: Vec<u8>) -> Self {
        self.after = key;
        self
    }

    /// The next rows; `None` at the end. A page is never empty.
    ///
    /// Cancel safety: a dropped future loses nothing; the next call reads the same page.
    ///
    /// # Errors
    /// Those of any read. After an error the scan can go on where it was.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Scanned<R>>>> {
        while !self.at_end {
            let binding = match &self.binding {
                Some(binding) => Arc::clone(binding),
                None => Arc::clone(self.binding.insert(self.table.bound().await?)),
            };
            let page = match self.read(&binding).await {
                Ok(page) => page,
                Err(error) => {
                    self.binding = None;
                    self.table.forget(&error);
                    return Err(error.on_table(self.table.name()));
                }
            };
            let rows = page.rows::<R>(&binding)?;
            self.at_end = !page.more;
            if let Some(last) = rows.last() {
                self.after.clone_from(&last.key);
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    async fn read(&self, binding: &Binding) -> Result<RawPage> {
        let call = Call::Scan {
            table: binding.def.id,
            schema: binding.def.version,
            partition: self.partition,
            from: self.from,
            after: self.after.clone(),
            rows_max: self.rows_max,
            at: self.at,
        };
        RawPage::of(self.table.shared().connection.call(call).await?)
    }
}

/// A page as it came.
pub(crate) struct RawPage {
    pub(crate) rows: Box<[u8]>,
    pub(crate) more: bool,
}

impl RawPage {
    pub(crate) fn of(reply: Reply) -> Result<Self> {
        match reply {
            Reply::Page { more, rows } => {
                let page = Self { rows, more };
                let whole: usize =
                    read_page(&page.rows).map(|(k, v)| 2 + k.len() + 4 + v.len()).sum();
                let is_whole = whole == page.rows.len() && (whole > 0 || !page.more);
                if is_whole { Ok(page) } else { Err(Error::new(Code::Malformed, "a broken page")) }
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The last key of the page; empty if it has no rows.
    pub(crate) fn last_key(&self) -> &[u8] {
        read_page(&self.rows).last().map_or(&[], |(key, _)| key)
    }

    fn rows<R: TableRow>(&self, binding: &Binding) -> Result<Vec<Scanned<R>>> {
        let decode = |(key, row): (&[u8], &[u8])| {
            let values = decode_key(&binding.def, key)?;
            Ok(Scanned { key: key.to_vec(), row: binding.row_of(&values, row)? })
        };
        read_page(&self.rows).map(decode).collect()
    }
}

/// The keys and rows of a page, up to its end or the first byte that makes no sense.
pub(crate) fn read_page(rows: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut reader = Reader::new(rows);
    std::iter::from_fn(move || {
        let key_length = usize::from(reader.u16().ok()?);
        let key = reader.bytes(key_length).ok()?;
        let row_length = reader.u32().ok()? as usize;
        Some((key, reader.bytes(row_length).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &[u8], more: bool) -> Result<RawPage> {
        RawPage::of(Reply::Page { more, rows: rows.into() })
    }

    #[test]
    fn a_page_is_whole_or_an_error() {
        let rows = [1, 0, b'k', 2, 0, 0, 0, b'v', b'w'];
        let whole = page(&rows, true).unwrap();
        assert_eq!(whole.last_key(), b"k");
        assert_eq!(read_page(&whole.rows).collect::<Vec<_>>(), [(&b"k"[..], &b"vw"[..])]);
        assert!(page(&rows[..8], true).is_err());
        assert!(page(&[], true).is_err(), "an empty page that promises more never ends");
        assert!(page(&[], false).is_ok());
    }
}
