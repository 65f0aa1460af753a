//! A partition that comes to this node from another node group, or goes to one: what is different
//! from a replica that joins its own group.
//!
//! The one that comes is copied like any other ([`super::join`]), while this node is in sync and
//! goes on with its own partitions. Its redo log has that partition from somewhere in the middle
//! on, so it says so: a restore begins with a checkpoint made since, or not at all. From the moment
//! when the rows are here, no epoch is closed in the log before the partition's records of it are.
//!
//! The one that goes is forgotten with the view that says so, which is on this disk then. Nobody
//! reads it here after this node has answered the proposal: the other group may act first.
//!
//! Invariant: files of a partition are removed only in a view, on this disk, by which it is
//! elsewhere.

use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, TxId};
use lockstep_proto::process::Outputs;
use lockstep_proto::record::{Header, RecordBuilder, RecordKind};
use lockstep_proto::view::{Standing, View};

use super::ShardCore;
use super::answers::Owed;
use super::partition::Partition;
use super::read::Blocked;

impl ShardCore {
    /// Whether this node is in sync, and copies a partition that is to be its group's.
    pub(super) fn receives(&self, part: &Partition) -> bool {
        part.join.is_some() && self.is_in_sync()
    }

    fn is_in_sync(&self) -> bool {
        let me = self.view.as_ref().and_then(|view| view.member(self.me.instance.node));
        me.is_some_and(|member| member.standing == Standing::InSync)
    }

    /// How far a member has come that copies something: itself, or the partition that comes to it.
    pub(super) fn standing_of_copies(&self, view: &View) -> Option<Standing> {
        let member = view.member(self.me.instance.node)?;
        if member.standing != Standing::InSync {
            return Some(member.standing);
        }
        let (_, to) = view.moving_to(member.group)?;
        Some(if to.attached { Standing::Attached } else { Standing::Copying })
    }

    /// The rows of a partition that comes here have come: the redo log says where it begins.
    pub(super) fn note_copied(&mut self, p: PartitionId, epoch: Epoch) {
        if !self.receives(self.part(p)) {
            return;
        }
        let seq = self.part(p).stable;
        let (kind, view) = (RecordKind::Copied, self.view_number);
        let header = Header { kind, partition: p, view, seq, epoch, tx: TxId::default(), low: 0 };
        self.redo.push(&RecordBuilder::decision(&header));
    }

    /// A partition is not held here any more: whoever waits for it is sent elsewhere, and rows and
    /// files go.
    pub(super) fn let_go(&mut self, p: PartitionId, out: &mut Outputs) {
        let Some(part) = self.parts.get_mut(usize::from(p.0)).and_then(Option::take) else {
            return;
        };
        if part.join.is_some() {
            out.mark("copy_let_go");
        } else {
            out.mark("partition_let_go");
        }
        let bytes: usize = part.tables.values().map(|table| table.rows.bytes()).sum();
        self.data_bytes -= i64::try_from(bytes).unwrap_or(i64::MAX);
        self.watermarks_due.retain(|other| *other != p);
        self.runnable.retain(|(other, _)| *other != p);
        self.drop_checkpoints(p);
        for (_, owed) in part.owed {
            self.send_elsewhere(owed, out);
        }
        for (of, owed) in std::mem::take(&mut self.lease_waiting) {
            if of == p {
                self.send_elsewhere(owed, out);
            } else {
                self.lease_waiting.push((of, owed));
            }
        }
        for blocked in part.blocked.into_values().flatten() {
            match blocked {
                // They are found by what they read, below.
                Blocked::Read { .. } => {}
                Blocked::Scan(scan) => {
                    self.refuse_request(scan.link, scan.request, Code::NotReplica, out);
                }
                Blocked::Outcome(question) => {
                    self.refuse_request(question.link, question.request, Code::NotPrimary, out);
                }
            }
        }
        self.refuse_reads_of(p, out);
    }

    /// What was owed to a client and rests on rows that are elsewhere now is asked for there. What
    /// was owed to other shards is asked for anew in every view.
    fn send_elsewhere(&mut self, owed: Owed, out: &mut Outputs) {
        match owed {
            Owed::Done { link, request, .. }
            | Owed::Answer { link, request, .. }
            | Owed::Outcome { link, request, .. } => {
                self.refuse_request(link, request, Code::NotPrimary, out);
            }
            Owed::Page { link, request, .. } => {
                self.refuse_request(link, request, Code::NotReplica, out);
            }
            Owed::Refuse(refusal) => {
                self.refuse_request(refusal.link, refusal.request, Code::NotPrimary, out);
            }
            Owed::OnceDurable(waiting) => self.send_elsewhere(waiting.1, out),
            Owed::Forwarded { .. }
            | Owed::Vote { .. }
            | Owed::Confirm { .. }
            | Owed::Takeover { .. }
            | Owed::Read { .. } => {}
        }
    }
}
