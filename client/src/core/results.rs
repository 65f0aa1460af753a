//! The results of a batch, owned by the caller.
//!
//! Invariant: the bytes were checked when the list was made, so that walking it cannot fail; a list
//! in which every operation is merely done costs no memory.

use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::data::Results;
use lockstep_proto::wire::op::OpResult;

/// The encoding of [`OpResult::Done`].
const DONE_BYTE: u8 = 0;

/// One result for each operation of a call, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResultList {
    count: u16,
    /// The encoded results; empty if all are [`OpResult::Done`].
    bytes: Box<[u8]>,
}

impl ResultList {
    /// `count` operations, all done, none of which returned anything.
    #[must_use]
    pub fn all_done(count: u16) -> Self {
        Self { count, bytes: Box::default() }
    }

    /// How many results there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The results in order of the operations.
    pub fn iter(&self) -> impl Iterator<Item = OpResult<'_>> {
        let mut reader = Reader::new(&self.bytes);
        let all_done = self.bytes.is_empty();
        (0..self.count).map(move |_| {
            if all_done {
                return OpResult::Done;
            }
            OpResult::read(&mut reader).expect("checked when the list was made")
        })
    }

    /// The first result; what a call of one operation is asked for.
    #[must_use]
    pub fn first(&self) -> Option<OpResult<'_>> {
        self.iter().next()
    }

    /// Checks and copies the results of an answer to `count` operations. Leaving all of them out
    /// means that all are done.
    pub(crate) fn from_wire(results: Results<'_>, count: usize) -> Result<Self, WireError> {
        let wanted = u16::try_from(count).map_err(|_| WireError::TooLong)?;
        if results.0.is_empty() {
            return Ok(Self::all_done(wanted));
        }
        let mut reader = Reader::new(results.0);
        if reader.u16()? != wanted {
            return Err(WireError::BadValue);
        }
        let bytes = reader.rest();
        if bytes.len() == count && bytes.iter().all(|byte| *byte == DONE_BYTE) {
            return Ok(Self::all_done(wanted));
        }
        for _ in 0..wanted {
            OpResult::read(&mut reader)?;
        }
        reader.finish()?;
        Ok(Self { count: wanted, bytes: bytes.into() })
    }

    /// Puts the answers of several messages into the order of the operations: `parts` gives, for
    /// each message, the places of its operations in the call.
    pub(crate) fn assemble(count: usize, parts: &[(Vec<u16>, ResultList)]) -> Self {
        let mut places = vec![OpResult::Absent; count];
        for (indexes, list) in parts {
            for (index, result) in indexes.iter().zip(list.iter()) {
                places[usize::from(*index)] = result;
            }
        }
        Self::of(&places)
    }

    /// A list of these results.
    pub(crate) fn of(results: &[OpResult<'_>]) -> Self {
        let count = u16::try_from(results.len()).expect("bounded by BATCH_OPS_MAX");
        if results.iter().all(|result| *result == OpResult::Done) {
            return Self::all_done(count);
        }
        let mut bytes = bytes::BytesMut::new();
        results.iter().for_each(|result| result.write(&mut bytes));
        Self { count, bytes: bytes.to_vec().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};

    fn wire(results: &[OpResult<'_>]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u16_le(u16::try_from(results.len()).unwrap());
        results.iter().for_each(|result| result.write(&mut bytes));
        bytes
    }

    #[test]
    fn results_survive_the_wire_and_wrong_ones_are_refused() {
        let sent = [OpResult::Row(b"abc"), OpResult::Done, OpResult::Absent];
        let bytes = wire(&sent);
        let list = ResultList::from_wire(Results(&bytes), 3).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), sent);
        assert_eq!(ResultList::from_wire(Results(&bytes), 2), Err(WireError::BadValue));
        let cut = ResultList::from_wire(Results(&bytes[..bytes.len() - 1]), 3);
        assert_eq!(cut, Err(WireError::Truncated));
    }

    #[test]
    fn results_that_say_nothing_are_all_done() {
        let said = wire(&[OpResult::Done, OpResult::Done]);
        let list = ResultList::from_wire(Results(&said), 2).unwrap();
        assert_eq!(list, ResultList::from_wire(Results::EMPTY, 2).unwrap());
        assert_eq!(list.iter().collect::<Vec<_>>(), [OpResult::Done, OpResult::Done]);
    }

    #[test]
    fn the_parts_of_a_read_come_back_in_the_order_of_the_call() {
        let part = |results: &[OpResult<'_>]| {
            ResultList::from_wire(Results(&wire(results)), results.len()).unwrap()
        };
        let parts = [
            (vec![0, 2], part(&[OpResult::Row(b"a"), OpResult::Absent])),
            (vec![1], part(&[OpResult::Row(b"b")])),
        ];
        let list = ResultList::assemble(3, &parts);
        let expected = [OpResult::Row(b"a"), OpResult::Row(b"b"), OpResult::Absent];
        assert_eq!(list.iter().collect::<Vec<_>>(), expected);
    }
}
