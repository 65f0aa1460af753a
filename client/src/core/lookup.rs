//! Requests without effect: committed reads, pages of scans, status. They may be sent again at any
//! time, so a lost or refusing replica only means another one.
//!
//! A read whose rows lie behind several links is cut into parts, each a lookup of its own, and put
//! together by a [`Gathering`].

use lockstep_proto::configuration::ConfigChange;
use lockstep_proto::ids::{NodeId, SchemaVersion, ShardId, TableId};
use lockstep_proto::orders::Order;
use lockstep_proto::wire::client::ShardStatus;
use lockstep_proto::wire::data::Results;

use super::batch::{back_off_after, is_worth_a_retry};
use super::*;

/// A request without effect.
#[derive(Debug)]
pub(super) struct Lookup {
    what: What,
    from: ReadFrom,
    /// Replicas that have refused; the next attempt goes elsewhere.
    avoid: Vec<NodeId>,
    attempts: u32,
    pub(super) refusal: Option<Box<CallError>>,
    pub(super) phase: Phase,
    pub(super) parent: Option<Parent>,
}

#[derive(Debug)]
enum What {
    /// Newest committed rows, or those as of an epoch.
    Rows(OpList, Option<Moment>),
    Page(Page),
    Sweep(Sweep),
    Snapshot {
        partition: PartitionId,
        at_least: AtLeast,
    },
    Status {
        node: NodeId,
        shard: ShardId,
        wish: Wish,
    },
}

/// What a node is asked to do beside telling its status.
#[derive(Debug)]
enum Wish {
    /// Nothing.
    None,
    /// To leave, and whether to come back.
    Leave(bool),
    /// To have the configuration changed.
    Configure(Box<ConfigChange>),
    /// To have the roster changed.
    Order(Order),
}

/// One page of a partition.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) table: TableId,
    pub(super) schema: SchemaVersion,
    pub(super) partition: PartitionId,
    pub(super) after: Vec<u8>,
    pub(super) rows_max: u32,
    pub(super) at: Option<Moment>,
}

/// Some rows of a partition as of an epoch.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) table: TableId,
    pub(super) schema: SchemaVersion,
    pub(super) partition: PartitionId,
    pub(super) at: Moment,
    pub(super) place: u64,
    pub(super) rows_max: u32,
}

/// The call a part belongs to, and the places of its operations there.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    key: Key,
    places: Vec<u16>,
}

/// A read that was cut into parts.
#[derive(Debug)]
pub(super) struct Gathering {
    operations: usize,
    missing: usize,
    parts: Vec<(Vec<u16>, ResultList)>,
}

/// Where the operations of a read go.
enum Way {
    /// All over one link.
    One(LinkId),
    /// Each over its own; by operation.
    Many(Vec<LinkId>),
}

impl Lookup {
    pub(super) fn rows(ops: OpList, from: ReadFrom, at: Option<Moment>) -> Result<Self, CallError> {
        if ops.as_ops().is_empty() || ops.as_ops().iter().any(|op| op.kind.writes()) {
            return Err(CallError::refused(Code::Malformed, "a read takes read operations only"));
        }
        Ok(Self::new(What::Rows(ops, at), from))
    }

    pub(super) fn sweep(sweep: Sweep, from: ReadFrom) -> Self {
        Self::new(What::Sweep(sweep), from)
    }

    pub(super) fn snapshot(partition: PartitionId, from: ReadFrom, at_least: AtLeast) -> Self {
        Self::new(What::Snapshot { partition, at_least }, from)
    }

    pub(super) fn page(page: Page, from: ReadFrom) -> Self {
        Self::new(What::Page(page), from)
    }

    pub(super) fn status(node: NodeId, shard: ShardId) -> Self {
        Self::new(What::Status { node, shard, wish: Wish::None }, ReadFrom::Nearest)
    }

    pub(super) fn leave(node: NodeId, again: bool) -> Self {
        let wish = Wish::Leave(again);
        Self::new(What::Status { node, shard: ShardId(0), wish }, ReadFrom::Nearest)
    }

    pub(super) fn configure(node: NodeId, change: Box<ConfigChange>) -> Self {
        let wish = Wish::Configure(change);
        Self::new(What::Status { node, shard: ShardId(0), wish }, ReadFrom::Nearest)
    }

    pub(super) fn order(node: NodeId, order: Order) -> Self {
        let wish = Wish::Order(order);
        Self::new(What::Status { node, shard: ShardId(0), wish }, ReadFrom::Nearest)
    }

