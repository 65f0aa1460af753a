//! A primary gives a replica that comes back what it misses: the donor's side of a join.
//!
//! The order is everything. First the joiner is added to the stream of the log; the undecided
//! prepares and the outcome table go as of that position; then, once everything before it is
//! stable, the rows, each as the newest version if that is stable. A row whose newest version is
//! not stable was written after the position: its record is in the stream, and the copy ends only
//! where that record is applied.
//!
//! Nothing here may cost more than it should: pieces are small, only a few are under way, a turn
//! makes few of them, and one partition after the other is copied to a shard. Stable records that a
//! joiner has not acknowledged are kept for a broken link or a view change, up to a limit; a joiner
//! that is further behind starts anew.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, PartitionId, Seq, ShardAddr, TableId};
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::time::Instant;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::join::{Holding, JoinMessage, Piece};
use lockstep_proto::wire::progress::Share;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::Position;

use super::ShardCore;
use super::copied::Step;
use super::partition::Partition;

/// Bytes of rows in one piece, about.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces of one copy that are under way.
const PIECES_UNDER_WAY: u64 = 8;
/// Pieces made in one turn.
const PIECES_PER_TURN: usize = 2;
/// Steps of scans in one turn: most rows may be of no interest.
const STEPS_PER_TURN: usize = 512;
/// The pause before the next turn when there is more to do.
const NEXT_TURN: Duration = Duration::from_micros(100);
/// Bytes that wait for a joiner beyond which it is cut off from the stream.
pub(super) const JOINER_UNSENT_MAX: usize = 16 << 20;

/// All copies this shard gives.
#[derive(Default)]
pub(super) struct Donor {
    copies: Vec<Copy>,
    /// Who waits for a copy of what, with the epoch it has already.
    waiting: VecDeque<(ShardAddr, PartitionId, Epoch)>,
    /// Names copies.
    count: u64,
    /// There is more to do than one turn may.
    due: Option<Instant>,
}

/// One partition on its way to one joiner.
struct Copy {
    to: ShardAddr,
    partition: PartitionId,
    number: u64,
    after: Epoch,
    link: Option<LinkId>,
    /// Prepares and outcomes as of the beginning.
    head: Vec<Piece>,
    /// Tables, the catalog first.
    tables: Vec<TableId>,
    /// Where the log was at the beginning.
    began: Seq,
    at: Cursor,
    made: u64,
    /// Where each piece that is not acknowledged began.
    starts: VecDeque<Cursor>,
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cursor {
    Head(usize),
    /// Rows deleted since: the next tombstone.
    Deleted(u64),
    Rows(usize, Position),
    End,
    Done,
    /// It cannot be finished: the joiner starts anew.
    Lost,
}

impl Donor {
    /// When the next turn is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The link to a joiner is gone: it says anew what it holds.
    pub(super) fn lost(&mut self, to: ShardAddr) {
        self.copies.iter_mut().filter(|copy| copy.to == to).for_each(|copy| copy.link = None);
        self.waiting.retain(|(other, _, _)| *other != to);
    }

    fn drop_copy(&mut self, to: ShardAddr, p: PartitionId) {
        self.copies.retain(|copy| (copy.to, copy.partition) != (to, p));
        self.waiting.retain(|(other, q, _)| (*other, *q) != (to, p));
    }

    fn find(&mut self, to: ShardAddr, p: PartitionId) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|copy| (copy.to, copy.partition) == (to, p))
    }
}

impl Copy {
    /// The joiner has this many pieces.
    fn took(&mut self, pieces: u64) {
        while self.made - (self.starts.len() as u64) < pieces && !self.starts.is_empty() {
            self.starts.pop_front();
        }
    }

    /// How much of the rows has been looked through.
    fn share(&self, part: &Partition) -> Share {
        let of = part.rows();
        let rows = |table: &TableId| part.rows_of(*table);
        let done = match self.at {
            Cursor::Head(_) | Cursor::Deleted(_) | Cursor::Lost => 0,
            Cursor::Rows(at, Position(place)) => {
                let before: u64 = self.tables.iter().take(at).map(rows).sum();
                // Places are spread evenly.
                let current = u128::from(self.tables.get(at).map_or(0, rows));
                before + u64::try_from((current * u128::from(place)) >> 64).unwrap_or(u64::MAX)
            }
            Cursor::End | Cursor::Done => of,
        };
        Share { done: done.min(of), of }
    }

