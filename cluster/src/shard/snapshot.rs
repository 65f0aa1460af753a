//! Reads and scans as of a closed epoch, from any in-sync replica: without a lock, without a lease,
//! never in the way of writers. What is prepared and undecided has not happened as of a closed
//! epoch, so nobody waits for it.
//!
//! An epoch that is not known as closed here is waited for. Older versions are kept for a while
//! for everybody, and longer for those who have *pinned* an epoch; who comes later than that is
//! told so.
//!
//! Invariant: what is read at an epoch is the last version of that epoch or an earlier one, on
//! every replica the same.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, SchemaVersion, StartOrder, TableId};
use lockstep_proto::limits::{ANSWERS_OWED_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_ROWS_MAX};
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::time::Instant;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec;
use lockstep_proto::wire::data::{Message, Results};
use lockstep_proto::wire::kind;
use lockstep_proto::wire::op::{OpKind, OpResult, Ops};
use lockstep_storage::{Position, Row};

use super::ShardCore;
use super::apply::catalog_table;
use super::evaluate::table_of;
use super::partition::{Partition, Table};
use super::read::bounded;
use super::redo::Redo;

/// How long a pinned epoch stays pinned after the last read at it.
const PIN_IDLE: Duration = Duration::from_secs(15);

/// Steps of a scan that one request may take; some meet few rows.
const STEPS_MAX: usize = 1024;

/// What waits for an epoch to be closed.
enum Waiting {
    /// A request, as it came.
    Frame(LinkId, Box<[u8]>),
    Open {
        link: LinkId,
        request: u64,
        at_least: Epoch,
        pin: bool,
    },
}

/// See the module text.
#[derive(Default)]
pub(super) struct Snapshots {
    waiting: BTreeMap<Epoch, Vec<Waiting>>,
    count: usize,
    /// When each was read at last.
    pins: BTreeMap<(Epoch, LinkId), Instant>,
    /// Versions that were replaced up to this epoch are gone.
    freed: Epoch,
}

/// The table and partition a scan is of.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) table: TableId,
    pub(super) schema: SchemaVersion,
}

/// Appends a row as pages have it.
pub(super) fn put_row(out: &mut Vec<u8>, row: &Row<'_>) {
    let key_length = u16::try_from(row.key().len()).expect("keys are bounded");
    out.extend_from_slice(&key_length.to_le_bytes());
    out.extend_from_slice(row.key());
    let value_length = u32::try_from(row.value().len()).expect("rows are bounded");
    out.extend_from_slice(&value_length.to_le_bytes());
    out.extend_from_slice(row.value());
}

impl Snapshots {
    /// The oldest epoch somebody has pinned.
    pub(super) fn oldest_pin(&self) -> Option<Epoch> {
        self.pins.first_key_value().map(|((epoch, _), _)| *epoch)
    }

    /// Whether somebody has pinned an epoch.
    pub(super) fn has_pinned(&self, epoch: Epoch) -> bool {
        self.pins.keys().any(|(pinned, _)| *pinned == epoch)
    }

    /// Versions replaced up to `horizon` are freed from now on.
    pub(super) fn freed(&mut self, horizon: Epoch) {
        self.freed = self.freed.max(horizon);
    }

    /// Ends pins that nobody has used for a while, or all if too much is kept for them.
    pub(super) fn expire_pins(&mut self, now: Instant, too_much: bool) -> bool {
        if too_much && !self.pins.is_empty() {
            self.pins.clear();
            return true;
        }
        self.pins.retain(|_, used| now.since(*used) < PIN_IDLE);
        false
    }

    /// A client is gone.
    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.pins.retain(|(_, of), _| *of != link);
    }

    /// Keeps older versions as of a closed epoch for the one at the other end of a link, until
    /// that ends or is silent; false if they are gone.
    pub(super) fn pin(&mut self, epoch: Epoch, link: LinkId, now: Instant) -> bool {
        let kept = epoch >= self.freed;
        if kept {
            self.pins.insert((epoch, link), now);
        }
        kept
    }

    /// A frame is to be handled once an epoch is closed.
    pub(super) fn wait_with_frame(
        &mut self,
        at: Epoch,
        link: LinkId,
        frame: &[u8],
        redo: &mut Redo,
    ) {
        self.wait(at, Waiting::Frame(link, frame.into()));
        redo.need_closed(at);
    }

    pub(super) fn touch(&mut self, epoch: Epoch, link: LinkId, now: Instant) {
        if let Some(used) = self.pins.get_mut(&(epoch, link)) {
            *used = now;
        }
    }

    fn wait(&mut self, epoch: Epoch, waiting: Waiting) {
        self.count += 1;
        self.waiting.entry(epoch).or_default().push(waiting);
    }
}

