//! Backups of real processes: under load, with a data node that dies in the middle, restored into a
//! cluster of another shape; and everything that can be wrong with the place or the files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use lockstep_client::{Client, TableBuilder};
use lockstep_proto::stored::StoredError;
use lockstep_proto::wire::backup::Manifest;
use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Accounts, and what is in all of them together.
const ACCOUNTS: u64 = 60_000;
const TOTAL: i64 = 100 * ACCOUNTS as i64;

lockstep_client::record! {
    #[derive(Clone, Debug)]
    struct Account in "accounts" { #[key] id: u64, balance: i64 }
}

/// Somebody who moves money until told to stop.
struct Mover {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn fill(url: &str) {
    on_runtime(async {
        let db = Client::connect(url).await.expect("the cluster is there");
        db.create_table(TableBuilder::of::<Account>()).await.expect("created");
        let accounts = db.table::<Account>();
        for first in (0..ACCOUNTS).step_by(200) {
            let mut batch = db.batch();
            for id in first..first + 200 {
                batch = batch.with(accounts.insert(&Account { id, balance: 100 }));
            }
            batch.execute().await.expect("written");
        }
    });
}

impl Mover {
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            on_runtime(async {
                let db = Client::connect(&url).await.expect("the cluster is there");
                let accounts = db.table::<Account>();
                let mut moved = 0;
                for turn in 0_u64.. {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    let from = turn * 7_919 % ACCOUNTS;
                    let to = (from + 1 + turn * 104_729 % (ACCOUNTS - 1)) % ACCOUNTS;
                    let batch = db.batch();
                    let batch = batch.with(accounts.patch(from).add("balance", -1));
                    let batch = batch.with(accounts.patch(to).add("balance", 1));
                    // A node may die: whether this one was done does not change the sum.
                    moved += u64::from(batch.execute().await.is_ok());
                }
                moved
            })
        });
        Self { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the mover ends")
    }
}

fn total(url: &str, table: &str) -> (u64, i64) {
    on_runtime(async {
        let db = Client::connect(url).await.expect("the cluster is there");
        let rows = db.table_as::<Account>(table).scan().all().await.expect("readable");
        (rows.len() as u64, rows.iter().map(|row| row.balance).sum())
    })
}

fn place(user: &User, name: &str) -> PathBuf {
    let dir = user.home().join(name);
    std::fs::create_dir(&dir).expect("a fresh directory");
    dir
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// A refusal, with its exit code and its words.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr);
}

#[test]
fn a_backup_under_load_survives_a_node_and_is_restored_elsewhere() {
    let user = User::new(Path::new(BINARY));
    let _started = user.told("dev start --groups 2 --replicas 2 --zones a,b");
    let dir = place(&user, "backups");
    fill(&user.url());
    let mover = Mover::start(user.url());
    let mut making = user.starts(&format!("backup create --to {} --wait -o json", dir.display()));
    // As soon as somebody writes, somebody dies.
    until("a part to be begun", || {
        let below = std::fs::read_dir(&dir).ok()?.next()?.ok()?.path();
        let mut files = std::fs::read_dir(below).ok()?;
        files.next().map(drop)
    });
    let _killed = user.told("dev kill 2");
    assert!(making.wait().expect("it ends").success(), "the backup is made all the same");
    assert!(mover.end() > 0, "others worked meanwhile");
    let told = user.asked(&format!("backup verify {}", dir.display()));
    assert_eq!(told["whole"], true);
    // The row that counts tables, the table, and its rows.
    assert_eq!(told["rows"], ACCOUNTS + 2);
    let list = user.asked("backup list");
    let backups = list["backups"].as_array().expect("a list");
    assert_eq!((backups.len(), text(&backups[0], "state")), (1, "done"));
    assert_eq!(backups[0]["epoch"], told["epoch"]);

    // Into the same cluster under another name, and into one of another shape.
    let dir = dir.display().to_string();
    refused(&user.runs(&format!("restore run {dir}")), 5, "has a table accounts already");
    let again = user.asked(&format!("restore run {dir} --rename accounts=then"));
    assert_eq!(again["rows"], ACCOUNTS);
    assert_eq!(total(&user.url(), "then"), (ACCOUNTS, TOTAL));
    let other = User::new(Path::new(BINARY));
    let _started = other.told("dev start --groups 3 --replicas 1 --partitions 16");
    assert_eq!(other.runs(&format!("restore plan {dir}")).code, Some(0));
    let restored = other.asked(&format!("restore run {dir} --threads 1"));
    assert_eq!(restored["rows"], ACCOUNTS);
    assert_eq!(total(&other.url(), "accounts"), (ACCOUNTS, TOTAL));

    let name = text(&backups[0], "backup").to_owned();
    let gone = user.asked(&format!("backup delete {name} --yes"));
    assert_eq!(text(&gone, "state"), "deleted");
    refused(&user.runs(&format!("backup verify {dir}")), 1, "no backup in");
}