    fn new(what: What, from: ReadFrom) -> Self {
        Self {
            what,
            from,
            avoid: Vec::new(),
            attempts: 0,
            refusal: None,
            phase: Phase::Waiting,
            parent: None,
        }
    }

    /// The closed epoch it is of, if it is of one.
    fn moment(&self) -> Option<Moment> {
        match &self.what {
            What::Rows(_, at) | What::Page(Page { at, .. }) => *at,
            What::Sweep(Sweep { at, .. }) => Some(*at),
            What::Snapshot { at_least: AtLeast::Pinned(at), .. } => Some(*at),
            What::Snapshot { .. } | What::Status { .. } => None,
        }
    }

    fn way(&self, topology: &Topology) -> Result<Way, NoRoute> {
        let ops = match &self.what {
            What::Rows(ops, _) => ops.as_ops(),
            What::Page(Page { partition, .. })
            | What::Sweep(Sweep { partition, .. })
            | What::Snapshot { partition, .. } => {
                return topology.read(*partition, self.from, &self.avoid).map(Way::One);
            }
            What::Status { node, shard, .. } => return topology.shard(*node, *shard).map(Way::One),
        };
        let route = |partition| topology.read(partition, self.from, &self.avoid);
        let mut partitions = ops.iter().map(|op| op.partition);
        let first = route(partitions.next().expect("a read is not empty"))?;
        for partition in partitions {
            if route(partition)? != first {
                let all = ops.iter().map(|op| route(op.partition)).collect::<Result<_, _>>()?;
                return Ok(Way::Many(all));
            }
        }
        Ok(Way::One(first))
    }

    fn write(&self, request: u64, epoch: Epoch, buffer: &mut bytes::BytesMut) {
        match &self.what {
            What::Rows(ops, None) => {
                Message::Read { request, epoch, ops: ops.as_ops() }.encode(buffer);
            }
            What::Rows(ops, Some(at)) => {
                Message::ReadAt { request, at: at.epoch, ops: ops.as_ops() }.encode(buffer);
            }
            What::Page(Page { table, schema, partition, after, rows_max, at: Some(at) }) => {
                Message::ScanAt {
                    request,
                    table: *table,
                    schema: *schema,
                    partition: *partition,
                    at: at.epoch,
                    rows_max: *rows_max,
                    after,
                }
                .encode(buffer);
            }
            What::Sweep(Sweep { table, schema, partition, at, place, rows_max }) => {
                Message::Sweep {
                    request,
                    table: *table,
                    schema: *schema,
                    partition: *partition,
                    at: at.epoch,
                    place: *place,
                    rows_max: *rows_max,
                }
                .encode(buffer);
            }
            What::Snapshot { at_least, .. } => {
                let (at_least, pin) = match at_least {
                    AtLeast::Any => (Epoch(0), false),
                    AtLeast::Seen => (epoch, false),
                    AtLeast::Pinned(at) => (at.epoch, true),
                };
                let message = ClientMessage::OpenSnapshot { request, at_least, pin };
                frame_cold(buffer, kind::CLIENT, &message);
            }
            What::Page(page) => Message::Scan {
                request,
                table: page.table,
                schema: page.schema,
                partition: page.partition,
                rows_max: page.rows_max,
                after: &page.after,
            }
            .encode(buffer),
            What::Status { wish, .. } => {
                let message = match wish {
                    Wish::Leave(again) => ClientMessage::Leave { request, again: *again },
                    Wish::Configure(change) => {
                        ClientMessage::Configure { request, change: change.clone() }
                    }
                    Wish::Order(order) => ClientMessage::Order { request, order: order.clone() },
                    Wish::None => ClientMessage::GetStatus { request },
                };
                frame_cold(buffer, kind::CLIENT, &message);
            }
        }
    }

    /// The partitions whose shards must be linked.
    fn partitions(&self) -> Vec<PartitionId> {
        match &self.what {
            What::Rows(ops, _) => ops.as_ops().iter().map(|op| op.partition).collect(),
            What::Page(Page { partition, .. })
            | What::Sweep(Sweep { partition, .. })
            | What::Snapshot { partition, .. } => vec![*partition],
            What::Status { .. } => Vec::new(),
        }
    }