impl ShardCore {
    /// Requests for the past.
    pub(super) fn on_past(&mut self, link: LinkId, message: &Message<'_>, out: &mut Outputs) {
        let (request, at) = match *message {
            Message::ReadAt { request, at, .. }
            | Message::ScanAt { request, at, .. }
            | Message::Sweep { request, at, .. } => (request, at),
            _ => return,
        };
        if let Err(code) = self.admit_past(at) {
            self.refuse_request(link, request, code, out);
            return;
        }
        let hasty = self.canary == Some(Canary::SnapshotOfOpenEpoch);
        if at > self.closed && !hasty {
            out.mark("read_waits_for_close");
            let mut frame = BytesMut::new();
            message.encode(&mut frame);
            self.snapshots.wait_with_frame(at, link, &frame[4..], &mut self.redo);
            return;
        }
        self.snapshots.touch(at, link, self.now);
        let answered = match *message {
            Message::ReadAt { ops, .. } => self.read_at(link, request, at, ops, out),
            Message::ScanAt { table, schema, partition, rows_max, after, .. } => {
                let place = Place { partition, table, schema };
                self.page_at(link, request, at, place, (rows_max, after), out)
            }
            Message::Sweep { table, schema, partition, place, rows_max, .. } => {
                let from = Position(place);
                let place = Place { partition, table, schema };
                self.sweep_at(link, request, at, place, (rows_max, from), out)
            }
            _ => Ok(()),
        };
        if let Err(code) = answered {
            self.refuse_request(link, request, code, out);
        }
    }

    pub(super) fn admit_past(&mut self, at: Epoch) -> Result<(), Code> {
        if self.view.is_none() {
            return Err(Code::NotServing);
        }
        if !self.raise_epoch_of_client(at) {
            return Err(Code::EpochAhead);
        }
        if self.snapshots.count >= ANSWERS_OWED_MAX {
            return Err(Code::Busy);
        }
        Ok(())
    }

    /// Whether this shard can tell a partition's rows as of a closed epoch.
    ///
    /// # Errors
    /// `NotReplica` without the partition in sync, `SnapshotTooOld` where its versions of rows do
    /// not reach back to `at`: they were freed, or the replica was copied after it.
    pub fn has_past(&self, p: PartitionId, at: Epoch) -> Result<(), Code> {
        let placement = self.view.as_ref().and_then(|view| view.placement(p));
        let in_sync = placement.is_some_and(|at| at.replicas.contains(&self.me.instance.node));
        let part = self.parts.get(usize::from(p.0)).and_then(Option::as_ref);
        let part = part.filter(|_| in_sync).ok_or(Code::NotReplica)?;
        if at < self.snapshots.freed.max(part.versions_from) {
            return Err(Code::SnapshotTooOld);
        }
        Ok(())
    }

    fn read_at(
        &mut self,
        link: LinkId,
        request: u64,
        at: Epoch,
        ops: Ops<'_>,
        out: &mut Outputs,
    ) -> Result<(), Code> {
        let partitions = self.partitions();
        self.results.clear();
        let count = u16::try_from(ops.len()).expect("bounded by BATCH_OPS_MAX");
        self.results.extend_from_slice(&count.to_le_bytes());
        let mut looked_at = None;
        for op in ops.iter() {
            if op.kind != OpKind::Read {
                return Err(Code::Malformed);
            }
            self.has_past(op.partition, at)?;
            let part = self.parts[usize::from(op.partition.0)].as_mut().expect("just looked");
            if looked_at != Some((op.partition, op.table)) {
                if part.was_unseen(op.table, at) {
                    return Err(Code::NoSuchTable);
                }
                looked_at = Some((op.partition, op.table));
            }
            let held = self.results.len();
            let result = match table_of(part, partitions, &op) {
                Err(code) => OpResult::Failed(code),
                Ok((_, hash)) => {
                    let table = part.tables.get_mut(&op.table).expect("just found");
                    let row = table.rows.row_at(at, hash, op.key);
                    row.map_or(OpResult::Absent, |row| bounded(OpResult::Row(row.value()), held))
                }
            };
            result.write(&mut self.results);
        }
        self.stats.reads += u64::from(count);
        if let Some(buffer) = out.buffer(link) {
            let (epoch, order) = (self.epoch, StartOrder::default());
            Message::Answer { request, epoch, order, results: Results(&self.results) }
                .encode(buffer);
        }
        Ok(())
    }

    /// The table of a scan, if it can be scanned as of a closed epoch.
    fn table_at(&mut self, place: Place, at: Epoch) -> Result<&mut Table, Code> {
        self.has_past(place.partition, at)?;
        let part = self.parts[usize::from(place.partition.0)].as_mut().expect("just looked");
        if !part.tables.contains_key(&place.table) {
            return Err(part.why_no_table());
        }
        if part.was_unseen(place.table, at) {
            return Err(Code::NoSuchTable);
        }
        let table = part.tables.get_mut(&place.table).expect("just looked");
        if table.def.version == place.schema { Ok(table) } else { Err(Code::WrongSchema) }
    }

