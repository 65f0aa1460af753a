//! The library against real cores: tables, rows, batches, transactions, scans, errors.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockstep_client::{
    Client, Code, ColumnDef, ColumnType, Error, ErrorKind, NodeId, Outcome, ReadFrom, Row,
    TableBuilder, Tx, Value, col, record,
};
use world::World;

record! {
    #[derive(Clone, Debug, PartialEq)]
    struct Account in "accounts" {
        #[key]
        id: u64,
        balance: i64,
        note: Option<String>,
    }
}

fn account(id: u64, balance: i64) -> Account {
    Account { id, balance, note: None }
}

async fn bank(world: &World, accounts: u64) -> Client {
    let db = world.client("a").connect().await.unwrap();
    db.create_table(TableBuilder::of::<Account>()).await.unwrap();
    let mut batch = db.batch();
    for id in 0..accounts {
        batch.push(db.table::<Account>().insert(&account(id, 100)));
    }
    if !batch.is_empty() {
        batch.execute().await.unwrap();
    }
    db
}

#[tokio::test]
async fn rows_of_a_record_come_and_go() {
    let world = World::start(2, 2);
    let db = bank(&world, 0).await;
    let accounts = db.table::<Account>();
    assert_eq!(accounts.get(1_u64).await.unwrap(), None);
    accounts.insert(&account(1, 10)).await.unwrap();
    assert_eq!(accounts.get(1_u64).await.unwrap(), Some(account(1, 10)));
    let noted = Account { note: Some("hello".into()), ..account(1, 11) };
    accounts.update(&noted).await.unwrap();
    assert_eq!(accounts.get(1_u64).await.unwrap(), Some(noted));
    accounts.upsert(&account(2, 5)).await.unwrap();
    let after = accounts.patch(2_u64).add("balance", -7).set("note", "x").returning().await;
    assert_eq!(after.unwrap(), Account { note: Some("x".into()), ..account(2, -2) });
    let before = accounts.delete(2_u64).returning().await.unwrap();
    assert_eq!(before.balance, -2);
    let rows = accounts.get_many([2_u64, 1]).await.unwrap();
    assert!(rows[0].is_none() && rows[1].is_some());
}