    /// Goes on after this many pieces; what was made after them is made anew from what is there
    /// now. `None` if they are gone.
    fn rewind(&mut self, pieces: u64) -> Option<()> {
        self.took(pieces);
        if pieces > self.made || self.made - (self.starts.len() as u64) != pieces {
            return None;
        }
        if let Some(first) = self.starts.front() {
            self.at = *first;
        }
        self.starts.clear();
        self.made = pieces;
        Some(())
    }
}

impl ShardCore {
    pub(super) fn on_join_frame(
        &mut self,
        link: LinkId,
        from: ShardAddr,
        body: &[u8],
        out: &mut Outputs,
    ) {
        match JoinMessage::parse(body) {
            Ok(JoinMessage::Here { partition, recovered, holding }) => {
                self.on_here(link, from, partition, recovered, &holding, out);
            }
            Ok(JoinMessage::Took { partition, copy, pieces }) => {
                self.on_took(link, from, partition, (copy, pieces), out);
            }
            Ok(message) => self.on_primary_says(link, from, message, out),
            Err(_) => self.on_malformed(link, out),
        }
    }

    /// A joiner says what it holds: the stream goes on from there, or a copy is made.
    fn on_here(
        &mut self,
        link: LinkId,
        from: ShardAddr,
        p: PartitionId,
        recovered: Epoch,
        holding: &Holding,
        out: &mut Outputs,
    ) {
        self.links.progressed(link, self.now);
        let part = self.parts.get_mut(usize::from(p.0)).and_then(Option::as_mut);
        let Some(part) = part.filter(|part| part.leads) else { return };
        let Some(at) = part.backups.iter().position(|b| b.addr == from && b.joins) else { return };
        let follows = part.backups[at].follows;
        let copy = self.donor.find(from, p);
        let resumed = match holding {
            Holding::Restored => None,
            Holding::Whole { log } => part.common(log),
            Holding::Copying { copy: number, pieces, log } => copy
                .filter(|copy| copy.number == *number && follows)
                .and_then(|copy| Some((copy.rewind(*pieces)?, copy)))
                .and_then(|((), copy)| {
                    copy.link = Some(link);
                    part.common(log)
                }),
        };
        let (counts, until) = (part.backups[at].counts, part.end);
        match resumed {
            Some(seq) => {
                if matches!(holding, Holding::Whole { .. }) {
                    self.donor.drop_copy(from, p);
                }
                let Some(buffer) = out.buffer(link) else { return };
                let resume = JoinMessage::Resume { partition: p, from: seq, until };
                resume.frame(buffer, self.view_number);
                self.stream_to_joiner(link, p, at, seq, out);
            }
            None if counts => {
                // It cannot be: what is stable is stable with it. Everybody would wait for it.
                out.mark("attached_joiner_lost_its_place");
                self.report(&ShardControl::Suspect { node: from.instance }, out);
            }
            None => {
                let backup = &mut part.backups[at];
                (backup.stream, backup.follows) = (None, false);
                part.trim_kept();
                self.donor.drop_copy(from, p);
                self.donor.waiting.push_back((from, p, recovered));
                if let Some(buffer) = out.buffer(link) {
                    let queued = JoinMessage::Queued { partition: p, rows: part.rows() };
                    queued.frame(buffer, self.view_number);
                }
            }
        }
    }

    /// Streams the log to a joiner from here on.
    fn stream_to_joiner(
        &mut self,
        link: LinkId,
        p: PartitionId,
        at: usize,
        after: Seq,
        out: &mut Outputs,
    ) {
        let (view, now) = (self.view_number, self.now);
        let part = self.parts[usize::from(p.0)].as_mut().expect("led partitions exist");
        let backup = &mut part.backups[at];
        (backup.acked, backup.stream, backup.follows) = (after, Some(link), true);
        part.trim_kept();
        part.stable_told = Seq(0);
        let stable = part.stable;
        let (mut seq, end) = (after.next(), part.end);
        while seq <= end {
            let (Some(record), Some(buffer)) = (part.record(seq), out.buffer(link)) else { return };
            Message::Append { view, stable, record }.encode(buffer);
            self.links.sent(link, p, seq, now);
            seq = seq.next();
        }
        self.advance(p, out);
    }

