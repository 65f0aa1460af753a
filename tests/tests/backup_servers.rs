//! Two management servers and their backups: each tells of all, and one that is gone is stood in
//! for by the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep_client::{Client, TableBuilder};
use lockstep_mgmt::dev::process::Signal;
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

lockstep_client::record! {
    #[derive(Clone, Debug)]
    struct Note in "notes" { #[key] id: u64, text: String }
}

/// All processes, as a user names them who does not know which are there.
fn url(cluster: &mut Cluster) -> String {
    let nodes: Vec<String> = (1..=2).map(|node| cluster.node(node).addr().to_string()).collect();
    format!("lockstep://{},{}", cluster.mgmt_list(), nodes.join(","))
}

fn fill(url: &str, rows: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let db = Client::connect(url).await.expect("the cluster is there");
        db.create_table(TableBuilder::of::<Note>()).await.expect("created");
        let notes = db.table::<Note>();
        for first in (0..rows).step_by(200) {
            let mut batch = db.batch();
            for id in first..first + 200 {
                batch = batch.with(notes.insert(&Note { id, text: format!("note {id}") }));
            }
            batch.execute().await.expect("written");
        }
    });
}

fn command(url: &str, args: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args.split_whitespace()).args(["-o", "json", "--url", url]);
    command
}

fn told(url: &str, args: &str) -> Value {
    let out = command(url, args).output().expect("the command runs");
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("one object")
}

fn only_backup(url: &str) -> Option<Value> {
    let list = told(url, "backup list");
    let backups = list["backups"].as_array().expect("a list").clone();
    assert!(backups.len() <= 1, "{backups:?}");
    backups.into_iter().next()
}

/// Files of backups below the directories of all processes.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // Checkpoints come and go as they like.
                dirs.extend((!path.ends_with("checkpoint")).then_some(path));
            } else if path.to_string_lossy().contains(ending) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn what_one_server_has_made_another_one_removes() {
    let cluster = &mut Cluster::start(Path::new(BINARY), &Form { mgmts: 2, ..Form::pair() });
    let url = url(cluster);
    fill(&url, 20_000);
    let made = told(&url, "backup create --wait");
    assert_eq!((&made["management_server"], &made["state"]), (&"m1".into(), &"done".into()));
    let name = made["backup"].as_str().expect("a name").to_owned();
    let parts = |cluster: &Cluster| files(cluster.dir(), ".part").len();
    let manifests = |cluster: &Cluster| files(cluster.dir(), ".manifest").len();
    assert!(parts(cluster) > 0 && manifests(cluster) == 1);

    // Its maker is gone: the other one knows what it has made, and removes it.
    let noted = cluster.dir().join("mgmt-2/backups");
    until("the other one to know of it", || noted.exists().then_some(()));
    cluster.mgmt.signal(Signal::Kill);
    assert!(!cluster.mgmt.ended().success());
    let known = only_backup(&url).expect("the other one knows");
    assert_eq!((&known["state"], &known["rows"]), (&"done".into(), &made["rows"]));
    assert_eq!(known["management_server_answers"], false);
    let gone = told(&url, &format!("backup delete {name} --yes"));
    assert_eq!((&gone["state"], &gone["management_server"]), (&"deleted".into(), &"m2".into()));
    assert_eq!((parts(cluster), manifests(cluster)), (0, 1), "the manifest is with its maker");

    // Its maker is back, and follows.
    cluster.restart_mgmt();
    until("the manifest to go", || (manifests(cluster) == 0).then_some(()));
    let known = only_backup(&url).expect("it is remembered");
    assert_eq!((&known["state"], &known["management_server"]), (&"deleted".into(), &"m2".into()));
    assert_eq!(known["management_server_answers"], true);
}

#[test]
fn what_a_server_was_at_when_it_ended_is_removed_when_it_is_back() {
    let cluster = &mut Cluster::start(Path::new(BINARY), &Form { mgmts: 2, ..Form::pair() });
    let url = url(cluster);
    // Some tenths of a second of writing: none of it may be over when its maker dies.
    fill(&url, 200_000);
    let mut making = command(&url, "backup create --wait").spawn().expect("it runs");
    // As soon as somebody writes, its maker dies.
    let begun = |ending| !files(cluster.dir(), ending).is_empty();
    until("a part to be begun", || (begun(".unfinished") || begun(".part")).then_some(()));
    cluster.mgmt.signal(Signal::Kill);
    assert!(!cluster.mgmt.ended().success());
    assert!(!making.wait().expect("it ends").success(), "nobody makes it any more");
    cluster.restart_mgmt();
    let known = until("its end to be known", || {
        only_backup(&url)
            .filter(|known| known["state"] == "failed" && known["leftovers_at"][0].is_null())
    });
    assert!(known["failed"].as_str().expect("a reason").contains("ended meanwhile"), "{known}");
    assert_eq!(files(cluster.dir(), ".part"), Vec::<PathBuf>::new());
    assert_eq!(files(cluster.dir(), ".unfinished"), Vec::<PathBuf>::new());
    assert_eq!(files(cluster.dir(), ".manifest"), Vec::<PathBuf>::new());
    // And the next one is made.
    assert_eq!(told(&url, "backup create --wait")["state"], "done");
}