/// A file system of its own; detached when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this user may not mount.
    fn at(dir: &Path, options: &str) -> Option<Self> {
        let mount = ["-t", "tmpfs", "-o", options, "lockstep-test"];
        let done = Command::new("mount").args(mount).arg(dir).output().ok()?;
        done.status.success().then(|| Self(dir.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _detached = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_place_that_is_not_there_full_or_read_only_is_said_and_leaves_nothing() {
    let user = User::new(Path::new(BINARY));
    let _started = user.told("dev start --groups 1 --replicas 2");
    fill(&user.url());
    let create = |dir: &Path| user.runs(&format!("backup create --to {} --wait", dir.display()));
    let vanished = user.home().join("not-mounted");
    refused(&create(&vanished), 7, "a file or directory is not there");
    refused(&user.runs("backup create --to here"), 2, "not an absolute path");
    for (name, options, words) in
        [("full", "size=64k", "no space left"), ("closed", "ro", "it may not be written")]
    {
        let dir = place(&user, name);
        let Some(_mounted) = Mounted::at(&dir, options) else {
            eprintln!("SKIPPED: may not mount a file system");
            continue;
        };
        refused(&create(&dir), 7, words);
        let left = std::fs::read_dir(&dir).expect("readable").count();
        assert_eq!(left, 0, "nothing of it is left in {name}");
    }
    // The cluster has come to no harm, and the next one is made.
    let dir = place(&user, "backups");
    let made = create(&dir);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(total(&user.url(), "accounts"), (ACCOUNTS, TOTAL));
}

/// One of several backups is chosen, and a name that no table can have is refused before.
fn what_restore_would_refuse(user: &User, dir: &Path, backup: &str) {
    refused(&user.runs(&format!("backup verify {}", dir.display())), 2, "there are 2 backups");
    let one = format!("{} --backup {backup}", dir.display());
    assert_eq!(user.runs(&format!("backup verify {one}")).code, Some(0));
    for command in ["plan", "run"] {
        let unfit = format!("restore {command} {one} --rename accounts=a/b");
        refused(&user.runs(&unfit), 1, "LS-1016");
    }
}

#[test]
fn what_is_no_whole_backup_is_refused_before_anything_is_written() {
    let user = User::new(Path::new(BINARY));
    let _started = user.told("dev start --groups 1 --replicas 1");
    fill(&user.url());
    let dir = place(&user, "backups");
    let made = user.asked(&format!("backup create --to {} --wait", dir.display()));
    let home = dir.join(format!("lockstep-{}", text(&made, "backup")));
    let _dropped = user.told("table drop accounts --yes");
    let files: Vec<PathBuf> =
        std::fs::read_dir(&home).expect("there").map(|e| e.expect("an entry").path()).collect();
    let ending = |end: &str| {
        let found = files.iter().find(|path| path.to_string_lossy().ends_with(end));
        found.expect("there is one").clone()
    };
    let (part, manifest) = (ending(".part"), ending(".manifest"));
    let commands = ["backup verify", "restore plan", "restore run"];
    let with = |path: &Path, bytes: &[u8], words: &str| {
        let whole = std::fs::read(path).expect("readable");
        std::fs::write(path, bytes).expect("writable");
        for command in commands {
            refused(&user.runs(&format!("{command} {}", home.display())), 1, words);
        }
        std::fs::write(path, whole).expect("writable");
    };
    let (rows, names) =
        (std::fs::read(&part).expect("readable"), std::fs::read(&manifest).expect("readable"));
    let changed = |bytes: &[u8], at: usize, to: u8| {
        let mut bad = bytes.to_vec();
        bad[at] = to;
        bad
    };
    with(&part, &rows[..rows.len() - 1], "no trailer");
    with(&part, &changed(&rows, rows.len() / 2, !rows[rows.len() / 2]), "checksum");
    with(&part, &changed(&rows, 4, 9), "format version 9");
    with(&part, b"hello", "not a Lockstep file");
    with(&manifest, &names[..names.len() - 1], "damaged");
    with(&manifest, &changed(&names, 5, 9), "format version 9");
    assert_eq!(Manifest::from_file(b""), Err(StoredError::Damaged));
    // A part of another backup under this one's name, and one that is not there.
    let other = user.asked(&format!("backup create --to {} --wait", dir.display()));
    let beside = dir.join(format!("lockstep-{}", text(&other, "backup")));
    let mut theirs = std::fs::read_dir(&beside).expect("there").map(|e| e.expect("one").path());
    let foreign = theirs.find(|path| path.to_string_lossy().ends_with(".part")).expect("a part");
    with(&part, &std::fs::read(foreign).expect("readable"), "files were swapped or renamed");
    let hidden = part.with_extension("away");
    std::fs::rename(&part, &hidden).expect("renamed");
    for command in commands {
        refused(&user.runs(&format!("{command} {}", home.display())), 1, "data node n1 wrote it");
    }
    std::fs::rename(&hidden, &part).expect("renamed");
    what_restore_would_refuse(&user, &dir, text(&made, "backup"));
    let tables = user.asked("table list");
    assert_eq!(tables["tables"].as_array().map(Vec::len), Some(0), "nothing is left behind");

    // Too little memory, names that are not there; and then all of it.
    let home = home.display();
    let memory = |size: &str| user.told(&format!("config apply --set data_memory={size} --yes"));
    let _small = memory("1MiB");
    let plan = || user.runs(&format!("restore plan {home} -o json"));
    until("the nodes to have little memory", || (plan().code == Some(5)).then_some(()));
    refused(&user.runs(&format!("restore run {home}")), 5, "do not fit the memory");
    let _large = memory("1GiB");
    until("the nodes to have enough memory", || (plan().code == Some(0)).then_some(()));
    let tables = user.asked("table list");
    assert_eq!(tables["tables"].as_array().map(Vec::len), Some(0), "nothing is left behind");
    refused(&user.runs(&format!("restore run {home} --tables nope")), 2, "has no table nope");
    let restored = user.asked(&format!("restore run {home}"));
    assert_eq!(restored["rows"], ACCOUNTS);
    assert_eq!(total(&user.url(), "accounts"), (ACCOUNTS, TOTAL));
}

#[test]
fn a_second_one_is_refused_and_a_place_that_vanishes_ends_the_first() {
    let user = User::new(Path::new(BINARY));
    let _started = user.told("dev start --groups 1 --replicas 2");
    fill(&user.url());
    let (dir, moved) = (place(&user, "backups"), user.home().join("moved"));
    let create = format!("backup create --to {}", dir.display());
    // The first one may be done before the second one is asked for.
    let ran = until("two to be wanted at once", || {
        let _begun = user.asked(&create);
        Some(user.runs(&create)).filter(|ran| ran.code != Some(0))
    });
    refused(&ran, 5, "is under way; one at a time");
    let states = || {
        let list = user.asked("backup list");
        let backups = list["backups"].as_array().expect("a list").clone();
        backups.iter().map(|backup| text(backup, "state").to_owned()).collect::<Vec<String>>()
    };
    let still = |states: &Vec<String>| states.iter().all(|s| s == "done" || s == "failed");
    assert!(until("it to be done", || Some(states()).filter(still)).iter().all(|s| s == "done"));
    std::fs::remove_dir_all(&dir).expect("removed");
    std::fs::create_dir(&dir).expect("made");

    let begun = user.asked(&create);
    let name = text(&begun, "backup");
    until("a part to be begun", || {
        let below = std::fs::read_dir(&dir).ok()?.next()?.ok()?.path();
        std::fs::read_dir(below).ok()?.next().map(drop)
    });
    std::fs::rename(&dir, &moved).expect("moved away");
    let ended = until("it to end", || {
        Some(user.asked(&format!("backup show {name}"))).filter(|b| text(b, "state") == "failed")
    });
    assert!(text(&ended, "failed").contains("is not there"), "{ended}");
    let manifest = std::fs::read_dir(moved.join(format!("lockstep-{name}"))).expect("there");
    let mut names = manifest.map(|entry| entry.expect("an entry").file_name());
    assert!(!names.any(|name| name.to_string_lossy().ends_with(".manifest")), "it has no name");
    std::fs::create_dir(&dir).expect("made");
    let again = user.runs(&format!("{create} --wait"));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(total(&user.url(), "accounts"), (ACCOUNTS, TOTAL));
}

#[test]
fn what_nobody_knows_is_refused() {
    let user = User::new(Path::new(BINARY));
    let _started = user.told("dev start --groups 1 --replicas 1");
    for command in ["backup show b1", "backup abort b1", "backup delete b1 --yes"] {
        refused(&user.runs(command), 5, "no management server knows backup b1");
    }
    refused(&user.runs("backup show x1"), 2, "a backup is named like");
    refused(&user.runs("restore run / --rename a"), 2, "write OLD=NEW");
}
