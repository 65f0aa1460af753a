//! Backups while the cluster changes: partitions that move, nodes that come, and nothing that ends.

use super::*;

#[test]
fn a_partition_that_has_moved_is_waited_for_until_its_new_place_is_known() {
    let moved = Err(PartError::Refused(Code::NotReplica));
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(1);
    bench.writes(2);
    bench.wrote(1, 1, moved.clone());
    assert_eq!(bench.heard(1), [], "by the view that is known here it is there");
    let newer = View { number: ViewNumber(2), ..view() };
    bench.see(&newer);
    assert_eq!(bench.heard(1), [BackupMessage::Ask { backup: FIRST }], "as of a later epoch");

    // Or that shard is behind.
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(1);
    bench.wrote(1, 1, moved);
    for _ in 0..5 {
        assert!(!bench.heard(1).contains(&BackupMessage::Ask { backup: FIRST }));
        bench.wait(Duration::from_secs(1));
    }
    assert!(bench.heard(1).contains(&BackupMessage::Ask { backup: FIRST }));
    assert!(bench.marks.contains(&"backup_part_has_moved"));
}

#[test]
fn whoever_has_come_since_is_asked_when_it_begins_anew() {
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(1);
    bench.writes(2);
    // Another node is in sync, and has what node 1 was to write.
    bench.see(&grown());
    for node in [1, 2, 3] {
        assert_eq!(bench.heard(node), [BackupMessage::Ask { backup: FIRST }], "node {node}");
    }
    assert!(bench.backups.records()[0].unwanted.contains(&NodeId(3)), "it may get files");
}

#[test]
fn what_writes_nothing_for_long_is_given_up() {
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(1);
    for second in 0..125 {
        for node in [1, 2] {
            let going = BackupMessage::Going { backup: FIRST, rows: 7, row_bytes: 70 };
            bench.say(node, going);
        }
        let over = matches!(bench.state(), BackupState::Failed(_));
        assert_eq!(over, second >= 120, "after {second} s");
        if over {
            return;
        }
        bench.wait(Duration::from_secs(1));
    }
    panic!("it goes on for ever");
}
