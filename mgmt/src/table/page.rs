//! A page of rows as servers send it.

use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

/// Hands out every key and row of a page.
///
/// # Errors
/// If the page does not end where a row ends; what came before has been handed out.
pub fn each_row(page: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Result<(), WireError> {
    let mut reader = Reader::new(page);
    while !reader.rest().is_empty() {
        let key_length = usize::from(reader.u16()?);
        let key = reader.bytes(key_length)?;
        let row_length = reader.u32()? as usize;
        take(key, reader.bytes(row_length)?);
    }
    Ok(())
}
