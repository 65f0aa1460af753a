//! Rare branches that long runs of a profile must have reached: without them, runs prove less
//! than they seem to. Never owed by one seed.

use super::plan::Profile;

/// Owed by every profile.
const ALWAYS: &[&str] = &[];

/// Owed where nodes die or are cut off.
const FAILURES: &[&str] = &[];

/// What a profile owes.
pub fn owed(profile: Profile) -> impl Iterator<Item = &'static str> {
    let failures = match profile {
        Profile::Calm => &[][..],
        Profile::Network | Profile::Crash | Profile::Mixed => FAILURES,
    };
    ALWAYS.iter().chain(failures).copied()
}
