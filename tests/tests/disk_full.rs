//! A real disk without space: a small file system of its own for one node of a pair.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_client::{Client, Code, Durability, TableBuilder};
use lockstep_mgmt::dev::process::Signal;
use lockstep_tests::harness::processes::{Cluster, Form};

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Bytes of a row: a hundred of them fill what is left of the file system.
const ROW_BYTES: usize = 64 << 10;

lockstep_client::record! {
    struct Blob in "blobs" { #[key] id: u64, bytes: Vec<u8> }
}

fn blob(id: u64) -> Blob {
    Blob { id, bytes: vec![7; ROW_BYTES] }
}

/// A mounted file system; detached when dropped, while processes may still use it.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this user may not mount.
    fn at(dir: &Path) -> Option<Self> {
        std::fs::create_dir(dir).expect("a fresh directory");
        let mount = ["-t", "tmpfs", "-o", "size=8m", "lockstep-test"];
        let done = Command::new("mount").args(mount).arg(dir).output().ok()?;
        done.status.success().then(|| Self(dir.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _detached = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_new_rows_and_nothing_else() {
    let mut cluster = Cluster::empty(Path::new(BINARY), &Form::pair());
    let dir = cluster.dir().join("n2");
    let Some(_mounted) = Mounted::at(&dir) else {
        eprintln!("SKIPPED: may not mount a file system, so no disk could be filled");
        return;
    };
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 3 << 20]).expect("there is room");
    for node in 1..=2 {
        let mut running = cluster.start_node(node, &format!("n{node}"), &[]);
        running.addr();
        cluster.nodes.push(running);
    }
    let builder = Client::builder().address(&cluster.mgmt_addr.to_string());
    let db = builder.deadline(Duration::from_secs(30)).connect().await.expect("a cluster");
    db.create_table(TableBuilder::of::<Blob>()).await.expect("a table");
    let blobs = db.table::<Blob>();

    let mut stored = 0;
    // Redo follows within a tenth of a second: whoever is faster only fills the memory.
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let refusal = loop {
        pace.tick().await;
        match blobs.insert(&blob(stored)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 2000, "the disk of n2 never gets full");
    };
    assert_eq!(refusal.error_code(), Code::DiskFull, "{refusal}");
    assert!(blobs.get(0_u64).await.expect("reads go on").is_some());
    blobs.delete(0_u64).await.expect("deletes go on");

    // The other node dies: the full one must store a view, and it serves what it has.
    cluster.node(1).signal(Signal::Kill);
    assert!(blobs.get(1_u64).await.expect("n2 goes on alone").is_some());
    assert!(cluster.node(2).is_running());

    std::fs::remove_file(&ballast).expect("it is there");
    let on_disk = db.with_durability(Durability::Disk);
    let (since, patience) = (Instant::now(), Duration::from_secs(20));
    loop {
        pace.tick().await;
        match on_disk.table::<Blob>().upsert(&blob(stored)).await {
            Ok(()) => break,
            Err(error) => assert_eq!(error.error_code(), Code::DiskFull, "{error}"),
        }
        assert!(since.elapsed() < patience, "the space is not noticed");
    }
    assert!(blobs.get(stored).await.expect("served").is_some());
}