    fn on_took(
        &mut self,
        link: LinkId,
        from: ShardAddr,
        p: PartitionId,
        (number, pieces): (u64, u64),
        _out: &mut Outputs,
    ) {
        self.links.progressed(link, self.now);
        let Some(copy) = self.donor.find(from, p).filter(|copy| copy.number == number) else {
            return;
        };
        copy.took(pieces);
        if copy.at == Cursor::Done && copy.starts.is_empty() {
            self.donor.drop_copy(from, p);
        } else if !copy.starts.is_empty() {
            self.links.expect(link, self.now);
        }
    }

    /// A view begins: copies of partitions that are led here to joiners of this view go on when
    /// the joiner has said what it holds.
    pub(super) fn enter_donor(&mut self) {
        let parts = &self.parts;
        let goes_on = |to: ShardAddr, p: PartitionId| {
            let part = parts.get(usize::from(p.0)).and_then(Option::as_ref);
            part.is_some_and(|part| part.backups.iter().any(|b| b.addr == to && b.follows))
        };
        self.donor.copies.retain(|copy| goes_on(copy.to, copy.partition));
        self.donor.copies.iter_mut().for_each(|copy| copy.link = None);
        self.donor.waiting.clear();
    }

    /// An epoch is closed: joiners hear where the logs have everything of it.
    pub(super) fn mark_closed(&mut self, out: &mut Outputs) {
        let mut by_link: Vec<(LinkId, Vec<(PartitionId, Seq)>)> = Vec::new();
        for part in self.parts.iter().flatten().filter(|part| part.leads) {
            let joiners = part.backups.iter().filter(|b| b.joins);
            for link in joiners.filter_map(|b| b.stream) {
                match by_link.iter_mut().find(|(l, _)| *l == link) {
                    Some((_, ends)) => ends.push((part.id, part.end)),
                    None => by_link.push((link, vec![(part.id, part.end)])),
                }
            }
        }
        for (link, ends) in by_link {
            if let Some(buffer) = out.buffer(link) {
                JoinMessage::Closed { epoch: self.closed, ends }.frame(buffer, self.view_number);
            }
        }
    }

    /// Joiners of a partition are too far behind: they start anew.
    pub(super) fn cut_joiners(&mut self, p: PartitionId, out: &mut Outputs) {
        out.mark("joiner_cut_off");
        let view = self.view_number;
        let part = self.parts[usize::from(p.0)].as_mut().expect("led partitions exist");
        let mut gone = Vec::new();
        for backup in part.backups.iter_mut().filter(|b| b.follows && !b.counts) {
            if let Some(buffer) = backup.stream.take().and_then(|link| out.buffer(link)) {
                JoinMessage::Again { partition: p }.frame(buffer, view);
            }
            backup.follows = false;
            gone.push(backup.addr);
        }
        part.trim_kept();
        for to in gone {
            self.donor.drop_copy(to, p);
        }
    }

    /// Makes the next pieces, as many as a turn may.
    pub(super) fn give_copies(&mut self, out: &mut Outputs) {
        self.donor.due = None;
        if self.donor.copies.is_empty() && self.donor.waiting.is_empty() {
            return;
        }
        self.bound_kept(out);
        self.begin_copies(out);
        let mut budget = Budget { pieces: PIECES_PER_TURN, steps: STEPS_PER_TURN };
        let mut copies = std::mem::take(&mut self.donor.copies);
        for copy in &mut copies {
            self.give(copy, &mut budget, out);
        }
        // Those that did not get a turn come first in the next one.
        let first = usize::from(copies.len() > 1);
        copies.rotate_left(first);
        let lost = copies.iter().filter(|copy| copy.at == Cursor::Lost).map(|copy| copy.partition);
        let lost: Vec<PartitionId> = lost.collect();
        self.donor.copies = copies;
        for p in lost {
            self.cut_joiners(p, out);
        }
        if budget.is_spent() {
            self.donor.due = Some(self.now + NEXT_TURN);
        }
    }

    fn bound_kept(&mut self, out: &mut Outputs) {
        let parts = self.parts.iter().flatten();
        let over =
            parts.filter(|part| part.kept.is_over(self.options.kept_max)).map(|part| part.id);
        for p in over.collect::<Vec<_>>() {
            self.cut_joiners(p, out);
        }
    }

