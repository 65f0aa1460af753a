//! The shards a job deals with: who is there, who has pinned the epoch, who has which partitions.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::ids::{BackupId, Epoch, NodeId, PartitionId, ShardAddr};
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{BackupMessage, ManifestPart, PartSum};
use lockstep_proto::wire::codec::frame_cold;
use lockstep_proto::wire::kind;

/// What a shard has been asked and has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is being dialled.
    Dialled,
    /// It was asked for its epoch, or to remove files.
    Asked,
    /// It has told its epoch.
    Told(Epoch),
    /// It was asked to pin the epoch.
    Pinning,
    /// It has.
    Pinned,
    /// It writes nothing more for this backup; files that it has finished are good.
    Spent,
    /// It is gone, and its files with it; or it has done what it was asked.
    Out,
}

pub(super) struct Shard {
    pub(super) link: Option<LinkId>,
    pub(super) standing: Standing,
    pub(super) heard: Instant,
    /// What it says to have in files that may not be finished.
    pub(super) rows: (u64, u64),
    /// The newest file it was told to write, and up to which one it has promised to keep them.
    pub(super) told: u32,
    pub(super) kept: u32,
}

/// A file that was asked for.
pub(super) struct Piece {
    pub(super) shard: ShardAddr,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) sum: Option<PartSum>,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Shards {
    pub(super) all: BTreeMap<ShardAddr, Shard>,
    pub(super) pieces: BTreeMap<u32, Piece>,
    piece_next: u32,
}

impl Shards {
    pub(super) fn find(&mut self, link: LinkId) -> Option<(ShardAddr, &mut Shard)> {
        let found = self.all.iter_mut().find(|(_, shard)| shard.link == Some(link));
        found.map(|(addr, shard)| (*addr, shard))
    }

    pub(super) fn any(&self, is: impl Fn(Standing) -> bool) -> bool {
        self.all.values().any(|shard| is(shard.standing))
    }

    /// Tells every shard of some standing, which has another one from then on.
    pub(super) fn tell_all(
        &mut self,
        of: impl Fn(Standing) -> bool,
        then: Standing,
        message: &BackupMessage,
        out: &mut Outputs,
    ) {
        for shard in self.all.values_mut().filter(|shard| of(shard.standing)) {
            shard.standing = then;
            tell(shard.link, message, out);
        }
    }

    /// Partitions nobody has or writes.
    pub(super) fn missing(&self, partitions: u16) -> Vec<PartitionId> {
        let mut there = vec![false; usize::from(partitions)];
        for p in self.pieces.values().flat_map(|piece| &piece.partitions) {
            if let Some(place) = there.get_mut(usize::from(p.0)) {
                *place = true;
            }
        }
        let missing = (0..partitions).map(PartitionId);
        missing.filter(|p| !there[usize::from(p.0)]).collect()
    }

    /// Gives each of these partitions to one of its replicas that have pinned the epoch: to one
    /// that does not lead it where there is one, and to those that have the least to do.
    ///
    /// # Errors
    /// A partition that no such replica has.
    pub(super) fn assign(
        &mut self,
        backup: BackupId,
        missing: &[PartitionId],
        view: &View,
        out: &mut Outputs,
    ) -> Result<(), PartitionId> {
        let mut load: BTreeMap<ShardAddr, usize> = BTreeMap::new();
        for piece in self.pieces.values() {
            *load.entry(piece.shard).or_default() += piece.partitions.len();
        }
        let mut shares: BTreeMap<ShardAddr, Vec<PartitionId>> = BTreeMap::new();
        for p in missing {
            let placement = view.placement(*p).ok_or(*p)?;
            let replicas = placement.replicas.iter();
            let holders = replicas.filter_map(|node| {
                let addr = view.shard_of(*p, *node)?;
                let holds = self.all.get(&addr)?.standing == Standing::Pinned;
                let leads = *node == placement.primary;
                holds.then(|| (leads, load.get(&addr).copied().unwrap_or(0), addr))
            });
            let (_, _, addr) = holders.min().ok_or(*p)?;
            *load.entry(addr).or_default() += 1;
            shares.entry(addr).or_default().push(*p);
        }
        for (shard, partitions) in shares {
            self.piece_next += 1;
            let piece = self.piece_next;
            let link = self.all.get_mut(&shard).and_then(|shard| {
                shard.told = piece;
                shard.link
            });
            let write = BackupMessage::Write { backup, piece, partitions: partitions.clone() };
            tell(link, &write, out);
            self.pieces.insert(piece, Piece { shard, partitions, sum: None });
        }
        Ok(())
    }

    /// What is finished: partitions, and the sums of their files.
    pub(super) fn finished(&self) -> (u16, PartSum) {
        let mut sum = PartSum { rows: 0, row_bytes: 0, file_bytes: 0, checksum: 0 };
        let mut partitions = 0;
        for (piece, own) in self.pieces.values().filter_map(|p| Some((p, p.sum.as_ref()?))) {
            partitions += piece.partitions.len();
            sum.rows += own.rows;
            sum.row_bytes += own.row_bytes;
            sum.file_bytes += own.file_bytes;
        }
        (u16::try_from(partitions).unwrap_or(u16::MAX), sum)
    }

    /// The parts of the manifest.
    pub(super) fn parts(&self) -> Vec<ManifestPart> {
        let parts = self.pieces.iter().filter_map(|(piece, of)| {
            Some(ManifestPart {
                node: of.shard.instance.node,
                shard: of.shard.shard.0,
                piece: *piece,
                partitions: of.partitions.clone(),
                sum: of.sum.clone()?,
            })
        });
        parts.collect()
    }

    /// Whether this shard has files that the backup is made of.
    pub(super) fn has_pieces(&self, addr: ShardAddr) -> bool {
        self.pieces.values().any(|piece| piece.shard == addr)
    }

    /// The nodes that have them.
    pub(super) fn nodes_with_pieces(&self) -> Vec<NodeId> {
        let nodes = self.pieces.values().map(|piece| piece.shard.instance.node);
        nodes.collect::<BTreeSet<NodeId>>().into_iter().collect()
    }

    /// The nodes that were told to write something.
    pub(super) fn nodes_told(&self) -> Vec<NodeId> {
        let told = self.all.iter().filter(|(_, shard)| shard.told > 0);
        let nodes = told.map(|(addr, _)| addr.instance.node);
        nodes.collect::<BTreeSet<NodeId>>().into_iter().collect()
    }

    /// Asks for a promise to keep everything that is written.
    pub(super) fn ask_to_keep(&self, backup: BackupId, out: &mut Outputs) {
        for (addr, shard) in &self.all {
            if self.has_pieces(*addr) && shard.kept != shard.told {
                tell(shard.link, &BackupMessage::Keep { backup, newest: shard.told }, out);
            }
        }
    }

    /// Whether all of it will be kept. A promise that was given before a shard was told to write
    /// more does not count: what it was told since is loose, and the rest with it.
    pub(super) fn are_kept(&self) -> bool {
        let mut owners = self.pieces.values().map(|piece| self.all.get(&piece.shard));
        owners.all(|shard| shard.is_some_and(|shard| shard.kept == shard.told))
    }
}

pub(super) fn tell(link: Option<LinkId>, message: &BackupMessage, out: &mut Outputs) {
    if let Some(buffer) = link.and_then(|link| out.buffer(link)) {
        frame_cold(buffer, kind::BACKUP, message);
    }
}
