//! Restart generations: which epochs on a disk still count.
//!
//! When a whole cluster restarts from its disks it comes back at the largest epoch that every group
//! can reach, and what some node has beyond that is dropped for ever, although it still lies on
//! that node's disk. The new generation gives the same numbers to other epochs. So every file names
//! its generation, and the view knows for each past one up to where it counts.

use crate::ids::{Epoch, RestartGeneration};

/// The generations of a cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Generations {
    current: RestartGeneration,
    /// Past generations in ascending order, each with the epoch it was cut at.
    cuts: Vec<(RestartGeneration, Epoch)>,
}

impl Generations {
    /// The generation that is written now, and for each past one the last epoch that counts.
    #[must_use]
    pub fn new(current: RestartGeneration, mut cuts: Vec<(RestartGeneration, Epoch)>) -> Self {
        cuts.retain(|(generation, _)| *generation < current);
        cuts.sort_unstable();
        Self { current, cuts }
    }

    /// The last epoch of a generation that counts; `None` if nothing is known of the generation. A
    /// later generation may have been cut further back, to before its own beginning.
    #[must_use]
    pub fn limit(&self, generation: RestartGeneration) -> Option<Epoch> {
        if generation == self.current {
            return Some(Epoch(u64::MAX));
        }
        let at = self.cuts.binary_search_by_key(&generation, |(cut, _)| *cut).ok()?;
        self.cuts[at..].iter().map(|(_, epoch)| *epoch).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_counts_up_to_the_least_cut_since() {
        let r = RestartGeneration;
        let cuts = vec![(r(1), Epoch(50)), (r(2), Epoch(40)), (r(3), Epoch(90))];
        let generations = Generations::new(r(4), cuts);
        assert_eq!(generations.limit(r(1)), Some(Epoch(40)));
        assert_eq!(generations.limit(r(2)), Some(Epoch(40)));
        assert_eq!(generations.limit(r(3)), Some(Epoch(90)));
        assert_eq!(generations.limit(r(4)), Some(Epoch(u64::MAX)));
        assert_eq!(generations.limit(r(5)), None);
        assert_eq!(generations.limit(r(0)), None);
    }
}
