//! A table whose keys are small numbers that are used again, each time under a new generation, so
//! that a late answer to an earlier tenant finds nobody.
//!
//! Invariant: a key handed out once never names another value.

/// Names a value in a [`Slab`]; encodes into 52 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Key {
    slot: u32,
    generation: u32,
}

/// Bits of the slot in an encoded key; bounds every slab.
const SLOT_BITS: u32 = 20;

impl Key {
    /// The key as a number below 2^52.
    pub(crate) fn to_number(self) -> u64 {
        u64::from(self.generation) << SLOT_BITS | u64::from(self.slot)
    }

    /// The key of a number made by [`Key::to_number`].
    pub(crate) fn from_number(number: u64) -> Self {
        let mask = (1_u64 << SLOT_BITS) - 1;
        let slot = u32::try_from(number & mask).expect("masked to 20 bits");
        let generation = u32::try_from(number >> SLOT_BITS & u64::from(u32::MAX));
        Self { slot, generation: generation.expect("masked to 32 bits") }
    }
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    length: usize,
    length_max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    /// An empty table that never holds more than `length_max` values.
    pub(crate) fn new(length_max: usize) -> Self {
        assert!(length_max < 1 << SLOT_BITS, "slots are numbered with {SLOT_BITS} bits");
        Self { entries: Vec::new(), free: Vec::new(), length: 0, length_max }
    }

    /// Stores a value; gives it back if the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        if self.length == self.length_max {
            return Err(value);
        }
        self.length += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            u32::try_from(self.entries.len() - 1).expect("bounded by length_max")
        });
        let entry = &mut self.entries[slot as usize];
        entry.value = Some(value);
        Ok(Key { slot, generation: entry.generation })
    }

    /// The value, if it is still there.
    pub(crate) fn find(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// The value, if it is still there, to change it.
    pub(crate) fn find_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// Takes the value out; its key is never used again.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot);
        self.length -= 1;
        Some(value)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The values in order of slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().zip(0_u32..).filter_map(|(entry, slot)| {
            let value = entry.value.as_ref()?;
            Some((Key { slot, generation: entry.generation }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_value_and_names_nothing_else() {
        let mut slab = Slab::new(2);
        let first = slab.insert("a").unwrap();
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b").unwrap();
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.find(second), Some(&"b"));
        assert_eq!(Key::from_number(second.to_number()), second);
        slab.insert("c").unwrap();
        assert_eq!(slab.insert("d"), Err("d"));
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.iter().map(|(_, value)| *value).collect::<Vec<_>>(), ["b", "c"]);
    }
}
