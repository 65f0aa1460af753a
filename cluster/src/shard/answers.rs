//! What is owed to others once a log position is stable: every answer derived from a row waits
//! until the record behind it cannot be lost, whoever it goes to.

use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, Seq, ShardAddr, StartOrder, TxId};
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::wire::data::{Message, OutcomeTold, Results, Vote};

use super::ShardCore;
use super::read::ReadId;

/// Something that must not leave before its log position is stable.
pub(super) enum Owed {
    /// A commit's answer without rows: `count` operations done.
    Done { link: LinkId, request: u64, count: u16 },
    /// An answer with results.
    Answer { link: LinkId, request: u64, results: Box<[u8]>, lease: bool },
    /// A refusal that was derived from rows.
    Refuse(Box<Refusal>),
    /// Results of a forward.
    Forwarded { to: ShardAddr, tx: TxId, step: u32, results: Box<[u8]> },
    /// A vote.
    Vote { to: ShardAddr, tx: TxId, vote: Vote, results: Box<[u8]> },
    /// A decision is in the log for good.
    Confirm { to: ShardAddr, tx: TxId },
    /// The answer to an outcome question.
    Outcome { link: LinkId, request: u64, outcome: OutcomeTold },
    /// The take-over's decision may be told.
    Takeover { tx: TxId },
    /// A page of a scan.
    Page { link: LinkId, request: u64, more: bool, rows: Box<[u8]> },
    /// What waits for its epoch to be on disk, too.
    OnceDurable(Box<(Epoch, Owed)>),
    /// A captured row may be told.
    Read { read: ReadId },
}

/// A client's question about an outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) link: LinkId,
    pub(super) request: u64,
    /// Whether "committed" is wanted only once it is on disk.
    pub(super) to_disk: bool,
}

/// The body of [`Owed::Refuse`].
pub(super) struct Refusal {
    pub(super) link: LinkId,
    pub(super) request: u64,
    pub(super) code: Code,
    pub(super) op: u16,
    pub(super) order: StartOrder,
    pub(super) detail: String,
}

impl ShardCore {
    /// Settles a debt now if its position is stable, else when it is.
    pub(super) fn owe(&mut self, p: PartitionId, after: Seq, owed: Owed, out: &mut Outputs) {
        let part = self.part_mut(p);
        if after <= part.stable {
            self.settle_debt(p, owed, out);
            return;
        }
        let at = match part.owed.back() {
            Some((last, _)) if *last > after => part.owed.partition_point(|(s, _)| *s <= after),
            _ => part.owed.len(),
        };
        part.owed.insert(at, (after, owed));
    }

    /// Settles everything up to the stable end.
    pub(super) fn settle_owed(&mut self, p: PartitionId, out: &mut Outputs) {
        loop {
            let part = self.part_mut(p);
            match part.owed.front() {
                Some((after, _)) if *after <= part.stable => {}
                _ => return,
            }
            let (_, owed) = part.owed.pop_front().expect("looked at the front");
            self.settle_debt(p, owed, out);
        }
    }

    /// Settles one debt whose position is stable. Answers that depend on reading without a record
    /// of their own also need the read lease, now; without it they wait for one.
    pub(super) fn settle_debt(&mut self, p: PartitionId, owed: Owed, out: &mut Outputs) {
        let needs_lease =
            matches!(owed, Owed::Answer { lease: true, .. } | Owed::Refuse(_) | Owed::Page { .. });
        if needs_lease && !self.has_lease(p) {
            out.mark("answer_waits_for_lease");
            self.lease_waiting.push((p, owed));
            return;
        }
        let (epoch, view) = (self.epoch, self.view_number);
        match owed {
            Owed::Done { link, request, count } => {
                let Some(buffer) = out.buffer(link) else { return };
                self.done_results.clear();
                self.done_results.extend_from_slice(&count.to_le_bytes());
                self.done_results.resize(2 + usize::from(count), 0);
                let results = Results(&self.done_results);
                let order = StartOrder::default();
                Message::Answer { request, epoch, order, results }.encode(buffer);
            }
            Owed::Answer { link, request, results, .. } => {
                let Some(buffer) = out.buffer(link) else { return };
                let order = StartOrder::default();
                Message::Answer { request, epoch, order, results: Results(&results) }
                    .encode(buffer);
            }
            Owed::Refuse(refusal) => self.refuse(&refusal, out),
            Owed::Forwarded { to, tx, step, results } => {
                let results = Results(&results);
                let refused = None;
                let message =
                    Message::Forwarded { view, tx, partition: p, step, epoch, refused, results };
                self.tell(to, &message, out);
            }
            Owed::Vote { to, tx, vote, results } => {
                let results = Results(&results);
                self.tell(to, &Message::Voted { view, tx, partition: p, vote, results }, out);
            }
            Owed::Confirm { to, tx } => {
                self.tell(to, &Message::Confirmed { view, tx, partition: p }, out);
            }
            Owed::Outcome { link, request, outcome } => {
                if let Some(buffer) = out.buffer(link) {
                    Message::OutcomeIs { request, outcome }.encode(buffer);
                }
            }
            Owed::Takeover { tx } => self.announce_takeover(tx, out),
            Owed::Page { link, request, more, rows } => {
                self.send_page(link, request, more, &rows, out);
            }
            Owed::OnceDurable(waiting) => self.wait_durable(p, *waiting, out),
            Owed::Read { read } => self.on_read_stable(read, out),
        }
    }

    /// Sends a refusal at once.
    pub(super) fn refuse(&mut self, refusal: &Refusal, out: &mut Outputs) {
        let Some(buffer) = out.buffer(refusal.link) else { return };
        Message::Refused {
            request: refusal.request,
            code: refusal.code,
            op: refusal.op,
            epoch: self.epoch,
            order: refusal.order,
            detail: refusal.detail.as_bytes(),
        }
        .encode(buffer);
    }

    /// Refuses a request as a whole, for a reason that needs no rows.
    pub(super) fn refuse_request(
        &mut self,
        link: LinkId,
        request: u64,
        code: Code,
        out: &mut Outputs,
    ) {
        let order = StartOrder::default();
        let detail = String::new();
        self.refuse(&Refusal { link, request, code, op: u16::MAX, order, detail }, out);
    }

    /// Whether every other replica has promised, until later than now, not to act without this
    /// node.
    pub(super) fn has_lease(&self, p: PartitionId) -> bool {
        if self.canary == Some(Canary::ReadWithoutLease) {
            return true;
        }
        if self.fence.hands_over(p) && self.canary != Some(Canary::ReadHandedOver) {
            return false;
        }
        let Some(part) = self.parts.get(usize::from(p.0)).and_then(Option::as_ref) else {
            return false;
        };
        part.peers.iter().all(|peer| {
            self.leases
                .get(&peer.node)
                .is_some_and(|(instance, until)| instance == peer && *until > self.now)
        })
    }

    /// Leases have moved or the view has changed: tries what waits for them again.
    pub(super) fn retry_lease_waiting(&mut self, out: &mut Outputs) {
        for (p, owed) in std::mem::take(&mut self.lease_waiting) {
            self.settle_debt(p, owed, out);
        }
        self.retry_reads_waiting_for_lease(out);
    }
}
