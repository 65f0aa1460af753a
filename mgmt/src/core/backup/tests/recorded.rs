//! What is remembered is on disk before anything is done that it tells of.

use super::*;

#[test]
fn nothing_is_written_before_it_is_on_disk_where() {
    let mut bench = Bench::new();
    bench.slow = true;
    bench.pinned();
    assert_eq!(bench.stores, 1);
    for _ in 0..5 {
        bench.wait(Duration::from_secs(1));
        assert_eq!((bench.writes(1), bench.writes(2)), (vec![], vec![]));
        bench.say(1, BackupMessage::Going { backup: FIRST, rows: 0, row_bytes: 0 });
        bench.say(2, BackupMessage::Going { backup: FIRST, rows: 0, row_bytes: 0 });
    }
    bench.stored(1);
    assert_eq!((bench.writes(1).len(), bench.writes(2).len()), (1, 1));
}

#[test]
fn a_node_that_comes_later_writes_nothing_before_its_name_is_on_disk() {
    let mut bench = Bench::new();
    bench.pinned();
    (bench.slow, bench.stores) = (true, 7);
    bench.writes(1);
    bench.writes(2);
    bench.see(&grown());
    assert_eq!(bench.stores, 8, "it may get files");
    for node in [1, 2, 3] {
        bench.say(node, BackupMessage::Epoch { backup: FIRST, epoch: Epoch(99) });
    }
    for node in [1, 2, 3] {
        let refused = None;
        bench.say(node, BackupMessage::Pinned { backup: FIRST, epoch: Epoch(99), refused });
    }
    bench.stored(7);
    assert_eq!(bench.writes(3), [], "an earlier one does not name it");
    bench.stored(8);
    assert_eq!(bench.writes(3).len(), 1);
}

#[test]
fn nothing_is_removed_before_it_is_on_disk_that_it_is_to_be() {
    let mut bench = Bench::new();
    bench.knows(done());
    bench.slow = true;
    assert_eq!(bench.order(BackupMessage::Delete { backup: FIRST }), None);
    bench.wait(REMOVE_AGAIN);
    assert!(bench.disk.is_empty() && bench.links.is_empty());
    let again = bench.order(BackupMessage::Delete { backup: FIRST });
    assert!(again.is_some_and(|text| text.contains("being removed")));
    assert!(bench.create(BackupId(2)).is_some(), "what was wanted first goes first");
    assert!(bench.backups.has_left());
    assert!(bench.backups.next_timeout().is_none_or(|at| at > bench.now), "nothing to be done");
    bench.stored(1);
    assert!(bench.disk[0].ops.contains(&Op::Remove(FileName::Manifest(FIRST))));
}

#[test]
fn a_record_that_the_disk_does_not_take_ends_it() {
    let mut bench = Bench::new();
    bench.slow = true;
    bench.pinned();
    for _ in 0..120 {
        assert_eq!(bench.state(), BackupState::Writing);
        bench.wait(Duration::from_secs(1));
        for node in [1, 2] {
            bench.say(node, BackupMessage::Going { backup: FIRST, rows: 0, row_bytes: 0 });
        }
    }
    let BackupState::Failed(why) = bench.state() else { panic!("it holds all moves") };
    assert!(why.contains("has not taken its record"), "{why}");
}
