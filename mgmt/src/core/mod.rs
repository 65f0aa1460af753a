//! The management server as a pure process: it creates the cluster, holds the arbitrator's
//! register, and hands the newest view to whoever watches.
//!
//! * [`plan`]: from newcomers to the first view;
//! * `creation`: collecting the newcomers, and `admission`: letting them in;
//! * `created`: what is kept of an existing cluster, and the rules for changing it;
//! * `backup`: backups, which it runs;
//! * `chronicle`: what has happened, written down for people;
//! * `vault`: answers that wait for the disk.
//!
//! The database lives without it: only creation and an even split need it. Where several
//! management servers are configured, newcomers report to the first of their list, so one of them
//! creates the cluster; the others get their copy from the control cores.
//!
//! Invariants: nothing is told before what it follows from is on disk; a register that should be
//! here but is not is never made up.

mod admission;
mod backup;
mod chronicle;
mod created;
mod creation;
pub mod plan;
mod report;
#[cfg(test)]
mod tests;
mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::Lane;
use lockstep_proto::events::{ClusterEvent, EventLog};
use lockstep_proto::ids::{BackupId, ClusterId, Epoch, MgmtId};
use lockstep_proto::limits::{ANSWERS_HELD_MAX, EVENTS_PER_ANSWER_MAX};
use lockstep_proto::process::{
    Effect, Exit, Input, LinkId, LogLevel, Outputs, Peer, Process, StoredFile, Target,
};
use lockstep_proto::report::Report;
use lockstep_proto::stored::{Stored, StoredBackups, StoredCluster, StoredError, StoredRegister};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, View, ViewIdentity};
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord};
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec::{decode, frame_cold};
use lockstep_proto::wire::control::{ControlMessage, Returned};
use lockstep_proto::wire::kind;

use backup::Backups;
use chronicle::Chronicle;
use created::{Created, Registration};
use creation::Creation;
use plan::ClusterPlan;
use vault::Vault;

/// What a management server is started with.
#[derive(Clone, Debug)]
pub struct MgmtOptions {
    /// Which one it is.
    pub id: MgmtId,
    /// Where data nodes reach it.
    pub addr: String,
    /// The other management servers, best first: they could be arbitrator instead.
    pub others: Vec<(MgmtId, String)>,
    /// The cluster to create, if there is none yet.
    pub plan: ClusterPlan,
    /// What an earlier life has stored.
    pub stored: MgmtStored,
    /// Wall clock minus boot clock at the start, milliseconds: dates events.
    pub wall_offset_ms: u64,
    /// Drawn at random by whoever starts the process; becomes the cluster's id if one is created.
    pub cluster_id_seed: u128,
    /// A bug to switch on, for the simulator.
    pub canary: Option<Canary>,
}

/// The files of a management server's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MgmtStored {
    /// The cluster and its newest known view.
    pub cluster: Option<StoredCluster>,
    /// The arbitrator's register.
    pub register: Option<StoredRegister>,
    /// What it knows of backups.
    pub backups: Option<StoredBackups>,
    /// What has happened.
    pub events: Option<EventLog>,
}

impl MgmtStored {
    /// Reads the files through `read`, which gives a file's content or `None` if it is not there.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn load(
        mut read: impl FnMut(StoredFile) -> Option<Vec<u8>>,
    ) -> Result<Self, (StoredFile, StoredError)> {
        let cluster = read_file(&mut read)?;
        let register = read_file(&mut read)?;
        let backups = read_file(&mut read)?;
        let events = read_file(&mut read)?;
        Ok(Self { cluster, register, backups, events })
    }

    /// The cluster these files belong to, for the handshake.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.as_ref().map(|cluster| cluster.view.cluster)
    }
}

fn read_file<T: Stored>(
    read: &mut impl FnMut(StoredFile) -> Option<Vec<u8>>,
) -> Result<Option<T>, (StoredFile, StoredError)> {
    let content = read(T::FILE).map(|bytes| T::from_file(&bytes)).transpose();
    content.map_err(|error| (T::FILE, error))
}

