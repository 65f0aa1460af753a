//! Random choices of load generators: fast, seeded, and not for secrets.

/// A generator of its own for each task (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator of a task; different tasks get unrelated sequences.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // One round of splitmix64 spreads neighbouring seeds.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.number()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a product")
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// Bytes that do not repeat.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_even_and_within_bounds() {
        let mut dice = Dice::new(7);
        let mut counts = [0_u32; 10];
        (0..100_000).for_each(|_| counts[dice.below(10) as usize] += 1);
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
        let writes = (0..10_000).filter(|_| dice.percent(30)).count();
        assert!((2_800..3_200).contains(&writes), "{writes}");
        assert!(!Dice::new(1).percent(0));
        assert!(Dice::new(1).percent(100));
    }

    #[test]
    fn tasks_do_not_choose_alike() {
        assert_ne!(Dice::new(1).number(), Dice::new(2).number());
    }
}
