//! A partition on its way to being in sync: the joiner's side.
//!
//! It is in the log's stream before its copy begins. Records wait in the log's tail, received and
//! acknowledged but not applied, until they are known to be stable; then they are applied in order.
//! So nothing has ever to be undone here: what a change of primary loses was never applied. A piece
//! of the copy says what was stable when it was made, everything up to there was sent before it,
//! and is applied before the piece is; so a copied row is always the row as of the place in the log
//! where the joiner is.
//!
//! ```text
//!  Restored ──Begin──▶ Copying ──End, applied up to it──▶ Whole ──promoted──▶ (in sync)
//!      ▲                  │  another primary, Again          │  the log cannot be followed
//!      └──────────────────┴──────────────────────────────────┘
//! ```
//!
//! Invariant: `stable` of a joining partition is what is applied; `tail` is received beyond it.

use std::collections::VecDeque;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, PartitionId, Seq, ShardAddr, ViewNumber};
use lockstep_proto::outcomes::Outcomes;
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::record::{self, Record, RecordKind, RowWrite};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::view::Standing;
use lockstep_proto::wire::control::JoinStage;
use lockstep_proto::wire::join::{CopiedRow, Holding, JoinMessage, LogPlace, Piece, copied_rows};
use lockstep_proto::wire::progress::Share;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::Tombstones;

use super::ShardCore;
use super::log::digested;
use super::partition::Partition;
use super::progress::Copied;

/// Marks of closed epochs that wait for the log.
const CLOSES_MAX: usize = 64;

/// What a joining partition knows beside its log and rows.
pub(super) struct Join {
    /// Its own files had everything up to this epoch.
    recovered: Epoch,
    state: State,
    /// The log's digest at what is applied.
    digest_applied: u64,
    /// The primary's watermark.
    told_stable: Seq,
    /// Where the log ended when the primary took up this stream; `None` until it has.
    until: Option<Seq>,
    /// Where the log has everything of which closed epoch.
    closes: VecDeque<(Seq, Epoch)>,
    /// Everything of this closed epoch is applied.
    closed: Epoch,
    /// A copy and how many pieces of it have arrived, until that is acknowledged.
    took: Option<(u64, u64)>,
    /// How far the copy is, in figures.
    pub(super) copied: Copied,
}

/// How much of the rows is here.
enum State {
    Restored,
    Copying { copy: u64, pieces: u64, complete: bool, end: Option<Seq> },
    Whole,
}

impl Join {
    /// For a partition restored to this epoch.
    pub(super) fn new(recovered: Epoch, digest: u64) -> Self {
        Self {
            recovered,
            state: State::Restored,
            digest_applied: digest,
            told_stable: Seq(0),
            until: None,
            closes: VecDeque::new(),
            closed: Epoch(0),
            took: None,
            copied: Copied::default(),
        }
    }

    /// Whether all rows are here.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// Where the log ended when the primary took up this stream.
    pub(super) fn until(&self) -> Option<Seq> {
        self.until
    }

    /// A view begins: the stream has to be taken up anew.
    pub(super) fn enter(&mut self) {
        self.until = None;
    }

    fn can_apply(&self) -> bool {
        match self.state {
            State::Restored => false,
            State::Copying { complete, .. } => complete,
            State::Whole => true,
        }
    }
}

impl Partition {
    /// The last epoch, at most `closed`, of which everything is here. That an epoch is closed says
    /// so only of replicas in sync: a joiner applies late.
    pub(super) fn complete_up_to(&self, closed: Epoch) -> Epoch {
        match &self.join {
            None => closed,
            Some(Join { state: State::Whole, closed: applied, .. }) => closed.min(*applied),
            Some(_) => Epoch(0),
        }
    }

    /// Takes note of closed epochs of which everything is applied now.
    fn note_closes(&mut self) {
        let Some(join) = &mut self.join else { return };
        while let Some((_, epoch)) = join.closes.front().filter(|(end, _)| *end <= self.stable) {
            join.closed = join.closed.max(*epoch);
            join.closes.pop_front();
        }
    }