/// The management server. See the module text.
pub struct MgmtCore {
    id: MgmtId,
    arbitrators: Vec<Arbitrator>,
    cluster_id_seed: u128,
    canary: Option<Canary>,
    state: State,
    vault: Vault<Told>,
    peers: BTreeMap<LinkId, Peer>,
    watchers: BTreeSet<LinkId>,
    now: Instant,
    backups: Backups,
    /// The processes of newcomers that wait for a seat.
    waiting: BTreeMap<LinkId, u64>,
    chronicle: Chronicle,
}

/// ```text
/// Creating ── all newcomers here, or a copy arrives from a control core ──▶ Created
/// ```
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum State {
    Creating(Creation),
    Created(Created),
}

/// Something to say, now or when the disk is done.
#[expect(clippy::large_enum_variant, reason = "most are the largest, and none is kept for long")]
enum Told {
    Control { link: LinkId, message: ControlMessage },
    View { link: LinkId, view: Arc<View> },
    Backup { link: LinkId, message: BackupMessage },
    Events { link: LinkId, events: Vec<ClusterEvent> },
}

impl MgmtCore {
    /// A management server at its start.
    #[must_use]
    pub fn new(options: MgmtOptions) -> Self {
        let MgmtOptions { id, addr, others, plan, stored, wall_offset_ms, .. } = options;
        let MgmtOptions { cluster_id_seed, canary, .. } = options;
        let view = stored.cluster.as_ref().map(|cluster| &cluster.view);
        let own = view.map(|view| view.cluster);
        let known = stored.backups.as_ref();
        let chronicle = Chronicle::restore(stored.events, own, known, wall_offset_ms);
        let backups = Backups::restore(id, stored.backups.unwrap_or_default(), view, canary);
        let state = match stored.cluster {
            Some(cluster) => State::Created(Created::restore(cluster, stored.register)),
            // A register without a cluster is half a creation of which nobody has been told.
            None => State::Creating(Creation::new(plan)),
        };
        let arbitrators = std::iter::once((id, addr))
            .chain(others)
            .map(|(id, addr)| Arbitrator::Mgmt { id, addr })
            .collect();
        Self {
            id,
            arbitrators,
            cluster_id_seed,
            canary,
            state,
            vault: Vault::new(),
            peers: BTreeMap::new(),
            watchers: BTreeSet::new(),
            now: Instant::default(),
            backups,
            waiting: BTreeMap::new(),
            chronicle,
        }
    }

    /// Which server it is.
    #[must_use]
    pub fn id(&self) -> MgmtId {
        self.id
    }

    /// What its register holds, if it has one.
    #[must_use]
    pub fn register(&self) -> Option<&ViewIdentity> {
        match &self.state {
            State::Creating(_) => None,
            State::Created(created) => created.register(),
        }
    }