    /// Splits a read into one for each link, with the places of the operations.
    fn split(&self, key: Key, links: &[LinkId]) -> Vec<Lookup> {
        let What::Rows(ops, at) = &self.what else { return Vec::new() };
        let mut parts: Vec<(LinkId, OpList, Vec<u16>)> = Vec::new();
        for ((op, link), own) in ops.as_ops().iter().zip(links).zip(0_u16..) {
            let place = self.parent.as_ref().map_or(own, |p| p.places[usize::from(own)]);
            let index = parts.iter().position(|(l, ..)| l == link).unwrap_or_else(|| {
                parts.push((*link, OpList::default(), Vec::new()));
                parts.len() - 1
            });
            parts[index].1.push(&op);
            parts[index].2.push(place);
        }
        let key = self.parent.as_ref().map_or(key, |parent| parent.key);
        let part = |(_, ops, places)| Lookup {
            what: What::Rows(ops, *at),
            from: self.from,
            avoid: self.avoid.clone(),
            attempts: self.attempts,
            refusal: self.refusal.clone(),
            phase: Phase::Waiting,
            parent: Some(Parent { key, places }),
        };
        parts.into_iter().map(part).collect()
    }
}

impl ClientCore {
    /// Sends a lookup, if it can leave.
    pub(super) fn send_lookup(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(lookup) = lookup_mut(&mut self.calls, key) else { return };
        lookup.phase = Phase::Waiting;
        // No node can tell: to be linked with one of a later generation takes a view of it, so
        // looking here is enough.
        let generation = self.topology.view().map(|view| view.restart_generation);
        if lookup.moment().is_some_and(|at| Some(at.generation) < generation) {
            out.mark("client_snapshot_lost");
            let why = "the cluster was restarted since";
            return self.complete(key, Err(CallError::refused(Code::SnapshotTooOld, why)));
        }
        match lookup.way(&self.topology) {
            Ok(Way::One(link)) => {
                let Some(buffer) = out.buffer(link) else { return };
                lookup.write(request_of(key, lookup.attempts), self.epoch, buffer);
                lookup.phase = Phase::Sent(link);
            }
            Ok(Way::Many(links)) => {
                let parts = lookup.split(key, &links);
                self.send_parts(now, key, parts, out);
            }
            Err(NoRoute::Wait) => {
                let partitions = lookup.partitions();
                partitions.iter().for_each(|partition| self.topology.want(*partition));
                self.topology.dial(now, out, &mut self.timers);
            }
            Err(NoRoute::Never(error)) => self.complete(key, Err(error)),
        }
    }

    /// Replaces a read by its parts.
    fn send_parts(&mut self, now: Instant, key: Key, parts: Vec<Lookup>, out: &mut Outputs) {
        let Some(pending) = self.calls.find_mut(key) else { return };
        let deadline = pending.deadline;
        let Work::Lookup(lookup) = &pending.work else { return };
        let gatherer = lookup.parent.as_ref().map_or(key, |parent| parent.key);
        if gatherer == key {
            let operations = lookup.partitions().len();
            let gathering = Gathering { operations, missing: parts.len(), parts: Vec::new() };
            pending.work = Work::Gathering(gathering);
        } else {
            self.calls.remove(key);
            if let Some(Work::Gathering(gathering)) =
                self.calls.find_mut(gatherer).map(|pending| &mut pending.work)
            {
                gathering.missing += parts.len() - 1;
            }
        }
        for part in parts {
            let work = Work::Lookup(part);
            let pending = Pending { deadline, grace: false, retry_at: now, bytes: 0, work };
            match self.calls.insert(pending) {
                Ok(part) => self.send_lookup(now, part, out),
                Err(_) => {
                    let error = CallError::refused(Code::Busy, "too many calls are pending here");
                    return self.complete(gatherer, Err(error));
                }
            }
        }
    }

    /// A part of a read is completed; so is the whole with the last one, or with the first failure.
    pub(super) fn on_part_done(&mut self, parent: Parent, completion: Completion) {
        let Some(pending) = self.calls.find_mut(parent.key) else { return };
        let Work::Gathering(gathering) = &mut pending.work else { return };
        match completion {
            Ok(Reply::Done { results, .. }) => {
                gathering.parts.push((parent.places, results));
                gathering.missing -= 1;
                if gathering.missing == 0 {
                    let results = ResultList::assemble(gathering.operations, &gathering.parts);
                    let reply = Reply::Done { results, epoch: self.epoch, tx: None };
                    self.complete(parent.key, Ok(reply));
                }
            }
            Ok(_) => {}
            Err(mut error) => {
                let place = error.op.and_then(|op| parent.places.get(usize::from(op)));
                error.op = place.copied();
                self.complete(parent.key, Err(error));
            }
        }
    }