    /// Begins one copy for every joining shard that has none.
    fn begin_copies(&mut self, out: &mut Outputs) {
        for _ in 0..self.donor.waiting.len() {
            let Some((to, p, recovered)) = self.donor.waiting.pop_front() else { return };
            if self.donor.copies.iter().any(|copy| copy.to == to) {
                self.donor.waiting.push_back((to, p, recovered));
            } else {
                self.begin_copy(to, p, recovered, out);
            }
        }
    }

    fn begin_copy(&mut self, to: ShardAddr, p: PartitionId, recovered: Epoch, out: &mut Outputs) {
        let Some(link) = self.links.shards.get(&to).copied() else { return };
        let part = self.parts.get(usize::from(p.0)).and_then(Option::as_ref);
        let Some(part) = part.filter(|part| part.leads) else { return };
        let Some(backup) = part.backups.iter().position(|b| b.addr == to && b.joins) else {
            return;
        };
        out.mark("copy_begins");
        self.donor.count += 1;
        let number = self.donor.count;
        let after = part.changes_known_since(recovered);
        let began = part.end;
        let mut head: Vec<Piece> = Vec::new();
        if self.canary != Some(Canary::CopyWithoutPrepares) {
            head.extend(part.prepared.values().map(|tx| Piece::Prepared(tx.record.to_vec())));
        }
        part.outcomes.save(Epoch(u64::MAX), |piece| head.push(Piece::Outcomes(piece.to_vec())));
        head.push(Piece::Complete);
        let mut tables: Vec<TableId> = part.tables.keys().copied().collect();
        tables.sort_unstable_by_key(|table| (*table != CATALOG, *table));
        let begin = JoinMessage::Begin {
            partition: p,
            copy: number,
            at: began,
            digest: part.digest,
            epoch: self.epoch,
            after,
        };
        if let Some(buffer) = out.buffer(link) {
            begin.frame(buffer, self.view_number);
        }
        if self.canary != Some(Canary::CopyBeforeStream) {
            self.stream_to_joiner(link, p, backup, began, out);
        }
        let (at, link, starts) = (Cursor::Head(0), Some(link), VecDeque::new());
        let (made, partition) = (0, p);
        let copy =
            Copy { to, partition, number, after, link, head, tables, began, at, made, starts };
        self.donor.copies.push(copy);
    }

    /// Sends the next pieces of one copy.
    fn give(&mut self, copy: &mut Copy, budget: &mut Budget, out: &mut Outputs) {
        let Some(link) = copy.link else { return };
        let p = copy.partition;
        while !matches!(copy.at, Cursor::Done | Cursor::Lost) && !budget.is_spent() {
            if copy.starts.len() as u64 >= PIECES_UNDER_WAY {
                return;
            }
            let start = copy.at;
            let Some(piece) = self.next_piece(copy, budget) else { return };
            let Some(part) = self.parts[usize::from(p.0)].as_ref() else { return };
            if self.canary == Some(Canary::CopyBeforeStream) && matches!(piece, Piece::End { .. }) {
                let at = part.backups.iter().position(|b| b.addr == copy.to);
                if let Some(at) = at {
                    let end = part.end;
                    self.stream_to_joiner(link, p, at, end, out);
                }
            }
            let Some(part) = self.parts[usize::from(p.0)].as_ref() else { return };
            let (partition, stable, copy_number) = (p, part.stable, copy.number);
            let share = copy.share(part);
            let message = JoinMessage::Piece { partition, copy: copy_number, stable, share, piece };
            let Some(buffer) = out.buffer(link) else { return };
            message.frame(buffer, self.view_number);
            budget.pieces -= 1;
            copy.starts.push_back(start);
            copy.made += 1;
            self.links.expect(link, self.now);
        }
    }

    /// Makes the next piece and moves the cursor; `None` if that has to wait.
    fn next_piece(&mut self, copy: &mut Copy, budget: &mut Budget) -> Option<Piece> {
        match copy.at {
            Cursor::Head(at) => {
                let piece = copy.head.get(at)?.clone();
                let more = at + 1 < copy.head.len();
                copy.at = match (more, copy.after) {
                    (true, _) => Cursor::Head(at + 1),
                    (false, Epoch(0)) => Cursor::Rows(0, FIRST),
                    (false, _) => Cursor::Deleted(0),
                };
                Some(piece)
            }
            Cursor::Deleted(_) | Cursor::Rows(..) => self.next_rows(copy, budget),
            Cursor::End => {
                copy.at = Cursor::Done;
                Some(Piece::End { at: self.part(copy.partition).end })
            }
            Cursor::Done | Cursor::Lost => None,
        }
    }

