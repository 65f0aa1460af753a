//! What control cores, management servers and arbitrators say to each other, and the first words
//! between a newcomer and a management server.
//!
//! The link's handshake names the sender's life, so no message repeats it. All of these are cold
//! and travel through the one codec; the ones sent many times a second (heartbeats, ticks,
//! reports) are a few bytes and carry no view.

use ::bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::configuration::ConfigChange;
use crate::durability::{DiskReport, Pulse};
use crate::ids::{
    ClusterId, Epoch, Incarnation, NodeId, NodeInstance, PartitionId, Seq, ViewNumber,
};
use crate::orders::Order;
use crate::recovery::Recovered;
use crate::roster::{Newcomer, Seat};
use crate::transfer::TransferStep;
use crate::view::{Arbitrator, Member, Reason, View, ViewIdentity};
use crate::wire::codec::{decode, frame_cold};
use crate::wire::shard_control::ProposalId;
use crate::wire::{WireError, kind};

/// Messages between control cores, and between them and management servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlMessage {
    // --- between control cores: life and leases ---
    /// "I live, and I hear everybody but these." Answered by `HeartbeatAnswer`.
    Heartbeat {
        /// Boot clock of the sender in nanoseconds; comes back.
        sent: u64,
        /// The newest view the sender has; whoever is ahead sends its view.
        view: ViewNumber,
        /// The sender's epoch.
        epoch: Epoch,
        /// The members of that view the sender does not hear, in order; shows asymmetric loss.
        unheard: Vec<NodeId>,
        /// A backup has an epoch pinned at a shard of the sender.
        pinned: bool,
    },
    /// The answer, and with it the read lease.
    HeartbeatAnswer {
        /// The heartbeat's `sent`: the holder counts the lease from then.
        sent: u64,
        /// For how long the answerer promises not to act without the asker, in nanoseconds of the
        /// asker's clock; 0 for no promise.
        promise: u64,
    },

    // --- between control cores: epochs ---
    /// From the view's most senior member, every few milliseconds.
    Tick {
        /// The view it belongs to.
        view: ViewNumber,
        /// The current epoch.
        epoch: Epoch,
        /// Every shard of the view has finished this one.
        sealed: Epoch,
        /// Every member has confirmed this seal.
        closed: Epoch,
        /// What is durable, and who waits.
        pulse: Pulse,
    },
    /// A member's progress, to the sender of the ticks.
    EpochReport {
        /// The report is void in any other view.
        view: ViewNumber,
        /// The sender's epoch: ticks go on above it.
        epoch: Epoch,
        /// All shards of the node have finished this one.
        finished: Epoch,
        /// The highest seal the node knows.
        confirmed: Epoch,
        /// What the node's disk has.
        disk: DiskReport,
    },

    // --- between control cores: agreement ---
    /// "Fence these and tell me what you have." Answered by `Answered`, `AnsweredHigher`, by
    /// `NewView` from a member that is ahead, and not at all by one that does not act yet; so it
    /// is repeated.
    Propose {
        /// The view it changes: whoever acts in it answers.
        base: ViewNumber,
        /// Higher ones win.
        proposal: ProposalId,
        /// What the view will be.
        change: ViewChange,
    },
    /// The answer: from now on the sender refuses everything from the proposal's failed nodes.
    Answered {
        /// Which proposal.
        proposal: ProposalId,
        /// What the sender knows.
        answer: Box<Answer>,
    },
    /// The sender has answered a higher proposal.
    AnsweredHigher {
        /// The one refused.
        proposal: ProposalId,
        /// The highest answered.
        highest: ProposalId,
    },
    /// A finished view: from its president, and from anybody who finds a peer behind or excluded.
    NewView {
        /// The view.
        view: Box<View>,
    },
    /// From the president of a side that may not go on: its members stop too.
    SideLost {
        /// The proposal the rules were applied to.
        proposal: ProposalId,
        /// For the operator.
        text: String,
    },
    /// "Make a view without me": to every member, because the asker may be the president.
    LeaveRequest,
    /// From a member that is not in sync, again and again: all shards of it are this far.
    Joining {
        /// Void in any other view.
        view: ViewNumber,
        /// How far.
        stage: JoinStage,
    },

    // --- between control cores: configuration ---
    /// Somebody wants another configuration: for the president. Nobody answers; whoever wants it
    /// asks again until a view has it, or another one of its version.
    Configure {
        /// The change.
        change: Box<ConfigChange>,
    },

    // --- control core to arbitrator or management server ---
    /// "Set your register to `wanted` if it holds one of `counted` or an ancestor of them."
    /// Repeated until answered; the same question gets the same answer.
    AskArbitrator {
        /// Comes back.
        request: u64,
        /// The asker's cluster: the handshake of a server that was empty when it started cannot
        /// tell a stranger.
        cluster: ClusterId,
        /// As whom the view names the asked one: an API node's process answers only to its own
        /// incarnation.
        asked: Arbitrator,
        /// Everything the asking side has counted against since its last registered view.
        counted: Vec<ViewIdentity>,
        /// The view it wants to make.
        wanted: ViewIdentity,
    },
    /// A view that is in force (or, when it names this server as its new arbitrator, about to be):
    /// to be handed to clients and, by the arbitrator it names, to be registered by the same
    /// compare-and-set. Answered by `RegisteredView`.
    RegisterView {
        /// The view.
        view: Box<View>,
        /// As in `AskArbitrator`.
        counted: Vec<ViewIdentity>,
    },

    // --- arbitrator or management server to control core ---
    /// Answer to `AskArbitrator`; the register is on disk.
    ArbitratorVerdict {
        /// The question's.
        request: u64,
        /// Yes, or what stands against it.
        verdict: Verdict,
    },
    /// Answer to `RegisterView`; register and view are on disk.
    RegisteredView {
        /// The view of the request.
        view: ViewIdentity,
        /// Whether the register holds it; a server that is not its arbitrator says yes once it has
        /// stored its copy. No needs no repetition: the register is ahead, or holds a rival.
        registered: bool,
        /// The view names this server, and its register is lost: it answers no question until a
        /// later view names it anew.
        lost: bool,
    },

    // --- newcomer and management server ---
    /// A data node without an identity wants to be part of the cluster. Repeated until admitted.
    Report {
        /// What it says about itself.
        newcomer: Newcomer,
        /// The server is the first of the newcomer's list, and may create a cluster of those who
        /// report to it. All others may only ask for a seat in one that is there.
        creates: bool,
    },
    /// Not yet: others are missing.
    AdmissionPending {
        /// For the operator: what is being waited for.
        text: String,
    },
    /// The newcomer's identity, and a view: the cluster's first, which it acts in, or one that has
    /// a seat for it, with which it comes to the cluster like a node that was here before.
    Admitted {
        /// The cluster.
        cluster: ClusterId,
        /// The newcomer's first life; of a seat the one before it, which never was.
        instance: NodeInstance,
        /// The view.
        view: Box<View>,
    },
    /// It cannot be part of this cluster.
    AdmissionRefused {
        /// What, why, what to do now.
        text: String,
    },

    // --- management server and control core ---
    /// A newcomer reports to a management server of a cluster that exists: the president is to give
    /// it a seat. Repeated until it has one.
    Newcome(Box<Newcomer>),
    /// It has one, in a view that all its members have on their disks: no later view is without.
    Seated {
        /// The newcomer's process.
        process: u64,
        /// The view.
        view: Box<View>,
    },

    // --- between control cores: what operators want ---
    /// Repeated by whoever wants it until a view shows it.
    Order(Order),

    // --- a node that was here before, to control cores and others like it ---
    /// "I am back." Said again and again to everybody the sender knows of. A member that acts
    /// answers `NewView`; one that is itself coming back says its own.
    Returned(Box<Returned>),
    /// The eldest of those that came back to a stopped cluster: "this is the view to be; restore
    /// yourself to the epoch it begins with". Repeated until all have.
    Forming {
        /// On no disk yet.
        view: Box<View>,
    },

    // --- API node to control core ---
    /// The first thing an API node says that offers itself as arbitrator: which life of it a view
    /// has to name.
    ArbitratorReady {
        /// Drawn at its start.
        incarnation: Incarnation,
        /// What people call it.
        name: String,
    },
}

