//! `lockstep check` on a running cluster, while others write.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use lockstep_client::{Client, TableBuilder};
use lockstep_tests::harness::commands::User;
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

lockstep_client::record! {
    #[derive(Clone, Debug)]
    struct Thing in "things" { #[key] id: u64, turn: u64 }
}

/// Rows that are there all the time.
const ROWS: u64 = 3_000;

/// Somebody who updates, inserts and deletes until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(url: String) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let client = Client::connect(&url).await.expect("the cluster is there");
                client.create_table(TableBuilder::of::<Thing>()).await.expect("created");
                let things = client.table::<Thing>();
                for turn in 0_u64.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut batch = client.batch();
                    for place in 0..100 {
                        let id = (turn * 100 + place) % ROWS;
                        batch = batch.with(things.upsert(&Thing { id, turn }));
                    }
                    let extra = Thing { id: ROWS + turn % 7, turn };
                    batch = match turn / 7 % 2 {
                        0 => batch.with(things.insert(&extra)),
                        _ => batch.with(things.delete(extra.id)),
                    };
                    batch.execute().await.expect("written");
                    count.store(turn, Ordering::Relaxed);
                }
            });
        });
        Self { stop, written, thread }
    }

    fn until_turn(&self, turn: u64) {
        until("the writer to go on", || {
            (self.written.load(Ordering::Relaxed) >= turn).then_some(())
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every batch was written");
    }
}

fn rows(told: &Value) -> u64 {
    told["rows"].as_u64().expect("a number")
}

#[test]
fn replicas_are_equal_while_others_write_and_a_node_dies_and_comes_back() {
    let user = User::new(Path::new(BINARY));
    let _started = user.asked("dev start --groups 2 --replicas 2 --shards 2");
    let writer = Writer::start(user.url());
    writer.until_turn(ROWS / 100);
    let mut epoch = 0;
    for _ in 0..3 {
        let written = writer.written.load(Ordering::Relaxed);
        let told = user.asked("check");
        assert_eq!(told["equal"], true, "{told}");
        assert_eq!(told["full_redundancy"], true, "{told}");
        let replicas = told["partitions"].as_u64().expect("a number") * 2;
        assert_eq!(told["replicas"], replicas, "{told}");
        assert!((ROWS..=ROWS + 7).contains(&rows(&told)), "{told}");
        assert!(
            told["epoch"].as_u64() > Some(epoch),
            "each check is of a moment of its own: {told}"
        );
        epoch = told["epoch"].as_u64().expect("a number");
        writer.until_turn(written + 1);
    }
    assert_eq!(user.asked("dev kill 3")["done"], "killed");
    until("a view without n3", || (user.asked("status")["can_lose"] == 0).then_some(()));
    let told = user.asked("check");
    assert_eq!((&told["equal"], &told["full_redundancy"]), (&true.into(), &false.into()), "{told}");
    assert_eq!(told["missing"].as_array().map(Vec::len), Some(1), "{told}");
    assert!(user.told("check").contains("redundancy not full: g2 has 1 of 2 replicas"));
    let _revived = user.asked("dev revive 3");
    until("n3 to be compared with n4", || {
        let told = user.asked("check");
        assert_eq!(told["equal"], true, "{told}");
        (told["full_redundancy"] == true).then_some(())
    });
    writer.end();
    assert!(user.told("check").ends_with("all replicas in sync have the same rows\n"));
}