    /// What this replica holds, in words for the primary.
    fn holding(&self, join: &Join) -> Holding {
        let mut runs: Vec<(ViewNumber, Seq)> = Vec::new();
        for (seq, record) in self.records_after(self.stable) {
            let Some(of) = record::view(record) else { continue };
            match runs.last_mut() {
                Some((view, last)) if *view == of => *last = seq,
                _ => runs.push((of, seq)),
            }
        }
        let log = LogPlace { applied: self.stable, runs };
        match join.state {
            State::Restored => Holding::Restored,
            State::Copying { copy, pieces, .. } => Holding::Copying { copy, pieces, log },
            State::Whole => Holding::Whole { log },
        }
    }

    /// Drops what was received beyond `from`: it was never stable.
    fn drop_after(&mut self, from: Seq, digest_applied: u64) {
        while self.end > from && self.end > self.stable {
            self.tail.pop_back();
            self.end = Seq(self.end.0 - 1);
        }
        self.digest = self.tail.iter().fold(digest_applied, |digest, r| digested(digest, r));
    }

    /// Forgets the log and what followed from it; with `rows` also those. Returns the change in
    /// counted bytes.
    fn begin_anew(&mut self, at: Seq, digest: u64, rows: bool) -> i64 {
        let mut delta = 0;
        (self.end, self.stable, self.digest) = (at, at, digest);
        self.stable_view = ViewNumber(0);
        self.tail.clear();
        self.unstable.clear();
        self.unstable_order.clear();
        self.prepared.clear();
        self.prepared_rows.clear();
        self.outcomes = Outcomes::default();
        self.decided.clear();
        self.whole = false;
        // A checkpoint under way is none any more.
        self.tables_dropped += 1;
        if rows {
            for table in self.tables.values() {
                delta -= i64::try_from(table.rows.bytes()).unwrap_or(i64::MAX);
            }
            self.tables = Self::new(self.id).tables;
        }
        delta
    }

    /// Puts or removes one copied row. Returns the change in counted bytes.
    fn load_row(&mut self, row: &CopiedRow<'_>) -> i64 {
        let hash = key_hash(row.key);
        let mut delta = 0;
        if row.table == CATALOG {
            let write = RowWrite { table: row.table, key: row.key, value: row.value };
            delta += self.apply_schema(&write);
        }
        // A table that is not here was dropped: its rows are not wanted.
        let Some(table) = self.tables.get_mut(&row.table) else { return delta };
        delta
            + match row.value {
                Some(value) => table.rows.load(hash, row.key, value, row.epoch),
                None => {
                    let change = table.rows.unload(hash, row.key);
                    self.deletes.push(row.epoch, row.table, row.key);
                    change
                }
            }
    }
}

impl ShardCore {
    /// Whether this shard holds a replica in sync: one that may serve.
    pub(super) fn serves(&self, p: PartitionId) -> bool {
        let part = self.parts.get(usize::from(p.0)).and_then(Option::as_ref);
        part.is_some_and(|part| part.join.is_none())
    }

    /// Says to one primary what this shard holds of the partitions that join there: the link or the
    /// view is new, and nothing under way counts any more.
    pub(super) fn say_here(&mut self, link: LinkId, to: ShardAddr, out: &mut Outputs) {
        let Some(view) = self.view.clone() else { return };
        for p in view.partitions().filter(|p| view.primary_of(*p) == Some(to)) {
            self.say_here_of(link, p, out);
        }
    }

    /// The same of one partition. Not said twice of a stream that goes on: its primary would begin
    /// again where this replica was when it spoke, and that has been applied by then.
    fn say_here_of(&mut self, link: LinkId, partition: PartitionId, out: &mut Outputs) {
        let part = self.parts.get_mut(usize::from(partition.0)).and_then(Option::as_mut);
        let Some((part, buffer)) = part.zip(out.buffer(link)) else { return };
        let Some(join) = &mut part.join else { return };
        join.until = None;
        let recovered = join.recovered;
        let Some(join) = &part.join else { return };
        let holding = part.holding(join);
        JoinMessage::Here { partition, recovered, holding }.frame(buffer, self.view_number);
    }