    fn next_rows(&mut self, copy: &mut Copy, budget: &mut Budget) -> Option<Piece> {
        let part = self.parts[usize::from(copy.partition.0)].as_mut()?;
        if part.stable < copy.began {
            return None;
        }
        let mut bytes = Vec::new();
        if copy.after < part.deletes.known_since() && matches!(copy.at, Cursor::Deleted(_)) {
            // Too many deletes since the copy began: the joiner cannot be told all of them.
            copy.at = Cursor::Lost;
            return None;
        }
        while let Cursor::Deleted(from) = copy.at {
            if bytes.len() >= PIECE_BYTES || budget.steps == 0 {
                break;
            }
            budget.steps -= 1;
            copy.at = match part.copy_deleted(copy.after, from, &mut bytes) {
                Step::Further(next) => Cursor::Deleted(next),
                Step::Over => Cursor::Rows(0, FIRST),
                Step::Wait => break,
            };
        }
        while let Cursor::Rows(at, position) = copy.at {
            if bytes.len() >= PIECE_BYTES || budget.steps == 0 {
                break;
            }
            let Some(table) = copy.tables.get(at).copied() else {
                copy.at = Cursor::End;
                break;
            };
            budget.steps -= 1;
            let step = part.copy_step(table, copy.after, position, &mut bytes);
            copy.at = match step {
                Step::Further(next) => Cursor::Rows(at, next),
                Step::Over => Cursor::Rows(at + 1, FIRST),
                Step::Wait => break,
            };
            if matches!(step, Step::Over) && table == CATALOG && !bytes.is_empty() {
                break; // A piece of its own: the tables are there before their rows come.
            }
        }
        if !bytes.is_empty() {
            return Some(Piece::Rows(bytes));
        }
        match copy.at {
            Cursor::Deleted(_) | Cursor::Rows(..) => None,
            _ => self.next_piece(copy, budget),
        }
    }
}

const FIRST: Position = Position(0);

/// What may still be done in this turn.
struct Budget {
    pieces: usize,
    steps: usize,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.pieces == 0 || self.steps == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use lockstep_proto::ids::SchemaVersion;
    use lockstep_proto::placement::key_hash;
    use lockstep_proto::schema::catalog_def;
    use lockstep_storage::Fragment;

    use crate::shard::partition::Table;

    #[test]
    fn how_far_a_copy_is_grows_with_its_cursor() {
        let mut part = Partition::new(PartitionId(0));
        for id in [8, 9] {
            let (def, rows) = (Arc::new(catalog_def().clone()), Fragment::new(SchemaVersion(1)));
            part.tables.insert(TableId(id), Table { def, rows, catalog_key: Box::default() });
        }
        for (table, rows) in [(CATALOG, 2_u64), (TableId(8), 1_000), (TableId(9), 3_000)] {
            let table = part.tables.get_mut(&table).unwrap();
            for key in (0..rows).map(u64::to_le_bytes) {
                table.rows.load(key_hash(&key), &key, b"value", Epoch(1));
            }
        }
        let cursors = [
            Cursor::Head(0),
            Cursor::Deleted(7),
            Cursor::Rows(0, Position(u64::MAX)),
            Cursor::Rows(1, Position(1 << 63)),
            Cursor::Rows(2, FIRST),
            Cursor::Rows(2, Position(3 << 62)),
            Cursor::Rows(3, FIRST),
            Cursor::Done,
        ];
        let done = cursors.map(|at| {
            let copy = Copy {
                to: ShardAddr::default(),
                partition: part.id,
                number: 1,
                after: Epoch(0),
                link: None,
                head: Vec::new(),
                tables: vec![CATALOG, TableId(8), TableId(9)],
                began: Seq(0),
                at,
                made: 0,
                starts: VecDeque::new(),
            };
            let share = copy.share(&part);
            assert_eq!(share.of, 4_000, "definitions of tables are not counted");
            share.done
        });
        assert_eq!(done, [0, 0, 0, 500, 1_000, 3_250, 4_000, 4_000]);
    }
}