/// How far a member that is not in sync has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum JoinStage {
    /// It holds all rows of all its partitions and follows their logs.
    Copied,
    /// It is attached, and has applied each log up to where it ended when it was attached.
    CaughtUp,
}

/// A data node that has an identity and was started again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Returned {
    /// Its new life; standing and seniority are whoever makes the view to say.
    pub member: Member,
    /// The newest view on its disk.
    pub view: Box<View>,
    /// Up to which epoch its files reach, by the restart generations of that view; `None` while
    /// that is not known, or if they cannot be used.
    pub reached: Option<Epoch>,
    /// They cannot be used.
    pub damaged: bool,
    /// What it has restored, once it has.
    pub recovered: Option<Recovered>,
    /// The last view to be that it has restored itself for: it begins in none with a lower number,
    /// and in no other with this one.
    pub promised: Option<ViewIdentity>,
}

/// What an arbitrator says; how it decides is in [`crate::register`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// The register holds the wanted view.
    Granted,
    /// The register holds another view.
    Refused {
        /// This one.
        register: ViewIdentity,
    },
}

/// What a proposal would change. With it and the view acted in, everybody can tell which members
/// the proposed view has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ViewChange {
    /// Who goes, in order of node; everything from them is refused from the answer on.
    pub failed: Vec<NodeInstance>,
    /// Those of `failed` that asked to go.
    pub leaving: Vec<NodeInstance>,
    /// The proposed view's arbitrator.
    pub arbitrator: Option<Arbitrator>,
    /// Why those of `failed` go, as far as the president knows: for people.
    pub reasons: Vec<(NodeInstance, Reason)>,
    /// Who comes, standing and seniority filled in. Never the second life of a member that stays.
    pub admitted: Vec<Member>,
    /// Copying members that have all rows from now on.
    pub attached: Vec<NodeInstance>,
    /// Attached members that are in sync from now on.
    pub promoted: Vec<NodeInstance>,
    /// Partitions that get another primary, a replica in sync. Whoever leads one stops appending
    /// before it answers, and answers when everything is stable.
    pub moved: Vec<(PartitionId, NodeId)>,
    /// A change of the configuration; it counts if it was made for the version in force.
    pub config: Option<Box<ConfigChange>>,
    /// Newcomers that get a seat in the roster.
    pub seated: Vec<Seat>,
    /// What operators want of the roster.
    pub orders: Vec<Order>,
    /// The next step of a partition that moves to another node group. Its replicas serve no reads
    /// of it after answering a change that hands it over, and its primary appends nothing.
    pub transfer: Option<TransferStep>,
}