    /// The newest view it knows; `None` before the cluster exists.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        match &self.state {
            State::Creating(_) => None,
            State::Created(created) => Some(created.view()),
        }
    }

    /// The backup whose parts are being written, and as of when it is: for whoever checks it.
    #[must_use]
    pub fn backup_pinned(&self) -> Option<(BackupId, Epoch)> {
        self.backups.pinned()
    }

    /// Whether it has files to remove that nobody wants.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        self.backups.has_left()
    }

    /// What it knows of backups.
    #[must_use]
    pub fn backup_records(&self) -> &[BackupRecord] {
        self.backups.records()
    }

    fn on_frame(&mut self, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        let (Some(peer), Some((&kind, body))) = (self.peers.get(&link), bytes.split_first()) else {
            return close(link, "malformed frame", out);
        };
        match (kind, *peer) {
            (kind::CONTROL, peer @ (Peer::Control(_) | Peer::Newcomer)) => {
                match ControlMessage::parse(body) {
                    Ok(ControlMessage::Seated { .. }) if peer == Peer::Newcomer => {
                        close(link, "a seat that is not a newcomer's to give", out);
                    }
                    Ok(message) => self.on_control_message(link, message, out),
                    Err(_) => close(link, "malformed control message", out),
                }
            }
            (kind::CLIENT, Peer::Client) => match decode::<ClientMessage>(body) {
                Ok(message) => self.on_client_message(link, message, out),
                Err(_) => close(link, "malformed client message", out),
            },
            (kind::BACKUP, peer @ (Peer::Client | Peer::Shard(..) | Peer::Mgmt(_))) => {
                match BackupMessage::parse(body) {
                    Ok(message) => self.on_backup_message(link, peer, message, out),
                    Err(_) => close(link, "malformed message about backups", out),
                }
            }
            _ => close(link, "a message that is none of a management server's", out),
        }
    }

    fn on_backup_message(
        &mut self,
        link: LinkId,
        peer: Peer,
        message: BackupMessage,
        out: &mut Outputs,
    ) {
        let now = self.now;
        let message = match (peer, message) {
            (Peer::Mgmt(id), BackupMessage::Backups { list }) => {
                let changed = self.backups.on_peer(now, id, list, out);
                return self.store_backups(changed, out);
            }
            (Peer::Mgmt(_), BackupMessage::List) => {
                self.backups.watch(link);
                BackupMessage::List
            }
            (Peer::Client, message) => message,
            (Peer::Shard(..), message) => {
                let changed = self.backups.on_shard(now, link, message, out);
                return self.store_backups(changed, out);
            }
            _ => return close(link, "a message about backups that is none of its", out),
        };
        match self.backups.on_operator(now, message, out) {
            Some(backup::Outcome { changed, answer }) => {
                self.store_backups(changed, out);
                if let Some(message) = answer {
                    self.tell(Told::Backup { link, message }, out);
                }
            }
            None => close(link, "a message about backups that is none of an operator's", out),
        }
    }

    fn on_link_up(&mut self, link: LinkId, peer: Peer, out: &mut Outputs) {
        if let Peer::Shard(instance, shard) = peer
            && !self.backups.on_shard_up(self.now, link, (instance, shard), out)
        {
            return close(link, "", out);
        }
        if let Peer::Mgmt(id) = peer {
            self.backups.on_peer_up(self.now, id, link);
        }
        self.peers.insert(link, peer);
    }

    fn on_control_message(&mut self, link: LinkId, message: ControlMessage, out: &mut Outputs) {
        match message {
            ControlMessage::Report { newcomer, creates } => {
                self.on_report(link, newcomer, creates, out);
            }
            ControlMessage::Seated { process, view } => self.on_seated(process, *view, out),
            ControlMessage::AskArbitrator { request, cluster, asked, counted, wanted } => {
                if !self.is_asked(cluster, &asked) {
                    return out.mark("arbitrator_asked_in_vain");
                }
                let State::Created(created) = &mut self.state else { return };
                let Some(answer) = created.on_ask(&counted, &wanted, self.canary, out) else {
                    return;
                };
                if answer.changed {
                    self.vault.store(&created.stored_register(), out);
                }
                let message =
                    ControlMessage::ArbitratorVerdict { request, verdict: answer.verdict };
                self.tell(Told::Control { link, message }, out);
            }
            ControlMessage::RegisterView { view, counted } => {
                self.on_register_view(link, *view, &counted, out);
            }
            ControlMessage::Returned(returned) => self.on_returned(link, &returned, out),
            ControlMessage::Heartbeat { .. }
            | ControlMessage::Newcome(_)
            | ControlMessage::Order(_)
            | ControlMessage::HeartbeatAnswer { .. }
            | ControlMessage::Tick { .. }
            | ControlMessage::EpochReport { .. }
            | ControlMessage::Propose { .. }
            | ControlMessage::Answered { .. }
            | ControlMessage::AnsweredHigher { .. }
            | ControlMessage::NewView { .. }
            | ControlMessage::SideLost { .. }
            | ControlMessage::LeaveRequest
            | ControlMessage::Configure { .. }
            | ControlMessage::Joining { .. }
            | ControlMessage::Forming { .. }
            | ControlMessage::ArbitratorVerdict { .. }
            | ControlMessage::RegisteredView { .. }
            | ControlMessage::AdmissionPending { .. }
            | ControlMessage::Admitted { .. }
            | ControlMessage::AdmissionRefused { .. }
            | ControlMessage::ArbitratorReady { .. } => {
                close(link, "a control message that is none of a management server's", out);
            }
        }
    }

    /// A data node that was started again asks who is there: the newest view known here tells it
    /// whom to ask.
    fn on_returned(&mut self, link: LinkId, returned: &Returned, out: &mut Outputs) {
        let State::Created(created) = &self.state else { return };
        if created.view().cluster == returned.view.cluster {
            let message = ControlMessage::NewView { view: Box::new(created.view().clone()) };
            self.tell(Told::Control { link, message }, out);
        }
    }

    fn on_client_message(&mut self, link: LinkId, message: ClientMessage, out: &mut Outputs) {
        match message {
            ClientMessage::WatchView => {
                self.watchers.insert(link);
                if let State::Created(created) = &self.state {
                    let view = Arc::new(created.view().clone());
                    self.tell(Told::View { link, view }, out);
                } else {
                    out.mark("mgmt_watched_before_creation");
                }
            }
            ClientMessage::GetEvents { after } => {
                let events = self.chronicle.log().after(after, EVENTS_PER_ANSWER_MAX);
                self.tell(Told::Events { link, events }, out);
            }
            ClientMessage::View { .. }
            | ClientMessage::Events { .. }
            | ClientMessage::OpenSessions { .. }
            | ClientMessage::SessionsOpened { .. }
            | ClientMessage::GetStatus { .. }
            | ClientMessage::OpenSnapshot { .. }
            | ClientMessage::SnapshotOpened { .. }
            | ClientMessage::Leave { .. }
            | ClientMessage::Configure { .. }
            | ClientMessage::Order { .. }
            | ClientMessage::Status { .. } => {
                close(link, "a client message that is none of a management server's", out);
            }
        }
    }

    fn on_register_view(
        &mut self,
        link: LinkId,
        view: View,
        counted: &[ViewIdentity],
        out: &mut Outputs,
    ) {
        let identity = view.identity();
        let registration = match &mut self.state {
            State::Created(created) if created.view().cluster != view.cluster => {
                return close(link, "a node of another cluster", out);
            }
            State::Created(created) => {
                created.on_register_view(view, counted, self.id, self.canary, out)
            }
            State::Creating(_) => {
                out.mark("mgmt_copy_received");
                let lost = created::names(view.arbitrator.as_ref(), self.id);
                if lost {
                    created::log_register_lost(&view, out);
                }
                let cluster = StoredCluster { view, admissions: Vec::new() };
                self.state = State::Created(Created::restore(cluster, None));
                let (registered, register_changed, view_changed) = (!lost, false, true);
                Registration { registered, register_changed, view_changed, lost }
            }
        };
        if let State::Created(created) = &self.state {
            if registration.register_changed {
                self.vault.store(&created.stored_register(), out);
            }
            if registration.view_changed {
                self.vault.store(created.stored_cluster(), out);
            }
        }
        let Registration { registered, view_changed, lost, .. } = registration;
        self.note_view(lost, out);
        let message = ControlMessage::RegisteredView { view: identity, registered, lost };
        self.tell(Told::Control { link, message }, out);
        if view_changed {
            self.tell_watchers(out);
            if let State::Created(created) = &self.state {
                let changed = self.backups.on_view(self.now, created.view(), out);
                self.store_backups(changed, out);
            }
        }
    }

    fn is_asked(&self, cluster: ClusterId, asked: &Arbitrator) -> bool {
        let own = self.view().is_some_and(|view| view.cluster == cluster);
        own && created::names(Some(asked), self.id)
    }

    fn tell_watchers(&mut self, out: &mut Outputs) {
        let Some(view) = self.view().map(|view| Arc::new(view.clone())) else { return };
        let watchers: Vec<LinkId> = self.watchers.iter().copied().collect();
        for link in watchers {
            self.tell(Told::View { link, view: Arc::clone(&view) }, out);
        }
    }

    fn tell(&mut self, told: Told, out: &mut Outputs) {
        if self.vault.answers() >= ANSWERS_HELD_MAX {
            return out.mark("mgmt_answer_dropped");
        }
        if let Some(told) = self.vault.hold(told) {
            send(told, out);
        }
    }

    fn on_stored(&mut self, token: u64, ok: bool, out: &mut Outputs) {
        if !ok {
            let reason = "the management server's directory cannot be written, and answers may \
                          not run ahead of the disk; free space or repair it and start again";
            return out.effect(Effect::Exit(Exit { code: 1, reason: reason.to_owned() }));
        }
        for told in self.vault.on_stored(token) {
            send(told, out);
        }
        let changed = self.backups.on_stored(self.now, token, out);
        self.store_backups(changed, out);
    }

    fn on_link_down(&mut self, link: LinkId, out: &mut Outputs) {
        if let Some(Peer::Shard(..) | Peer::Mgmt(_)) = self.peers.remove(&link) {
            let changed = self.backups.on_link_down(self.now, link, out);
            self.store_backups(changed, out);
        }
        self.watchers.remove(&link);
        self.waiting.remove(&link);
        if let State::Creating(creation) = &mut self.state {
            creation.on_link_down(link);
        }
    }
}