    /// A primary's message about a partition that joins here.
    pub(super) fn on_primary_says(
        &mut self,
        link: LinkId,
        from: ShardAddr,
        message: JoinMessage,
        out: &mut Outputs,
    ) {
        let p = match &message {
            JoinMessage::Resume { partition, .. }
            | JoinMessage::Queued { partition, .. }
            | JoinMessage::Begin { partition, .. }
            | JoinMessage::Piece { partition, .. }
            | JoinMessage::Again { partition } => *partition,
            JoinMessage::Closed { epoch, ends } => return self.on_closed(from, *epoch, ends),
            JoinMessage::Here { .. } | JoinMessage::Took { .. } => return,
        };
        let joins = self.parts.get(usize::from(p.0)).and_then(Option::as_ref);
        let joins = joins.is_some_and(|part| part.join.is_some());
        if !joins || self.primary_of(p) != Some(from) {
            out.mark("join_message_misplaced");
            return;
        }
        match message {
            JoinMessage::Resume { from, until, .. } => self.on_resume(p, from, until, out),
            JoinMessage::Queued { rows, .. } => self.note_queued(p, rows),
            JoinMessage::Begin { copy, at, digest, epoch, after, .. } => {
                self.raise_epoch(epoch);
                self.note_copy(p, after);
                self.on_begin(p, (copy, at, digest), after, out);
            }
            JoinMessage::Piece { copy, stable, share, piece, .. } => {
                self.on_piece(p, copy, (stable, share), &piece, out);
            }
            JoinMessage::Again { .. } => {
                out.mark("join_stream_cut");
                let part = self.part_mut(p);
                part.whole = false;
                if let Some(join) = &mut part.join {
                    join.state = State::Restored;
                }
                self.say_here_of(link, p, out);
            }
            JoinMessage::Here { .. } | JoinMessage::Took { .. } | JoinMessage::Closed { .. } => {}
        }
    }

    /// The stream goes on after `from`.
    fn on_resume(&mut self, p: PartitionId, from: Seq, until: Seq, out: &mut Outputs) {
        let part = self.part_mut(p);
        let Some(join) = &mut part.join else { return };
        join.until = Some(until);
        join.closes.clear();
        let digest = join.digest_applied;
        if from < part.stable || from > part.end {
            let text = format!("{p}: resumed at {from}, applied {}, end {}", part.stable, part.end);
            self.broken(text, out);
            return;
        }
        if from < part.end {
            out.mark("join_tail_dropped");
        }
        out.mark("join_resumed");
        part.drop_after(from, digest);
        self.report_joined(out);
    }

    /// A copy begins.
    fn on_begin(
        &mut self,
        p: PartitionId,
        (copy, at, digest): (u64, Seq, u64),
        after: Epoch,
        out: &mut Outputs,
    ) {
        if after == Epoch(0) {
            out.mark("join_full_copy");
        } else {
            out.mark("join_delta_copy");
        }
        self.drop_checkpoints_of_copy(p);
        let epoch = self.epoch;
        let part = self.part_mut(p);
        let delta = part.begin_anew(at, digest, after == Epoch(0));
        if after == Epoch(0) {
            part.deletes = Tombstones::since(epoch);
        }
        if let Some(join) = &mut part.join {
            join.digest_applied = digest;
            join.told_stable = Seq(0);
            join.closes.clear();
            join.closed = Epoch(0);
            join.until = Some(at);
            join.state = State::Copying { copy, pieces: 0, complete: false, end: None };
        }
        self.data_bytes += delta;
    }

    /// The next piece of the copy.
    fn on_piece(
        &mut self,
        p: PartitionId,
        copy: u64,
        (stable, share): (Seq, Share),
        piece: &Piece,
        out: &mut Outputs,
    ) {
        let Some(join) = &mut self.part_mut(p).join else { return };
        let State::Copying { copy: current, pieces, .. } = &mut join.state else { return };
        if *current != copy {
            return;
        }
        *pieces += 1;
        join.took = Some((copy, *pieces));
        join.copied.share = Some(share);
        self.took = true;
        self.learn_stable_joining(p, stable, out);
        match piece {
            Piece::Prepared(record) => self.take_prepared_piece(p, record, out),
            Piece::Outcomes(bytes) => {
                if self.part_mut(p).outcomes.load(bytes).is_err() {
                    self.broken(format!("{p}: unreadable outcomes in a copy"), out);
                }
            }
            Piece::Complete => {
                if let Some(join) = &mut self.part_mut(p).join
                    && let State::Copying { complete, .. } = &mut join.state
                {
                    *complete = true;
                }
                self.apply_stable(p, out);
            }
            Piece::Rows(bytes) => self.take_rows_piece(p, bytes, out),
            Piece::End { at } => {
                if let Some(join) = &mut self.part_mut(p).join
                    && let State::Copying { end, .. } = &mut join.state
                {
                    *end = Some(*at);
                }
                self.judge_whole(p, out);
            }
        }
    }

