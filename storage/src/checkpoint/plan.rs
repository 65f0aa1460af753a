//! Which rows go into a checkpoint, and which checkpoints together hold all of them.
//!
//! A partition's rows are cut into *slices* by the hash of their key. A checkpoint holds every row
//! that changed since the one before it, deleted ones as such, and besides all rows of the slices
//! whose turn it is. So what it costs follows the changes, and after a full turn of the slices an
//! old file holds nothing that is not in a newer one: it expires.
//!
//! ```text
//!            slice 0   slice 1   slice 2   slice 3     of each file a restore takes
//!  e10         all     changes   changes   changes     slice 0
//!  e20       changes     all     changes   changes     slices 0, 1
//!  e30       changes   changes     all     changes     slices 0, 1, 2
//!  e40       changes   changes   changes     all       everything
//! ```
//! Invariant: a [`Chain`] has for each slice a file with all of its rows, and every file since.

use std::collections::BTreeSet;

use lockstep_proto::ids::{Epoch, RestartGeneration};
use lockstep_proto::limits::CHECKPOINT_SLICES_MAX;

use super::format::CheckpointHeader;
use crate::disk::CheckpointName;
use lockstep_proto::generations::Generations;

/// Which rows are in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The checkpoint before it; rows that changed since are in this one. `None`: it stands alone.
    pub previous: Option<(RestartGeneration, Epoch)>,
    /// Into how many slices rows are cut.
    pub slices: u16,
    /// The first slice that is in it as a whole.
    pub slice_first: u16,
    /// How many are, the first following the last.
    pub slice_count: u16,
}

/// The slice of a row.
#[must_use]
#[inline]
pub fn slice_of(hash: u64, slices: u16) -> u16 {
    // Bits 16 to 31: others choose partition, bucket and tag.
    (((hash >> 16 & 0xffff) * u64::from(slices)) >> 16) as u16
}

impl Plan {
    /// A checkpoint with all rows.
    ///
    /// # Panics
    /// If the number of slices is not between 1 and the limit.
    #[must_use]
    pub fn full(slices: u16) -> Self {
        let plan = Self { previous: None, slices, slice_first: 0, slice_count: slices };
        assert!(plan.is_sound(), "between 1 and {CHECKPOINT_SLICES_MAX} slices");
        plan
    }

    /// The checkpoint after another one, with the next `count` slices.
    #[must_use]
    pub fn after(last: &CheckpointHeader, count: u16) -> Self {
        let Plan { slices, slice_first, slice_count, .. } = last.plan;
        Self {
            previous: Some((last.name.generation, last.name.epoch)),
            slices,
            slice_first: ((u32::from(slice_first) + u32::from(slice_count)) % u32::from(slices))
                as u16,
            slice_count: count.clamp(1, slices),
        }
    }

    /// Whether a row belongs into the checkpoint: `epoch` is when it was last written. A row that
    /// was deleted belongs into it if that was after `previous`.
    #[must_use]
    #[inline]
    pub fn wants(&self, hash: u64, epoch: Epoch) -> bool {
        self.previous.is_none_or(|(_, previous)| epoch > previous)
            || self.is_turn(slice_of(hash, self.slices))
    }

    /// Whether all rows of a slice are in it.
    #[must_use]
    #[inline]
    pub fn is_turn(&self, slice: u16) -> bool {
        let ahead = u32::from(slice) + u32::from(self.slices) - u32::from(self.slice_first);
        ahead % u32::from(self.slices) < u32::from(self.slice_count)
    }

    pub(super) fn is_sound(&self) -> bool {
        let whole = self.previous.is_some() || self.slice_count == self.slices;
        (1..=CHECKPOINT_SLICES_MAX).contains(&self.slices)
            && self.slice_first < self.slices
            && (1..=self.slices).contains(&self.slice_count)
            && whole
    }
}