impl Process for MgmtCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        self.now = self.now.max(now);
        match input {
            Input::LinkUp { link, peer } => self.on_link_up(link, peer, out),
            Input::LinkDown { link, .. } => self.on_link_down(link, out),
            Input::Frame { link, bytes } => self.on_frame(link, bytes, out),
            Input::Stored { token, ok } => self.on_stored(token, ok, out),
            Input::Terminate => out.effect(Effect::Exit(Exit {
                code: 0,
                reason: "stopped by its operator".to_owned(),
            })),
            Input::DialFailed { to: Target::Shard(instance, shard), .. } => {
                let changed = self.backups.on_shard_lost(self.now, (instance, shard), out);
                self.store_backups(changed, out);
            }
            Input::DialFailed { to: Target::Mgmt(id), .. } => {
                self.backups.on_peer_failed(self.now, id);
            }
            Input::Disk { lane: Lane::Backup, done } => {
                let changed = self.backups.on_disk(self.now, &done, out);
                self.store_backups(changed, out);
            }
            Input::Timeout => {
                let changed = self.backups.on_timeout(self.now, out);
                self.store_backups(changed, out);
            }
            // It dials nobody else, has no other files, and measures nothing.
            Input::DialFailed { .. }
            | Input::Disk { .. }
            | Input::Measured { .. }
            | Input::Recovered { .. } => {}
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        self.backups.next_timeout()
    }

    fn report(&self, _now: Instant) -> Option<Report> {
        Some(Report::Mgmt(self.to_report()))
    }
}

fn send(told: Told, out: &mut Outputs) {
    match told {
        Told::Control { link, message } => {
            if let Some(buffer) = out.buffer(link) {
                message.frame(buffer);
            }
        }
        Told::Events { link, events } => {
            if let Some(buffer) = out.buffer(link) {
                frame_cold(buffer, kind::CLIENT, &ClientMessage::Events { events });
            }
        }
        Told::View { link, view } => {
            if let Some(buffer) = out.buffer(link) {
                let message = ClientMessage::View { view: Box::new(View::clone(&view)) };
                frame_cold(buffer, kind::CLIENT, &message);
            }
        }
        Told::Backup { link, message } => {
            if let Some(buffer) = out.buffer(link) {
                frame_cold(buffer, kind::BACKUP, &message);
            }
        }
    }
}

fn refuse(text: String, out: &mut Outputs) -> ControlMessage {
    out.mark("newcomer_refused");
    out.log(LogLevel::Warn, format!("refused a data node: {text}"));
    ControlMessage::AdmissionRefused { text }
}

fn close(link: LinkId, why: &'static str, out: &mut Outputs) {
    out.effect(Effect::Close { link, why });
}