    fn take_prepared_piece(&mut self, p: PartitionId, bytes: &[u8], out: &mut Outputs) {
        match Record::decode(bytes) {
            Ok(record) if record.header.kind == RecordKind::Prepare => {
                out.mark("join_takes_prepared");
                self.apply_prepare(p, &record, bytes, out);
            }
            _ => self.broken(format!("{p}: unreadable prepare in a copy"), out),
        }
    }

    fn take_rows_piece(&mut self, p: PartitionId, bytes: &[u8], out: &mut Outputs) {
        let (mut delta, mut rows, mut size) = (0, 0, 0);
        let part = self.part_mut(p);
        for row in copied_rows(bytes) {
            let Ok(row) = row else {
                self.broken(format!("{p}: unreadable rows in a copy"), out);
                return;
            };
            delta += part.load_row(&row);
            if row.table != CATALOG {
                (rows, size) = (rows + 1, size + row.bytes() as u64);
            }
        }
        self.data_bytes += delta;
        self.note_rows(p, rows, size);
    }

    /// A record of the stream: kept until it is known to be stable.
    pub(super) fn on_append_joining(
        &mut self,
        link: LinkId,
        (seq, stable): (Seq, Seq),
        p: PartitionId,
        bytes: &[u8],
        out: &mut Outputs,
    ) {
        // Counted in any case: the primary counts what it has sent.
        self.links.received(link);
        let part = self.part_mut(p);
        let Some(join) = &part.join else { return };
        if join.until.is_none() || matches!(join.state, State::Restored) {
            return;
        }
        if seq == part.end.next() {
            part.push_record(bytes.into());
            self.note_record();
        } else {
            let text = format!("{p}: record {seq} follows {} in a join", part.end);
            self.broken(text, out);
            return;
        }
        self.learn_stable_joining(p, stable, out);
    }

    /// The primary's watermark: records up to it are applied.
    pub(super) fn learn_stable_joining(&mut self, p: PartitionId, stable: Seq, out: &mut Outputs) {
        let Some(join) = &mut self.part_mut(p).join else { return };
        join.told_stable = join.told_stable.max(stable);
        self.apply_stable(p, out);
    }

    fn apply_stable(&mut self, p: PartitionId, out: &mut Outputs) {
        loop {
            let part = self.part_mut(p);
            let (next, end) = (part.stable.next(), part.end);
            let Some(join) = &part.join else { return };
            if !join.can_apply() || next > join.told_stable.min(end) || self.ended {
                break;
            }
            self.apply_next(p, out);
        }
        self.judge_whole(p, out);
    }

    /// Applies the first record of the tail.
    fn apply_next(&mut self, p: PartitionId, out: &mut Outputs) {
        let part = self.part_mut(p);
        let Some(record) = part.tail.pop_front() else { return };
        let next = part.stable.next();
        if let Some(join) = &mut part.join {
            join.digest_applied = digested(join.digest_applied, &record);
        }
        let settled = self.apply(p, &record, out);
        self.redo.push(&record);
        let part = self.part_mut(p);
        part.stable_view = record::view(&record).unwrap_or_default();
        part.raise_stable(next);
        if let Some(tx) = settled {
            self.on_settled(p, tx, out);
        }
    }

    /// The copy is whole once the log is applied up to its end.
    fn judge_whole(&mut self, p: PartitionId, out: &mut Outputs) {
        let epoch = self.epoch;
        let part = self.part_mut(p);
        part.note_closes();
        let stable = part.stable;
        let Some(join) = &mut part.join else { return };
        if let State::Copying { end: Some(end), .. } = join.state
            && stable >= end
        {
            out.mark("join_whole");
            join.state = State::Whole;
            part.whole = true;
            part.versions_from = epoch;
            self.note_copied(p, epoch);
            self.want_checkpoint(p, epoch);
        }
        self.report_joined(out);
    }

