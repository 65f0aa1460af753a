//! Fragments against the simplest thing that does the same: random operations on both, and all
//! that can be seen must agree.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use lockstep_proto::ids::{Epoch, SchemaVersion};
use lockstep_proto::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};
use lockstep_proto::placement::key_hash;
use lockstep_storage::{Fragment, ROW_OVERHEAD_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;

/// A step; keys are few, so that rows are replaced and removed often.
#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Page { after: Vec<u8>, rows_max: usize, bytes_max: usize },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..40_u64).prop_map(|n| n.to_be_bytes().to_vec()),
        vec(0..3_u8, 0..4),
        vec(any::<u8>(), 0..100),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), vec(any::<u8>(), 0..50)).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key().prop_map(Step::Remove),
        1 => (key(), 0..20_usize, 0..500_usize)
            .prop_map(|(after, rows_max, bytes_max)| Step::Page { after, rows_max, bytes_max }),
    ]
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Epoch)>;

fn counted(key: &[u8], value: &[u8]) -> i64 {
    (key.len() + value.len() + ROW_OVERHEAD_BYTES) as i64
}

fn check_same(fragment: &Fragment, model: &Model) {
    assert_eq!(fragment.len(), model.len());
    assert_eq!(fragment.is_empty(), model.is_empty());
    let bytes: i64 = model.iter().map(|(key, (value, _))| counted(key, value)).sum();
    assert_eq!(fragment.bytes() as i64, bytes);
    for (key, (value, epoch)) in model {
        let row = fragment.get(key_hash(key), key).unwrap();
        assert_eq!((row.key(), row.value(), row.epoch()), (&key[..], &value[..], *epoch));
        assert_eq!(row.schema(), SchemaVersion(3));
    }
    let mut rows: Vec<_> = fragment.iter().map(|row| (row.key(), row.value())).collect();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(model.iter().map(|(key, (value, _))| (&key[..], &value[..]))));
}

fn check_page(fragment: &Fragment, model: &Model, after: &[u8], rows_max: usize, bytes_max: usize) {
    let page = fragment.page(after, rows_max, bytes_max);
    let expected: Vec<_> = model.iter().filter(|(key, _)| key.as_slice() > after).collect();
    let rows = page.rows.iter().map(|row| row.key());
    assert!(rows.eq(expected[..page.rows.len()].iter().map(|(key, _)| key.as_slice())));
    assert_eq!(page.more, page.rows.len() < expected.len());
    let sizes: Vec<usize> =
        expected.iter().map(|(key, (value, _))| key.len() + value.len()).collect();
    let size = |rows: &[usize]| rows.iter().sum::<usize>();
    let taken = page.rows.len();
    if taken > 1 {
        assert!(taken <= rows_max && size(&sizes[..taken]) <= bytes_max);
    }
    if page.more {
        assert!(taken >= rows_max.max(1) || size(&sizes[..=taken]) > bytes_max);
        assert!(taken > 0, "a page with more to follow makes progress");
    }
}

proptest! {
    #[test]
    fn a_fragment_is_an_ordered_map(steps in vec(step(), 0..200)) {
        let mut fragment = Fragment::new(SchemaVersion(3));
        let mut model = Model::new();
        for (step, epoch) in steps.into_iter().zip(0..) {
            let before = fragment.bytes() as i64;
            let change = match step {
                Step::Put(key, value) => {
                    let change = fragment.put(key_hash(&key), &key, &value, Epoch(epoch));
                    model.insert(key, (value, Epoch(epoch)));
                    change
                }
                Step::Remove(key) => {
                    model.remove(&key);
                    fragment.remove(key_hash(&key), &key, Epoch(epoch))
                }
                Step::Page { after, rows_max, bytes_max } => {
                    check_page(&fragment, &model, &after, rows_max, bytes_max);
                    0
                }
            };
            prop_assert_eq!(fragment.bytes() as i64, before + change);
        }
        check_same(&fragment, &model);
    }
}

/// Enough rows that the index grows many times, then shrinks to nothing.
#[test]
fn a_fragment_grows_and_shrinks() {
    let mut fragment = Fragment::new(SchemaVersion(3));
    let mut model = Model::new();
    let rows = if cfg!(miri) { 300_u64 } else { 30_000 };
    for n in 0..rows {
        let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let value = vec![n as u8; n as usize % 90];
        assert_eq!(fragment.put(key_hash(&key), &key, &value, Epoch(n)), counted(&key, &value));
        model.insert(key.to_vec(), (value, Epoch(n)));
    }
    check_same(&fragment, &model);
    let mut after = Vec::new();
    let mut seen = 0;
    loop {
        let page = fragment.page(&after, 4096, usize::MAX);
        seen += page.rows.len();
        after = page.rows.last().unwrap().key().to_vec();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen as u64, rows);
    for (nth, (key, (value, _))) in std::mem::take(&mut model).into_iter().enumerate() {
        if nth % 10 == 0 {
            model.insert(key, (value, Epoch(0)));
        } else {
            let change = fragment.remove(key_hash(&key), &key, Epoch(rows));
            assert_eq!(change, -counted(&key, &value));
            assert!(fragment.get(key_hash(&key), &key).is_none());
        }
    }
    for (key, (value, epoch)) in &model {
        assert_eq!(fragment.put(key_hash(key), key, value, *epoch), 0);
    }
    check_same(&fragment, &model);
}

#[test]
fn the_largest_row_fits() {
    let mut fragment = Fragment::new(SchemaVersion((1 << 24) - 1));
    let (key, value) = (vec![1; KEY_BYTES_MAX], vec![2; ROW_BYTES_MAX]);
    fragment.put(key_hash(&key), &key, &value, Epoch(u64::MAX));
    let row = fragment.get(key_hash(&key), &key).unwrap();
    assert_eq!((row.key(), row.value()), (&key[..], &value[..]));
    assert_eq!((row.epoch(), row.schema()), (Epoch(u64::MAX), SchemaVersion((1 << 24) - 1)));
}
