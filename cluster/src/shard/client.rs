//! The cold requests of clients: views, sessions, status.

use lockstep_proto::ids::SessionId;
use lockstep_proto::process::{Effect, LinkId, Outputs};
use lockstep_proto::wire::client::{ClientMessage, ShardStatus};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;

use super::ShardCore;

/// Sessions one request may open.
const SESSIONS_PER_REQUEST_MAX: u32 = 256;

/// Bits of a session counter below the shard's number: 16 million sessions per life of a shard.
const SESSION_BITS: u32 = 24;

/// Status questions that may wait for a measurement.
const MEASURING_MAX: usize = 1024;

impl ShardCore {
    pub(super) fn on_client_message(&mut self, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        match codec::decode::<ClientMessage>(&bytes[1..]) {
            Ok(ClientMessage::WatchView) => self.on_watch_view(link, out),
            Ok(ClientMessage::OpenSessions { request, count }) => {
                self.on_open_sessions(link, request, count, out);
            }
            Ok(ClientMessage::OpenSnapshot { request, at_least, pin }) => {
                self.on_open_snapshot(link, request, at_least, pin, out);
            }
            Ok(ClientMessage::GetStatus { request }) => self.on_get_status(link, request, out),
            Ok(ClientMessage::Leave { request, again }) => {
                self.report(&ShardControl::Leave { again }, out);
                self.on_get_status(link, request, out);
            }
            Ok(ClientMessage::Configure { request, change }) => {
                self.report(&ShardControl::Configure { change }, out);
                self.on_get_status(link, request, out);
            }
            Ok(ClientMessage::Order { request, order }) => {
                self.report(&ShardControl::Order(order), out);
                self.on_get_status(link, request, out);
            }
            Ok(
                ClientMessage::View { .. }
                | ClientMessage::SessionsOpened { .. }
                | ClientMessage::GetEvents { .. }
                | ClientMessage::Events { .. }
                | ClientMessage::SnapshotOpened { .. }
                | ClientMessage::Status { .. },
            )
            | Err(_) => self.on_malformed(link, out),
        }
    }

    fn on_watch_view(&mut self, link: LinkId, out: &mut Outputs) {
        if let Some(entry) = self.links.find_mut(link) {
            entry.watches_view = true;
        }
        if let Some(view) = &self.view {
            let message = ClientMessage::View { view: Box::new(view.as_ref().clone()) };
            send(link, &message, out);
        }
    }

    /// Tells every client that watches of the view this shard has entered.
    pub(super) fn push_view(&mut self, out: &mut Outputs) {
        let Some(view) = &self.view else { return };
        let message = ClientMessage::View { view: Box::new(view.as_ref().clone()) };
        for link in self.links.iter().filter(|link| link.watches_view) {
            send(link.id, &message, out);
        }
    }

    fn on_open_sessions(&mut self, link: LinkId, request: u64, count: u32, out: &mut Outputs) {
        let count = count.clamp(1, SESSIONS_PER_REQUEST_MAX);
        if self.session_next + count >= 1 << SESSION_BITS {
            let why = "this shard has handed out all its sessions; restart the node";
            out.effect(Effect::Close { link, why });
            return;
        }
        let counter = u32::from(self.me.shard.0) << SESSION_BITS | self.session_next;
        self.session_next += count;
        let first = SessionId { origin: self.me.instance, counter };
        let epoch = self.epoch;
        send(link, &ClientMessage::SessionsOpened { request, first, count, epoch }, out);
    }

    fn on_get_status(&mut self, link: LinkId, request: u64, out: &mut Outputs) {
        if self.measuring.len() < MEASURING_MAX {
            self.measuring.push_back((link, request));
            out.effect(Effect::Measure { token: request });
        }
    }

    pub(super) fn on_measured(&mut self, cpu_us: u64, rss_bytes: u64, out: &mut Outputs) {
        let Some((link, request)) = self.measuring.pop_front() else { return };
        let status = ShardStatus { cpu_us, rss_bytes, ..self.status() };
        send(link, &ClientMessage::Status { request, status: Box::new(status) }, out);
    }

    /// Its state, but for the use of the machine.
    pub(super) fn status(&self) -> ShardStatus {
        let held = || self.parts.iter().flatten();
        let count = |leads: bool| {
            u32::try_from(held().filter(|part| part.leads == leads).count()).unwrap_or(u32::MAX)
        };
        let rows = held().map(|part| part.rows()).sum();
        ShardStatus {
            instance: self.me.instance,
            shard: self.me.shard,
            view: self.view_number,
            epoch: self.epoch,
            epoch_closed: self.closed,
            partitions_primary: count(true),
            partitions_backup: count(false),
            rows,
            data_bytes: self.data_bytes.max(0).unsigned_abs(),
            data_bytes_max: self.data_memory,
            open: self.coordinated.len() as u64,
            clients: u32::try_from(self.links.clients).unwrap_or(u32::MAX),
            disk: self.disk_status(),
            join: self.join_progress(),
            ..self.stats.clone()
        }
    }
}

fn send(link: LinkId, message: &ClientMessage, out: &mut Outputs) {
    if let Some(buffer) = out.buffer(link) {
        codec::frame_cold(buffer, kind::CLIENT, message);
    }
}