    /// Tells control how far the partitions of this shard are, when they are further.
    pub(super) fn report_joined(&mut self, out: &mut Outputs) {
        let Some(view) = &self.view else { return };
        let Some(standing) = self.standing_of_copies(view) else { return };
        let hasty = self.canary == Some(Canary::JoinerVotes);
        let barred = self.canary != Some(Canary::HandOverBeforeBarrier);
        let mut stage = JoinStage::CaughtUp;
        for part in self.parts.iter().flatten() {
            let Some(join) = &part.join else { continue };
            let until = join.until.or((!barred).then_some(Seq(0)));
            let Some(until) = until else { return };
            if !matches!(join.state, State::Whole) && !hasty {
                return;
            }
            let kept = self.options.redo.is_none() || self.is_on_disk(part);
            if !kept && !hasty {
                return;
            }
            if part.stable < until && !hasty {
                stage = JoinStage::Copied;
            }
        }
        // This node's files lead to nothing older than these checkpoints: if all power failed, the
        // others must be able to come as far. A mate whose disk is lost never will, and stays only
        // until this node takes over.
        let founded = self.founded();
        let place = (&**view, self.me.instance.node);
        let carried = self.redo.is_carried(founded, place, self.canary);
        if !carried && self.options.redo.is_some() && !hasty {
            out.mark("joiner_waits_for_the_disks_of_others");
            self.redo.want_durable(founded);
            stage = JoinStage::Copied;
        }
        if standing == Standing::Copying {
            stage = JoinStage::Copied;
        }
        let joined = (self.view_number, stage);
        if self.joined < Some(joined) {
            self.joined = Some(joined);
            let view = self.view_number;
            self.report(&ShardControl::Joined { view, stage }, out);
        }
    }

    /// A view counts this replica: it is one like every other from now on.
    pub(super) fn finish_join(&mut self, p: PartitionId, out: &mut Outputs) {
        let Some(join) = &self.part(p).join else { return };
        let whole = matches!(join.state, State::Whole);
        if !whole && self.canary != Some(Canary::JoinerVotes) {
            self.broken(format!("{p}: in sync without all of its rows"), out);
            return;
        }
        out.mark("join_finished");
        // As on every backup: what is received is applied, stable or not.
        let tail: Vec<Box<[u8]>> = self.part(p).tail.iter().cloned().collect();
        for record in tail {
            let settled = self.apply(p, &record, out);
            self.redo.push(&record);
            if let Some(tx) = settled {
                self.on_settled(p, tx, out);
            }
        }
        self.part_mut(p).join = None;
    }

    /// From time to time: a partition whose checkpoint has failed gets another one.
    pub(super) fn watch_joins(&mut self, out: &mut Outputs) {
        let whole = self.parts.iter().flatten().filter(|part| part.join.is_some() && part.whole);
        let without =
            whole.filter(|part| !self.is_on_disk(part) && !self.checkpoints.is_coming(part.id));
        let without: Vec<(PartitionId, Epoch)> =
            without.map(|part| (part.id, part.versions_from)).collect();
        for (p, epoch) in without {
            out.mark("join_wants_checkpoint_again");
            self.want_checkpoint(p, epoch);
        }
        self.report_joined(out);
        self.follow_progress(out);
    }

    /// The primary's word on which part of the log has everything of a closed epoch.
    fn on_closed(&mut self, from: ShardAddr, epoch: Epoch, ends: &[(PartitionId, Seq)]) {
        let Some(view) = self.view.clone() else { return };
        for (p, end) in ends {
            let part = self.parts.get_mut(usize::from(p.0)).and_then(Option::as_mut);
            let join = part.and_then(|part| part.join.as_mut());
            let Some(join) = join.filter(|_| view.primary_of(*p) == Some(from)) else { continue };
            if join.closes.len() == CLOSES_MAX {
                join.closes.pop_back();
            }
            join.closes.push_back((*end, epoch));
            self.part_mut(*p).note_closes();
        }
    }

    /// Acknowledges the pieces that have arrived.
    pub(super) fn acknowledge_pieces(&mut self, out: &mut Outputs) {
        if !std::mem::take(&mut self.took) {
            return;
        }
        let Some(view) = self.view.clone() else { return };
        for part in self.parts.iter_mut().flatten() {
            let took = part.join.as_mut().and_then(|join| join.took.take());
            let Some((copy, pieces)) = took else { continue };
            let link = view.primary_of(part.id).and_then(|at| self.links.shards.get(&at));
            if let Some(buffer) = link.and_then(|link| out.buffer(*link)) {
                let took = JoinMessage::Took { partition: part.id, copy, pieces };
                took.frame(buffer, self.view_number);
            }
        }
    }
}