#[tokio::test]
async fn failures_say_what_and_where() {
    let world = World::start(1, 1);
    let db = bank(&world, 2).await;
    let accounts = db.table::<Account>();
    let error = accounts.insert(&account(1, 10)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::DuplicateKey, Outcome::NotApplied));
    assert!(error.to_string().contains("table accounts, key 1"), "{error}");
    let error = accounts.update(&account(9, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let poor = accounts.patch(1_u64).add("balance", -500).when(col("balance").ge(500));
    assert_eq!(poor.await.unwrap_err().kind(), ErrorKind::ConditionFailed);
    let error = accounts.patch(1_u64).set("colour", "red").await.unwrap_err();
    assert_eq!(error.error_code(), Code::NoSuchColumn);
    let error = accounts.get("one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let error = db.table_named("nowhere").await.map(drop).unwrap_err();
    assert_eq!(error.error_code(), Code::NoSuchTable);
    let again = db.create_table(TableBuilder::of::<Account>()).await.unwrap_err();
    assert_eq!(again.error_code(), Code::TableExists);
    let nonsense = db.create_table(TableBuilder::new("no key")).await.unwrap_err();
    assert_eq!(nonsense.error_code(), Code::BadSchema);
    let large = Account { note: Some("x".repeat(2 << 20)), ..account(7, 0) };
    let error = accounts.insert(&large).await.unwrap_err();
    assert_eq!(error.error_code(), Code::RowTooLarge);
}

#[tokio::test]
async fn a_batch_happens_as_a_whole() {
    let world = World::start(2, 1);
    let db = bank(&world, 8).await;
    let accounts = db.table::<Account>();
    let results = db
        .batch()
        .with(accounts.patch(1_u64).add("balance", -30).when(col("balance").ge(30)))
        .with(accounts.patch(2_u64).add("balance", 30).returning())
        .with(accounts.get(1_u64))
        .execute()
        .await
        .unwrap();
    assert_eq!(results.row::<Account>(1).unwrap(), Some(account(2, 130)));
    assert_eq!(results.row::<Account>(2).unwrap(), Some(account(1, 70)));
    let failed = db
        .batch()
        .with(accounts.patch(3_u64).add("balance", 1))
        .with(accounts.patch(4_u64).add("balance", -500).when(col("balance").ge(500)))
        .execute()
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!((failed.kind(), failed.operation()), (ErrorKind::ConditionFailed, Some(1)));
    assert!(failed.to_string().contains("key 4"), "{failed}");
    assert_eq!(accounts.get(3_u64).await.unwrap(), Some(account(3, 100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_in_transactions_keep_the_total() {
    let world = World::start(2, 2);
    let db = bank(&world, 8).await;
    let runs = Arc::new(AtomicU32::new(0));
    let transfer = |task: u64| {
        let (db, runs) = (db.clone(), Arc::clone(&runs));
        tokio::spawn(async move {
            for step in 0..20_u64 {
                let (from, to) = ((task + step) % 8, (task * 3 + step + 1) % 8);
                if from == to {
                    continue;
                }
                db.transaction(|tx| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let t = tx.table::<Account>();
                        let (a, b) =
                            tokio::try_join!(t.get_for_update(from), t.get_for_update(to))?;
                        let (mut a, mut b) = (a.unwrap(), b.unwrap());
                        a.balance -= 1;
                        b.balance += 1;
                        tokio::try_join!(t.update(&a), t.update(&b))?;
                        Ok::<_, Error>(())
                    }
                })
                .await
                .unwrap();
            }
        })
    };
    let tasks: Vec<_> = (0..6).map(transfer).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rows = db.table::<Account>().get_many(0..8_u64).await.unwrap();
    assert_eq!(rows.into_iter().flatten().map(|a| a.balance).sum::<i64>(), 800);
    assert!(runs.load(Ordering::Relaxed) >= 100);
}

#[tokio::test]
async fn a_transaction_sees_its_own_writes_and_a_rollback_undoes_them() {
    let world = World::start(2, 1);
    let db = bank(&world, 4).await;
    let tx = db.begin().await.unwrap();
    let t = tx.table::<Account>();
    t.patch(1_u64).add("balance", 1).await.unwrap();
    assert_eq!(t.get(1_u64).await.unwrap(), Some(account(1, 101)));
    assert_eq!(t.insert(&account(1, 0)).await.unwrap_err().kind(), ErrorKind::DuplicateKey);
    tx.rollback();
    assert_eq!(t.get(1_u64).await.unwrap_err().kind(), ErrorKind::Aborted);
    assert!(tx.commit().await.is_err());
    let accounts = db.table::<Account>();
    let tx = db.begin().await.unwrap();
    tx.with(&accounts).patch(1_u64).add("balance", 5).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(accounts.get(1_u64).await.unwrap(), Some(account(1, 105)));
}

#[tokio::test]
async fn a_dropped_transaction_lets_go_of_its_locks() {
    let world = World::start(2, 1);
    let db = bank(&world, 4).await;
    let tx = db.begin().await.unwrap();
    tx.table::<Account>().patch(1_u64).add("balance", 1).await.unwrap();
    drop(tx);
    let accounts = db.table::<Account>();
    let soon = tokio::time::timeout(
        Duration::from_secs(5),
        accounts.patch(1_u64).add("balance", 2).returning(),
    );
    assert_eq!(soon.await.unwrap().unwrap(), account(1, 102));
}

#[tokio::test]
async fn a_dropped_write_means_that_the_transaction_cannot_commit() {
    let world = World::start(1, 1);
    let db = bank(&world, 4).await;
    let tx = db.begin().await.unwrap();
    let t = tx.table::<Account>();
    {
        let write = t.patch(1_u64).add("balance", 1);
        tokio::pin!(write);
        let poll = futures_poll_once(write.as_mut()).await;
        assert!(poll.is_pending());
    }
    assert_eq!(tx.commit().await.unwrap_err().error_code(), Code::AbortedByClient);
    let accounts = db.table::<Account>();
    assert_eq!(accounts.get(1_u64).await.unwrap(), Some(account(1, 100)));
}

async fn futures_poll_once<F: Future>(
    mut future: std::pin::Pin<&mut F>,
) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test]
async fn a_closure_that_fails_is_rolled_back_and_not_repeated() {
    let world = World::start(1, 1);
    let db = bank(&world, 4).await;
    let runs = Arc::new(AtomicU32::new(0));
    let result: Result<(), Error> = db
        .transaction(|tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            async move {
                let t = tx.table::<Account>();
                t.patch(1_u64).add("balance", 1).await?;
                t.patch(77_u64).add("balance", 1).await
            }
        })
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(db.table::<Account>().get(1_u64).await.unwrap(), Some(account(1, 100)));
}

#[tokio::test]
async fn dynamic_rows_with_a_partition_key_and_defaults() {
    let world = World::start(2, 2);
    let db = world.client("b").connect().await.unwrap();
    let cities = TableBuilder::new("cities")
        .column("country", ColumnType::String)
        .column("name", ColumnType::String)
        .column_def(ColumnDef::new("people", ColumnType::U64).nullable())
        .key(["country", "name"])
        .partition_key(["country"]);
    db.create_table(cities).await.unwrap();
    let cities = db.table_named("cities").await.unwrap();
    for (country, name, people) in
        [("no", "Oslo", Value::from(700_000_u64)), ("no", "Bergen", Value::Null)]
    {
        cities.insert(&Row::new([country.into(), name.into(), people])).await.unwrap();
    }
    let oslo = cities.get(("no", "Oslo")).await.unwrap().unwrap();
    assert_eq!(oslo["people"], Value::UInt(700_000));
    let bergen = cities.get(("no", "Bergen")).await.unwrap().unwrap();
    assert!(bergen["people"].is_null());
    let (one, other) = (cities.partition_of(("no", "Oslo")), cities.partition_of(("no", "x")));
    assert_eq!(one.await.unwrap(), other.await.unwrap());
    let names: Vec<String> =
        db.tables().await.unwrap().iter().map(|def| def.name().to_owned()).collect();
    assert_eq!(names, ["cities"]);
    db.drop_table("cities").await.unwrap();
    assert!(db.tables().await.unwrap().is_empty());
    let error = cities.get(("no", "Oslo")).await.unwrap_err();
    assert_eq!(error.error_code(), Code::NoSuchTable);
    assert_eq!(db.drop_table("cities").await.unwrap_err().error_code(), Code::NoSuchTable);
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_anew_is_found_by_old_handles() {
    let world = World::start(1, 1);
    let db = bank(&world, 2).await;
    let old = db.table::<Account>();
    assert!(old.get(1_u64).await.unwrap().is_some());
    let other = world.client("a").connect().await.unwrap();
    other.drop_table("accounts").await.unwrap();
    other.create_table(TableBuilder::of::<Account>()).await.unwrap();
    assert_eq!(old.get(1_u64).await.unwrap(), None);
    old.insert(&account(1, 1)).await.unwrap();
    assert_eq!(other.table::<Account>().get(1_u64).await.unwrap(), Some(account(1, 1)));
}

/// The answer to a creation comes before its commit at the replicas. Who is told is not to notice.
#[tokio::test]
async fn a_table_serves_everywhere_from_the_moment_its_maker_is_told() {
    let world = World::start(2, 2);
    let db = world.client("a").connect().await.unwrap();
    for round in 0..30 {
        let name = format!("accounts_{round}");
        let made = TableBuilder::new(&name).column("id", ColumnType::U64).key(["id"]);
        db.create_table(made).await.unwrap();
        let table = db.table_named(&name).await.unwrap();
        let mut asked = Vec::new();
        for id in 0..24_u64 {
            for node in [1, 2] {
                let copy = table.reading_from(ReadFrom::Node(NodeId(node)));
                asked
                    .push(tokio::spawn(async move { copy.get(id).await.map(|row| row.is_some()) }));
            }
            let (db, name) = (db.clone(), name.clone());
            asked.push(tokio::spawn(async move {
                // Tried again when the view changes: without a management server, this client is
                // made the arbitrator sooner or later. A missing table is not tried again.
                let read = |tx: Tx| {
                    let name = name.clone();
                    async move { Ok::<_, Error>(tx.table_named(&name).get(id).await?.is_some()) }
                };
                db.transaction(read).await
            }));
        }
        for asked in asked {
            assert!(!asked.await.unwrap().unwrap(), "the table is empty");
        }
    }
}

#[tokio::test]
async fn every_replica_scans_to_the_same_rows() {
    let world = World::start(2, 2);
    let db = bank(&world, 100).await;
    let accounts = db.table::<Account>();
    let mut by_node = Vec::new();
    for node in [NodeId(1), NodeId(2)] {
        let mut rows = BTreeMap::new();
        for partition in db.partitions() {
            let mut scan =
                accounts.scan_partition(partition).from(ReadFrom::Node(node)).page_rows(7);
            let mut last = Vec::new();
            while let Some(page) = scan.next_page().await.unwrap() {
                for scanned in page {
                    assert!(last < scanned.key, "in key order");
                    last.clone_from(&scanned.key);
                    rows.insert(scanned.row.id, scanned.row.balance);
                }
            }
        }
        by_node.push(rows);
    }
    assert_eq!(by_node[0], by_node[1]);
    assert_eq!(by_node[0], (0..100).map(|id| (id, 100)).collect());
}

#[tokio::test]
async fn a_snapshot_is_of_one_moment_whatever_is_written_meanwhile() {
    let world = World::start(2, 2);
    let db = bank(&world, 500).await;
    let accounts = db.table::<Account>();
    let snapshot = db.snapshot().await.unwrap();
    snapshot.hold().await.unwrap();
    let past = snapshot.table(&accounts);
    let mut scan = past.scan();
    let mut seen = scan.next_page().await.unwrap().unwrap();
    for id in 0..500 {
        accounts.upsert(&account(id, 1)).await.unwrap();
    }
    accounts.delete(7_u64).await.unwrap();
    accounts.insert(&account(1000, 1)).await.unwrap();
    while let Some(page) = scan.next_page().await.unwrap() {
        seen.extend(page);
    }
    let balances: BTreeMap<u64, i64> = seen.iter().map(|row| (row.id, row.balance)).collect();
    assert_eq!(balances, (0..500).map(|id| (id, 100)).collect());
    assert_eq!(seen.len(), 500, "each row once");
    assert_eq!(past.get(7_u64).await.unwrap().map(|row| row.balance), Some(100));
    assert_eq!(past.get_many([1000_u64, 1]).await.unwrap().iter().flatten().count(), 1);
    let refused = past.delete(1_u64).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidData);

    // What this client has written is in its next snapshot; all of it in that of another one.
    let now = db.snapshot().await.unwrap();
    assert!(now.epoch() > snapshot.epoch());
    assert_eq!(now.table(&accounts).get(7_u64).await.unwrap().map(|row| row.id), None);
    let other = world.client("b").connect().await.unwrap();
    let fresh = other.fresh_snapshot().await.unwrap();
    let rows = fresh.table(&other.table::<Account>()).scan().all().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.balance).sum::<i64>(), 500);
}

#[tokio::test]
async fn status_view_and_addresses() {
    let world = World::start(2, 1);
    let db = bank(&world, 10).await;
    assert_eq!(db.view().await.unwrap().members.len(), 2);
    let status = db.status(NodeId(1), lockstep_client::ShardId(0)).await.unwrap();
    assert!(status.committed > 0 && status.cpu_us > 0);
    let error = db.status(NodeId(9), lockstep_client::ShardId(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let nobody = Client::builder().address("127.0.0.1:1").deadline(Duration::from_millis(100));
    let error = nobody.connect().await.unwrap_err();
    assert_eq!(error.error_code(), Code::Unreachable);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    let error = Client::connect("http://x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}