    pub(super) fn on_rows(&mut self, request: u64, results: Results<'_>) -> Result<(), WireError> {
        let Some(lookup) = owed_lookup(&mut self.calls, request) else { return Ok(()) };
        let What::Rows(ops, _) = &lookup.what else { return Err(WireError::BadValue) };
        let results = ResultList::from_wire(results, ops.as_ops().len())?;
        let reply = Reply::Done { results, epoch: self.epoch, tx: None };
        self.complete(key_of(request), Ok(reply));
        Ok(())
    }

    pub(super) fn on_page(&mut self, request: u64, more: bool, rows: &[u8]) {
        if let Some(Lookup { what: What::Page(_), .. }) = owed_lookup(&mut self.calls, request) {
            self.complete(key_of(request), Ok(Reply::Page { more, rows: rows.into() }));
        }
    }

    pub(super) fn on_swept(&mut self, request: u64, next: Option<u64>, rows: &[u8]) {
        if let Some(Lookup { what: What::Sweep(_), .. }) = owed_lookup(&mut self.calls, request) {
            self.complete(key_of(request), Ok(Reply::Swept { next, rows: rows.into() }));
        }
    }

    pub(super) fn on_snapshot(&mut self, request: u64, closed: Epoch, epoch: Epoch) {
        let owed = owed_lookup(&mut self.calls, request);
        if let Some(Lookup { what: What::Snapshot { .. }, .. }) = owed {
            let generation = self.topology.view().map(|view| view.restart_generation);
            let generation = generation.unwrap_or_default();
            let closed = Moment { generation, epoch: closed };
            self.complete(key_of(request), Ok(Reply::Snapshot { closed, epoch }));
        }
    }

    pub(super) fn on_status(&mut self, request: u64, status: Box<ShardStatus>) {
        let owed = owed_lookup(&mut self.calls, request);
        if let Some(Lookup { what: What::Status { .. }, .. }) = owed {
            self.complete(key_of(request), Ok(Reply::Status(status)));
        }
    }

    /// A replica cannot answer: tries another one at once, and all of them again after a while.
    pub(super) fn on_lookup_refused(
        &mut self,
        now: Instant,
        link: LinkId,
        request: u64,
        refusal: CallError,
        out: &mut Outputs,
    ) {
        let key = key_of(request);
        let Some(lookup) = owed_lookup(&mut self.calls, request) else { return };
        // A replica that came back since may know less of the past than the others.
        let elsewhere = refusal.code == Code::SnapshotTooOld && lookup.from == ReadFrom::Nearest;
        let mut worth_a_retry = is_worth_a_retry(refusal.code);
        if !worth_a_retry && !elsewhere {
            return self.complete(key, Err(refusal));
        }
        let ((base, max), attempts) = (back_off_after(refusal.code), lookup.attempts);
        lookup.attempts += 1;
        if lookup.from == ReadFrom::Nearest {
            lookup.avoid.extend(self.topology.node_of(link));
            if lookup.way(&self.topology).is_ok() {
                lookup.refusal = Some(Box::new(refusal));
                out.mark("client_read_fallback");
                return self.send_lookup(now, key, out);
            }
            lookup.avoid.clear();
            // The one before only had no time.
            let before = lookup.refusal.as_ref();
            worth_a_retry |= before.is_some_and(|before| is_worth_a_retry(before.code));
        }
        if !worth_a_retry {
            return self.complete(key, Err(refusal));
        }
        lookup.refusal = Some(Box::new(refusal));
        lookup.phase = Phase::Resting;
        let wait = self.timers.back_off(base, attempts, max);
        self.retry_at(now + wait, key);
    }

    /// The link that owed the answer is gone.
    pub(super) fn on_lookup_lost(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(lookup) = lookup_mut(&mut self.calls, key) else { return };
        lookup.attempts += 1;
        out.mark("client_read_fallback");
        self.send_lookup(now, key, out);
    }
}

fn lookup_mut(calls: &mut Slab<Pending>, key: Key) -> Option<&mut Lookup> {
    match &mut calls.find_mut(key)?.work {
        Work::Lookup(lookup) => Some(lookup),
        _ => None,
    }
}

/// The lookup that waits for the answer to exactly this request.
fn owed_lookup(calls: &mut Slab<Pending>, request: u64) -> Option<&mut Lookup> {
    let key = key_of(request);
    let lookup = lookup_mut(calls, key)?;
    let is_owed = matches!(lookup.phase, Phase::Sent(_));
    (is_owed && request == request_of(key, lookup.attempts)).then_some(lookup)
}