/// A proposal somebody has answered: it may be in force on the other side of a split.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AnsweredProposal {
    /// Which one.
    pub proposal: ProposalId,
    /// What it would make of the view acted in.
    pub change: ViewChange,
}

/// What a member tells the president of a proposal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The ends of all partition logs it holds, in order of partition.
    pub ends: Vec<(PartitionId, Seq)>,
    /// The proposals it has answered since the view it acts in, without this one: the highest of
    /// each president.
    pub answered: Vec<AnsweredProposal>,
    /// For how long its lease promises to failed nodes still run, in nanoseconds of its clock.
    pub promises: Vec<(NodeInstance, u64)>,
    /// Failed nodes whose process it knows to be dead.
    pub known_dead: Vec<NodeInstance>,
    /// The highest seal it knows.
    pub seal: Epoch,
    /// Its epoch.
    pub epoch: Epoch,
}

impl ControlMessage {
    /// Appends the message as one frame.
    pub fn frame(&self, buffer: &mut BytesMut) {
        frame_cold(buffer, kind::CONTROL, self);
    }

    /// Reads a frame's body, without its kind byte.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not exactly one message.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        decode(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_and_a_longer_frame_does_not() {
        let message = ControlMessage::Heartbeat {
            sent: 7,
            view: ViewNumber(3),
            epoch: Epoch(9),
            unheard: vec![NodeId(1), NodeId(2)],
            pinned: true,
        };
        let mut buffer = BytesMut::new();
        message.frame(&mut buffer);
        assert_eq!(buffer[4], kind::CONTROL);
        assert_eq!(ControlMessage::parse(&buffer[5..]), Ok(message));
        buffer.extend_from_slice(b"x");
        assert_eq!(ControlMessage::parse(&buffer[5..]), Err(WireError::Trailing));
    }
}