/// The checkpoints from which a partition is restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Oldest first.
    files: Vec<CheckpointHeader>,
    /// For each slice the first of the files whose rows of it are wanted.
    first_of_slice: Vec<u16>,
}

impl Chain {
    /// The newest chain as of an epoch that is not after `to`, among the complete checkpoints of
    /// one partition.
    #[must_use]
    pub fn select(
        files: &[CheckpointHeader],
        generations: &Generations,
        to: Epoch,
    ) -> Option<Self> {
        let counts = |file: &&CheckpointHeader| {
            generations.limit(file.name.generation).is_some_and(|limit| file.name.epoch <= limit)
        };
        let mut valid: Vec<&CheckpointHeader> = files.iter().filter(counts).collect();
        valid.sort_unstable_by_key(|file| (file.name.epoch, file.name.generation));
        let starts = valid.iter().rev().filter(|file| file.name.epoch <= to);
        starts.filter_map(|newest| Self::ending_with(newest, &valid)).next()
    }

    fn ending_with(newest: &CheckpointHeader, valid: &[&CheckpointHeader]) -> Option<Self> {
        let slices = newest.plan.slices;
        let mut back = vec![*newest];
        let mut first_of_slice = vec![None; usize::from(slices)];
        loop {
            let oldest = back.last()?;
            for slice in (0..slices).filter(|slice| oldest.plan.is_turn(*slice)) {
                let first = &mut first_of_slice[usize::from(slice)];
                *first = first.or(Some(back.len()));
            }
            if first_of_slice.iter().all(Option::is_some) {
                break;
            }
            let link = oldest.plan.previous?;
            let before = |file: &&&CheckpointHeader| {
                (file.name.generation, file.name.epoch) == link && file.plan.slices == slices
            };
            let next = **valid.iter().find(before)?;
            if next.name.epoch >= oldest.name.epoch {
                return None;
            }
            back.push(next);
        }
        back.reverse();
        let count = back.len();
        let first_of_slice =
            first_of_slice.into_iter().flatten().map(|at| (count - at) as u16).collect();
        Some(Self { files: back, first_of_slice })
    }

