//! What a node that was started again asks of its own files, and how it tells others what it has.
//!
//! Reading the files is work for other threads, and the rows they give are too large to pass
//! through a process: a process names a goal, the driver keeps what comes of it for the cores that
//! are started next, and answers with the epoch.

use serde::{Deserialize, Serialize};

use crate::generations::Generations;
use crate::ids::{Epoch, PartitionId, RestartGeneration};
use crate::view::View;

/// What the files are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Up to which epoch do they reach? Loads nothing, and what was restored before is gone.
    Survey,
    /// As far as they reach, to join a cluster that serves. What cannot be used is set aside and
    /// comes from the others: then the epoch is 0.
    Rejoin,
    /// They are of a node group that the node does not belong to any more: they go, and the epoch
    /// is 0.
    Anew,
    /// Exactly this epoch, or nothing.
    Exactly(Epoch),
}

/// A wish, answered by `Input::Recovered`. It takes the place of all wishes with lower tokens, and
/// of what has come of them, even if that comes later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Comes back in the answer; grows from wish to wish.
    pub token: u64,
    /// What counts of which restart generation.
    pub generations: Generations,
    /// The partitions that are wanted, each with its place in the node group. What else the files
    /// have was moved away, or never moved here.
    pub held: Vec<(PartitionId, u16)>,
    /// What for.
    pub goal: Goal,
}

/// What a node has restored from its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// The restart generation it will go on in.
    pub generation: RestartGeneration,
    /// Where the generation before was cut; 0 if there was none.
    pub cut: Epoch,
    /// Everything up to this epoch, and nothing later.
    pub epoch: Epoch,
}

impl Recovered {
    /// What a node that restored itself to `epoch` for this view has.
    #[must_use]
    pub fn under(view: &View, epoch: Epoch) -> Self {
        Self { generation: view.restart_generation, cut: last_cut(view), epoch }
    }

    /// Whether it was restored by the restart generations of this view.
    #[must_use]
    pub fn fits(&self, view: &View) -> bool {
        self.generation == view.restart_generation && self.cut == last_cut(view)
    }
}

/// Where the generation before a view's was cut: what the view began with. 0 if there was none.
#[must_use]
pub fn last_cut(view: &View) -> Epoch {
    view.cuts.last().map_or(Epoch(0), |(_, epoch)| *epoch)
}