    fn page_at(
        &mut self,
        link: LinkId,
        request: u64,
        at: Epoch,
        place: Place,
        (rows_max, after): (u32, &[u8]),
        out: &mut Outputs,
    ) -> Result<(), Code> {
        let table = self.table_at(place, at)?;
        let rows_max = (rows_max as usize).clamp(1, SCAN_PAGE_ROWS_MAX);
        let page = table.rows.page_at(at, after, rows_max, SCAN_PAGE_BYTES_MAX);
        let mut rows = Vec::new();
        page.rows.iter().for_each(|row| put_row(&mut rows, row));
        let more = page.more;
        if let Some(buffer) = out.buffer(link) {
            Message::Page { request, more, rows: &rows }.encode(buffer);
        }
        Ok(())
    }

    fn sweep_at(
        &mut self,
        link: LinkId,
        request: u64,
        at: Epoch,
        place: Place,
        (rows_max, from): (u32, Position),
        out: &mut Outputs,
    ) -> Result<(), Code> {
        let table = self.table_at(place, at)?;
        let rows_max = (rows_max as usize).clamp(1, SCAN_PAGE_ROWS_MAX);
        let (mut rows, mut count) = (Vec::new(), 0);
        let (mut next, mut last) = (Some(from), Position(u64::MAX));
        for _ in 0..STEPS_MAX {
            let Some(from) = next.filter(|_| count < rows_max) else { break };
            let (held, mut met) = (rows.len(), 0);
            let behind = table.rows.scan_to(at, from, last, |_, row| {
                put_row(&mut rows, &row);
                met += 1;
            });
            let too_much = rows.len() > SCAN_PAGE_BYTES_MAX;
            if too_much && held > 0 {
                rows.truncate(held);
                break;
            }
            if too_much && met > 1 && last > from {
                // Large rows: a smaller step.
                rows.clear();
                let end = behind.map_or(last.0, |behind| behind.0 - 1);
                last = Position(from.0 + (end - from.0) / 2);
                continue;
            }
            (next, last, count) = (behind, Position(u64::MAX), count + met);
        }
        if let Some(buffer) = out.buffer(link) {
            let next = next.map(|position| position.0);
            Message::Swept { request, next, rows: &rows }.encode(buffer);
        }
        Ok(())
    }

    /// A client wants an epoch to read at.
    pub(super) fn on_open_snapshot(
        &mut self,
        link: LinkId,
        request: u64,
        at_least: Epoch,
        pin: bool,
        out: &mut Outputs,
    ) {
        if let Err(code) = self.admit_past(at_least) {
            self.refuse_request(link, request, code, out);
            return;
        }
        let hasty = self.canary == Some(Canary::SnapshotOfOpenEpoch);
        if at_least > self.closed && !hasty {
            out.mark("snapshot_waits_for_close");
            self.snapshots.wait(at_least, Waiting::Open { link, request, at_least, pin });
            self.redo.need_closed(at_least);
            return;
        }
        if pin && !self.snapshots.pin(at_least, link, self.now) {
            self.refuse_request(link, request, Code::SnapshotTooOld, out);
            return;
        }
        let (closed, epoch) = (if hasty { self.epoch } else { self.closed }, self.epoch);
        if let Some(buffer) = out.buffer(link) {
            let message = ClientMessage::SnapshotOpened { request, closed, epoch };
            codec::frame_cold(buffer, kind::CLIENT, &message);
        }
    }

    /// An epoch has been closed: answers who waited for it.
    pub(super) fn wake_snapshots(&mut self, out: &mut Outputs) {
        while let Some(entry) = self.snapshots.waiting.first_entry() {
            if *entry.key() > self.closed {
                return;
            }
            let ready = entry.remove();
            self.snapshots.count -= ready.len();
            for waiting in ready {
                match waiting {
                    Waiting::Frame(link, frame) => self.on_frame(link, &frame, out),
                    Waiting::Open { link, request, at_least, pin } => {
                        self.on_open_snapshot(link, request, at_least, pin, out);
                    }
                }
            }
        }
    }
}

impl Partition {
    /// Whether a table was being loaded as of a closed epoch: then it was not there for anybody.
    fn was_unseen(&mut self, table: TableId, at: Epoch) -> bool {
        let Some(key) = self.tables.get(&table).map(|table| &table.catalog_key) else {
            return false;
        };
        let hash = key_hash(key);
        let newest = self.tables.get(&CATALOG).and_then(|catalog| catalog.rows.get(hash, key));
        // Nearly always: what its definition says now it has said then.
        if newest.is_none_or(|row| row.epoch() <= at) {
            return false;
        }
        let key = key.clone();
        let Some(catalog) = self.tables.get_mut(&CATALOG).map(|catalog| &mut catalog.rows) else {
            return false;
        };
        let then = catalog.row_at(at, hash, &key).and_then(|row| catalog_table(row.value()));
        then.is_some_and(|def| def.is_loading())
    }
}
