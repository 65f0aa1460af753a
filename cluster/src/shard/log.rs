//! The partition log: appending, streaming to backups, acknowledging, and what is stable.
//!
//! A record is stable when every in-sync replica has it. Acknowledgements are cumulative per link:
//! "the first n records you streamed since my `LogEnds`". On entering a view and after every
//! reconnect a backup tells its log ends anew and the primary streams from there, so nothing sent
//! before needs to have arrived.

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{NodeInstance, PartitionId, Seq, ShardAddr, TxId, ViewNumber};
use lockstep_proto::process::{Effect, Exit, LinkId, LogLevel, Outputs};
use lockstep_proto::record::{self, Header, Record, RecordKind, checksum};
use lockstep_proto::wire::data::{Message, Positions, put_log_ends, put_stable};

use super::ShardCore;
use super::donor::JOINER_UNSENT_MAX;
use super::partition::Partition;

/// The digest of a log one record further.
pub(super) fn digested(digest: u64, record: &[u8]) -> u64 {
    let crc = u64::from(checksum(record));
    (digest.rotate_left(5) ^ crc).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Partition {
    /// Takes the next record into the log's memory.
    pub(super) fn push_record(&mut self, record: Box<[u8]>) {
        self.end = self.end.next();
        self.digest = digested(self.digest, &record);
        self.tail.push_back(record);
    }

    /// Moves the stable end; forgets what was kept for records beyond it.
    pub(super) fn raise_stable(&mut self, stable: Seq) {
        assert!(stable <= self.end, "{}: stable beyond the log", self.id);
        let kept = usize::try_from(self.end.0 - stable.0).expect("the tail fits memory");
        while self.tail.len() > kept {
            let Some(record) = self.tail.pop_front() else { break };
            if self.tail.len() == kept {
                self.stable_view = record::view(&record).unwrap_or_default();
            }
            if self.keeps() {
                self.kept.push(record);
            }
        }
        while let Some(&(seq, tag)) = self.unstable_order.front() {
            if seq > stable {
                break;
            }
            self.unstable_order.pop_front();
            if self.unstable.get(&tag) == Some(&seq) {
                self.unstable.remove(&tag);
            }
        }
        self.stable = stable;
    }
}

impl ShardCore {
    /// The header of the next record of a partition this shard leads.
    pub(super) fn next_header(
        &self,
        p: PartitionId,
        kind: RecordKind,
        tx: TxId,
        low: u64,
    ) -> Header {
        let part = self.part(p);
        Header {
            kind,
            partition: p,
            view: self.view_number,
            seq: part.end.next(),
            epoch: self.epoch,
            tx,
            low,
        }
    }

    /// Appends a record to the log of a partition this shard leads: applies it, streams it.
    pub(super) fn append(&mut self, p: PartitionId, record: Box<[u8]>, out: &mut Outputs) -> Seq {
        if lockstep_proto::record::epoch(&record).is_some_and(|epoch| epoch <= self.closed) {
            self.late_records += 1;
        }
        let settled = self.apply(p, &record, out);
        if self.ended {
            // What this replica cannot apply must not reach the others.
            return self.part(p).end;
        }
        self.redo.push(&record);
        let view = self.view_number;
        let part = self.parts[usize::from(p.0)].as_mut().expect("led partitions exist");
        let (seq, stable) = (part.end.next(), part.stable);
        let mut cut = false;
        for backup in &part.backups {
            let Some(link) = backup.stream else { continue };
            cut |= backup.joins && !backup.counts && out.pending(link) > JOINER_UNSENT_MAX;
            if let Some(buffer) = out.buffer(link) {
                Message::Append { view, stable, record: &record }.encode(buffer);
                self.links.sent(link, p, seq, self.now);
            }
        }
        if !part.backups.is_empty() {
            part.stable_told = stable;
        }
        part.push_record(record);
        if cut {
            self.cut_joiners(p, out);
        }
        self.advance(p, out);
        if let Some(tx) = settled {
            self.on_settled(p, tx, out);
        }
        seq
    }

    /// Computes the stable end of a led partition and settles what waited for it.
    pub(super) fn advance(&mut self, p: PartitionId, out: &mut Outputs) {
        let careless = self.canary == Some(Canary::AcknowledgeBeforeBackup);
        let part = self.part_mut(p);
        let counting = part.backups.iter().filter(|b| b.counts);
        let acked = counting.map(|b| b.acked).min().unwrap_or(part.end);
        let stable = if careless { part.end } else { acked.min(part.end) };
        if stable <= part.stable {
            return;
        }
        if careless {
            // The records are still needed for streaming; only the answers run ahead.
            part.stable = stable;
        } else {
            part.raise_stable(stable);
        }
        if part.backups.len() > 1 {
            self.watermarks_due.push(p);
        }
        self.settle_owed(p, out);
        self.report_fenced(out);
    }

    /// A record from the primary.
    pub(super) fn on_append(
        &mut self,
        link: LinkId,
        from: NodeInstance,
        stable: Seq,
        bytes: &[u8],
        out: &mut Outputs,
    ) {
        let record = Record::decode(bytes).ok();
        // What only redo logs have is of no log that others are told.
        let Some(record) = record.filter(|record| record.header.kind != RecordKind::Copied) else {
            self.on_malformed(link, out);
            return;
        };
        let p = record.header.partition;
        if self.leads_elsewhere(p) != Some(from) {
            out.mark("append_from_non_primary_ignored");
            return;
        }
        self.raise_epoch(record.header.epoch);
        let part = self.part_mut(p);
        if part.join.is_some() {
            let at = (record.header.seq, stable);
            return self.on_append_joining(link, at, p, bytes, out);
        }
        if record.header.seq == part.end.next() {
            let settled = self.apply(p, bytes, out);
            self.redo.push(bytes);
            self.part_mut(p).push_record(bytes.into());
            if let Some(tx) = settled {
                self.on_settled(p, tx, out);
            }
        } else if record.header.seq > part.end {
            let text = format!("{p}: record {} follows {}", record.header.seq, part.end);
            self.broken(text, out);
            return;
        }
        self.links.received(link);
        self.learn_stable(p, stable, out);
    }

    /// The primary's watermark of one partition.
    pub(super) fn learn_stable(&mut self, p: PartitionId, stable: Seq, out: &mut Outputs) {
        let part = self.part_mut(p);
        if part.join.is_some() {
            return self.learn_stable_joining(p, stable, out);
        }
        let stable = stable.min(part.end);
        if stable > part.stable {
            part.raise_stable(stable);
            self.settle_owed(p, out);
        }
    }

    /// Watermarks without a record to carry them.
    pub(super) fn on_stable(&mut self, from: NodeInstance, ends: Positions<'_>, out: &mut Outputs) {
        for (p, stable) in ends.iter() {
            if self.leads_elsewhere(p) == Some(from) {
                self.learn_stable(p, stable, out);
            }
        }
    }

    /// A backup has the first `count` records of the stream.
    pub(super) fn on_ack(&mut self, link: LinkId, from: ShardAddr, count: u64, out: &mut Outputs) {
        let mut last: Option<PartitionId> = None;
        while let Some((p, seq)) = self.links.next_acked(link, count) {
            if let Some(previous) = last.filter(|previous| *previous != p) {
                self.advance(previous, out);
            }
            last = Some(p);
            let part = self.part_mut(p);
            if let Some(backup) = part.backups.iter_mut().find(|b| b.addr == from) {
                backup.acked = backup.acked.max(seq);
                if backup.joins {
                    part.trim_kept();
                }
            }
        }
        self.links.progressed(link, self.now);
        if let Some(p) = last {
            self.advance(p, out);
        }
    }

    /// A backup tells how far its logs go: stream to it from there.
    pub(super) fn on_log_ends(
        &mut self,
        link: LinkId,
        from: ShardAddr,
        ends: Positions<'_>,
        out: &mut Outputs,
    ) {
        self.links.restart_stream(link);
        self.links.progressed(link, self.now);
        let view = self.view_number;
        for (p, end) in ends.iter() {
            let part = self.parts.get_mut(usize::from(p.0)).and_then(Option::as_mut);
            let Some(part) = part.filter(|part| part.leads) else { continue };
            // Whatever is stable, every replica has; the rest is kept.
            if end > part.end || end.0 + (part.tail.len() as u64) < part.end.0 {
                let text = format!("{p}: backup {from} has {end}, the primary {}", part.end);
                self.broken(text, out);
                return;
            }
            let stable = part.stable;
            let backup = part.backups.iter_mut().find(|b| b.addr == from && !b.joins);
            let Some(backup) = backup else { continue };
            backup.acked = end;
            backup.stream = Some(link);
            // What it was told of the stable end may be lost with the link or the view.
            part.stable_told = Seq(0);
            let Some(buffer) = out.buffer(link) else { continue };
            for (seq, record) in part.records_after(end) {
                Message::Append { view, stable, record }.encode(buffer);
                self.links.sent(link, p, seq, self.now);
            }
            self.advance(p, out);
        }
    }

    /// Tells one peer shard the log ends of the partitions it leads and this shard backs up.
    pub(super) fn tell_log_ends(&mut self, link: LinkId, to: ShardAddr, out: &mut Outputs) {
        let Some(view) = self.view.clone() else { return };
        let ends: Vec<(PartitionId, Seq)> = self
            .parts
            .iter()
            .flatten()
            .filter(|part| part.join.is_none())
            .filter(|part| !part.leads && view.primary_of(part.id) == Some(to))
            .map(|part| (part.id, part.end))
            .collect();
        self.links.restart_receiving(link);
        self.say_here(link, to, out);
        if ends.is_empty() {
            return;
        }
        if let Some(buffer) = out.buffer(link) {
            put_log_ends(buffer, self.view_number, &ends);
        }
    }

    /// One cumulative acknowledgement per link and turn, and the watermarks backups wait for.
    pub(super) fn send_due(&mut self, out: &mut Outputs) {
        let view = self.view_number;
        self.acknowledge_pieces(out);
        self.give_copies(out);
        self.links.acks_due(|link, count| {
            if let Some(buffer) = out.buffer(link) {
                Message::Ack { view, count }.encode(buffer);
            }
        });
        if !self.watermarks_due.is_empty() {
            let due = std::mem::take(&mut self.watermarks_due);
            self.send_watermarks(view, &due, out);
        }
    }

    /// Tells backups every stable end they have not heard of: the lazy half of watermarks.
    pub(super) fn send_stale_watermarks(&mut self, out: &mut Outputs) {
        let due: Vec<PartitionId> = self
            .parts
            .iter()
            .flatten()
            .filter(|part| part.leads && part.stable > part.stable_told)
            .map(|part| part.id)
            .collect();
        self.send_watermarks(self.view_number, &due, out);
    }

    fn send_watermarks(&mut self, view: ViewNumber, due: &[PartitionId], out: &mut Outputs) {
        let mut by_link: Vec<(LinkId, Vec<(PartitionId, Seq)>)> = Vec::new();
        for p in due {
            let part = self.part_mut(*p);
            if !part.leads || part.stable_told >= part.stable {
                continue;
            }
            part.stable_told = part.stable;
            for link in part.backups.iter().filter_map(|b| b.stream) {
                match by_link.iter_mut().find(|(l, _)| *l == link) {
                    Some((_, ends)) => ends.push((*p, part.stable)),
                    None => by_link.push((link, vec![(*p, part.stable)])),
                }
            }
        }
        for (link, ends) in by_link {
            if let Some(buffer) = out.buffer(link) {
                put_stable(buffer, view, &ends);
            }
        }
    }

    /// The node instance that leads a partition this shard backs up.
    fn leads_elsewhere(&self, p: PartitionId) -> Option<NodeInstance> {
        let part = self.parts.get(usize::from(p.0))?.as_ref()?;
        if part.leads {
            return None;
        }
        self.view.as_ref()?.primary_of(p).map(|addr| addr.instance)
    }

    /// A broken invariant: stop rather than guess.
    pub(super) fn broken(&mut self, text: String, out: &mut Outputs) {
        out.log(LogLevel::Error, format!("broken invariant: {text}"));
        let reason = format!(
            "stopping, because an invariant is broken: {text}; \
             keep the logs and report it, the rest of the cluster goes on"
        );
        out.effect(Effect::Exit(Exit { code: 1, reason }));
        self.ended = true;
    }
}