    /// As of when the partition is restored.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.newest().name.epoch
    }

    /// The newest file: its tables, prepared transactions and outcomes count, those of the others
    /// do not.
    ///
    /// # Panics
    /// Never: a chain has a file.
    #[must_use]
    pub fn newest(&self) -> &CheckpointHeader {
        self.files.last().expect("a chain has a file")
    }

    /// The files in the order in which they are to be loaded: the later row replaces the earlier.
    #[must_use]
    pub fn files(&self) -> &[CheckpointHeader] {
        &self.files
    }

    /// Whether a row in the file at this place in the chain is to be loaded; no if a later one has
    /// all rows of its slice.
    #[must_use]
    #[inline]
    pub fn takes(&self, file: usize, hash: u64) -> bool {
        let slice = slice_of(hash, self.first_of_slice.len() as u16);
        file >= usize::from(self.first_of_slice[usize::from(slice)])
    }

    /// The checkpoints of a partition that nothing needs any more when `durable` is durable on all
    /// nodes, so that no restart goes back before it: all that are older than the chain as of
    /// `durable` and not in it, and those of dropped epochs. Without such a chain nothing may go
    /// but these.
    #[must_use]
    pub fn superfluous(
        files: &[CheckpointHeader],
        generations: &Generations,
        durable: Epoch,
    ) -> Vec<CheckpointName> {
        let chain = Self::select(files, generations, durable);
        let needed: BTreeSet<CheckpointName> =
            chain.iter().flat_map(|chain| &chain.files).map(|file| file.name).collect();
        let oldest = chain.as_ref().map_or(Epoch(0), Self::epoch);
        let goes = |file: &&CheckpointHeader| match generations.limit(file.name.generation) {
            None => false,
            Some(limit) if file.name.epoch > limit => true,
            Some(_) => file.name.epoch <= oldest && !needed.contains(&file.name),
        };
        files.iter().filter(goes).map(|file| file.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::ids::{ClusterId, Incarnation, NodeId, PartitionId, Seq};

    fn header(generation: u32, epoch: u64, plan: Plan) -> CheckpointHeader {
        let name = CheckpointName {
            partition: PartitionId(1),
            generation: RestartGeneration(generation),
            epoch: Epoch(epoch),
        };
        CheckpointHeader {
            cluster: ClusterId(1),
            node: NodeId(1),
            incarnation: Incarnation(1),
            name,
            partitions: 2,
            plan,
            seq: Seq(0),
        }
    }

    /// A full file at e10, then one slice of four each at e20, e30, …
    fn turn(count: u64) -> Vec<CheckpointHeader> {
        let mut files = vec![header(1, 10, Plan::full(4))];
        for epoch in 2..=count {
            let last = files.last().unwrap();
            files.push(header(1, epoch * 10, Plan::after(last, 1)));
        }
        files
    }

    fn one() -> Generations {
        Generations::new(RestartGeneration(1), vec![])
    }

    fn epochs(chain: Option<Chain>) -> Vec<u64> {
        chain.map_or(vec![], |c| c.files.iter().map(|file| file.name.epoch.0).collect())
    }

    #[test]
    fn a_chain_goes_back_until_every_slice_is_there() {
        let files = turn(8);
        let select = |to| epochs(Chain::select(&files, &one(), Epoch(to)));
        assert_eq!(select(9), [] as [u64; 0]);
        assert_eq!(select(10), [10]);
        assert_eq!(select(45), [10, 20, 30, 40]);
        assert_eq!(select(50), [20, 30, 40, 50]);
        assert_eq!(select(1000), [50, 60, 70, 80]);
        let mut less = files.clone();
        less.remove(6);
        assert_eq!(epochs(Chain::select(&less, &one(), Epoch(80))), [30, 40, 50, 60]);
    }

    #[test]
    fn a_row_is_taken_from_the_turn_of_its_slice_on() {
        let chain = Chain::select(&turn(8), &one(), Epoch(80)).unwrap();
        // The turns of e50 to e80 are those of slices 3, 0, 1, 2.
        for (slice, first) in [(3_u64, 0), (0, 1), (1, 2), (2, 3)] {
            let hash = (slice * 0x4000 + 5) << 16;
            assert_eq!(slice_of(hash, 4), slice as u16);
            let taken: Vec<bool> = (0..4).map(|file| chain.takes(file, hash)).collect();
            assert_eq!(taken, (0..4).map(|file| file >= first).collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_what_no_restart_can_need_goes() {
        let files = turn(8);
        let gone = |durable| -> Vec<u64> {
            let names = Chain::superfluous(&files, &one(), Epoch(durable));
            names.into_iter().map(|name| name.epoch.0).collect()
        };
        assert_eq!(gone(5), [] as [u64; 0]);
        assert_eq!(gone(45), [] as [u64; 0]);
        assert_eq!(gone(69), [10, 20]);
        assert_eq!(gone(80), [10, 20, 30, 40]);
    }

    #[test]
    fn dropped_epochs_are_neither_used_nor_kept() {
        let mut files = turn(6);
        let cut = vec![(RestartGeneration(1), Epoch(45))];
        let second = Generations::new(RestartGeneration(2), cut);
        let last = files[3];
        files.push(header(2, 50, Plan::after(&last, 1)));
        let chain = Chain::select(&files, &second, Epoch(100)).unwrap();
        assert_eq!(chain.newest().name.generation, RestartGeneration(2));
        assert_eq!(epochs(Some(chain)), [20, 30, 40, 50]);
        let gone = Chain::superfluous(&files, &second, Epoch(45));
        let gone: Vec<u64> = gone.into_iter().map(|name| name.epoch.0).collect();
        assert_eq!(gone, [50, 60]);
    }
}
