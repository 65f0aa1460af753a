//! Every command's JSON against its schema in docs/schemas, and every exit code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lockstep_tests::harness::admin;
use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::schema::Schemas;
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Schemas of commands that start clusters of their own: the test below runs them.
const ELSEWHERE: &[&str] = &["lockstep.demo/v1", "lockstep.soak/v1"];

/// A user whose every output is judged.
struct Judge {
    user: User,
    schemas: Schemas,
    seen: BTreeSet<String>,
}

impl Judge {
    fn new() -> Self {
        let (user, schemas) = (User::new(Path::new(BINARY)), Schemas::of_tree());
        Self { user, schemas, seen: BTreeSet::new() }
    }

    fn judge(&mut self, what: &str, text: &str) -> Value {
        let output: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("`{what}`: {error} in {text:?}"));
        let (name, complaints) = self.schemas.judge(&output);
        assert!(complaints.is_empty(), "`{what}` prints {output}\n{}", complaints.join("\n"));
        self.seen.insert(name);
        output
    }

    /// Runs a command that ends with `code` and prints one object.
    #[track_caller]
    fn runs(&mut self, code: i32, words: &str) -> Value {
        let ran = self.user.runs(&format!("{words} -o json"));
        assert_eq!(ran.code, Some(code), "`{words}`: {ran:?}");
        self.judge(words, &ran.stdout)
    }

    /// Runs a command that fails with `code` and says why in one object.
    #[track_caller]
    fn fails(&mut self, code: i32, words: &str) -> Value {
        let Ran { code: ended, stdout, stderr } = self.user.runs(&format!("{words} -q -o json"));
        assert_eq!(ended, Some(code), "`{words}`: {stdout}{stderr}");
        assert_eq!(stdout, "", "`{words}`");
        let error = self.judge(words, &stderr);
        assert_eq!(error["schema"], "lockstep.error/v1");
        error
    }

    fn writes(&self, file: &str, text: &str) {
        fs::write(self.user.home().join(file), text).expect("written");
    }
}

#[test]
fn every_command_prints_what_its_schema_says_and_ends_as_it_should() {
    let mut judge = Judge::new();
    judge.runs(0, "version");
    judge.runs(0, "explain LS-2009");
    judge.runs(0, "explain");
    judge.runs(0, "man --dir man");
    judge.fails(2, "explain LS-1");
    judge.fails(2, "status --nonsense");
    judge.fails(3, "status");
    judge.fails(3, "status --url lockstep://127.0.0.1:1 --timeout 300ms");
    judge.fails(6, "wait --for healthy --url lockstep://127.0.0.1:1 --timeout 300ms");

    let told = judge.runs(0, "dev start --groups 1 --replicas 2 --zones a,b");
    judge.fails(5, "dev start");
    judge.runs(0, "dev status");
    with_tables(&mut judge);
    with_backups(&mut judge);
    // On a machine with too much to do somebody may have been given up meanwhile, and come back.
    judge.runs(0, "wait --for healthy --for node=n2:started");
    for words in ["status", "health", "node show 1", "group list", "cluster info"] {
        judge.runs(0, words);
    }
    judge.runs(0, "status --watch 10ms --count 1");
    let happened = judge.runs(0, "events --since 1h --last 50")["events"].clone();
    let names: BTreeSet<&str> =
        happened.as_array().expect("a list").iter().filter_map(|e| e["event"].as_str()).collect();
    let known = ["backup_begun", "backup_deleted", "backup_done", "cluster_met"];
    assert!(known.iter().all(|name| names.contains(name)), "{happened}");
    judge.fails(2, "events --event earthquake");
    judge.runs(0, "top --every 50ms --count 1");
    let healthy = judge.runs(0, "doctor");
    let levels = healthy["findings"].as_array().expect("a list").iter().map(|f| &f["level"]);
    assert!(levels.clone().all(|level| level != "bad"), "{healthy}");
    judge.runs(0, "doctor --offline --brief");
    judge.runs(0, "check");
    judge.runs(0, "bench point --seconds 1 --keys 100 --tasks 2");
    for list in ["nodes", "mgmt"] {
        let addr = told[list][0]["admin"].as_str().expect("an address");
        let page = admin::get(addr, "/status.json").expect("an answer");
        judge.judge("/status.json", &page.body);
    }
    with_settings(&mut judge);
    with_nodes(&mut judge, &told);
    judge.runs(0, "dev stop");
    judge.fails(3, "dev status");

    let seen: BTreeSet<&str> = judge.seen.iter().map(String::as_str).collect();
    let unseen: Vec<&str> = judge.schemas.names().filter(|name| !seen.contains(name)).collect();
    assert_eq!(unseen, ELSEWHERE, "nothing here prints them");
}

#[test]
fn a_small_demo_and_a_small_soak_print_what_their_schemas_say() {
    let mut judge = Judge::new();
    let demo = judge.runs(0, "demo --accounts 500 --tasks 4 --seconds 4s");
    assert_eq!((&demo["verified"], &demo["restore_verified"]), (&true.into(), &true.into()));
    let soak = judge.runs(0, "demo --accounts 500 --tasks 4 --soak 4s");
    assert_eq!(soak["verified"], true, "{soak}");
    let seen: Vec<&str> = judge.seen.iter().map(String::as_str).collect();
    assert_eq!(seen, ELSEWHERE);
}

fn with_backups(judge: &mut Judge) {
    let place = judge.user.home().join("backups");
    fs::create_dir(&place).expect("a fresh directory");
    let place = place.display();
    let made = judge.runs(0, &format!("backup create --to {place} --wait"));
    let name = made["backup"].as_str().expect("a name").to_owned();
    judge.runs(0, "backup list");
    judge.runs(0, &format!("backup show {name}"));
    judge.runs(0, &format!("backup verify {place}"));
    judge.runs(5, &format!("restore plan {place}"));
    judge.fails(5, &format!("restore run {place}"));
    judge.runs(0, &format!("restore run {place} --tables people --rename people=others"));
    judge.fails(5, "backup show b1");
    judge.runs(0, &format!("backup delete {name} --yes"));
    judge.fails(1, &format!("backup verify {place}"));
}

fn with_tables(judge: &mut Judge) {
    judge.writes("people.csv", "id,name\n1,Ada\n2,Grace\n");
    judge.writes("twice.csv", "id,name\n3,Edsger\n1,Ada\n");
    judge.runs(0, "table import people.csv --key id");
    judge.runs(0, "table create things --column id:u64,name:string --key id");
    judge.runs(0, "table list");
    judge.runs(0, "table show people");
    judge.runs(0, "table export people");
    judge.runs(0, "table drop things --yes");
    judge.fails(1, "table import nowhere.csv --key id");
    judge.fails(1, "table show nothing");
    judge.fails(5, "table drop people");
    judge.fails(7, "table import twice.csv --table people");
}

/// Settings of the cluster, and of a log.
fn with_settings(judge: &mut Judge) {
    judge.writes("cluster.toml", "[cluster]\ntick = \"20ms\"\n");
    judge.runs(0, "config check cluster.toml");
    judge.runs(8, "config diff cluster.toml");
    judge.runs(0, "config apply cluster.toml --why test");
    judge.runs(0, "config history");
    judge.runs(0, "config show --origin");
    assert_eq!(judge.runs(0, "node log-level 1 debug")["before"], "info");
    assert_eq!(judge.runs(0, "node log-level n1")["filter"], "debug");
    judge.runs(0, "node log-level m1 warn,lockstep_mgmt=debug");
    judge.fails(2, "node log-level m1 lockstep=nonsense");
    judge.fails(5, "node log-level 9 info");
    judge.fails(3, "node log-level 127.0.0.1:1 info");
}

/// Who belongs to the cluster; in the end the two who did.
fn with_seats(judge: &mut Judge) {
    judge.runs(0, "dev add-node --zone b");
    judge.runs(0, "wait --for node=3:spare");
    judge.fails(5, "wait --for node=4:stopped");
    judge.runs(0, "node list");
    judge.runs(0, "node drain 1");
    judge.runs(0, "node undrain 1");
    judge.runs(0, "node ok-to-stop 1");
    judge.fails(5, "node ok-to-stop 1 2");
    judge.runs(0, "cluster primary-zone a");
    judge.runs(0, "node join 3 --group 1");
    judge.runs(0, "node spare 3");
    judge.runs(0, "cluster replicas 2");
    judge.runs(0, "node remove 3 --yes");
    judge.runs(0, "node remove 3 --yes");
    judge.fails(5, "node remove 9 --yes");
    judge.fails(5, "group create");
    judge.fails(5, "group drop 1 --yes");
    judge.runs(0, "dev add-node --zone a");
    judge.runs(0, "dev add-node --zone b");
    judge.runs(0, "group rebalance --auto off");
    let made = judge.runs(0, "group create --nodes 4,5");
    assert_eq!((&made["group"], &made["zone_shared"]), (&2.into(), &Value::Null));
    assert_eq!(judge.runs(0, "group rebalance --timeout 2m")["moved"], 32);
    judge.runs(0, "group list");
    judge.runs(0, "group drop 2 --yes --timeout 2m");
    judge.runs(0, "node remove 4 --yes");
    judge.runs(0, "node remove 5 --yes");
}

/// Nodes leave, die, come back; damage is found.
fn with_nodes(judge: &mut Judge, told: &Value) {
    with_seats(judge);
    judge.runs(0, "node restart 2");
    judge.runs(0, "cluster restart --rolling");
    judge.runs(0, "dev pause 2");
    judge.runs(0, "dev continue 2");
    judge.runs(0, "wait --for healthy");
    judge.runs(0, "node stop 2");
    judge.runs(0, "wait --for node=2:stopped");
    judge.fails(6, "wait --for node=2:started --timeout 200ms");
    judge.fails(5, "node stop 1");
    judge.fails(5, "node show 2");
    judge.runs(4, "status --check");
    judge.runs(4, "health");
    judge.runs(4, "dev status");
    let sick = judge.runs(4, "doctor --brief");
    assert_eq!(sick["worst"], "bad");
    let dir = told["dir"].as_str().expect("a path").to_owned();
    judge.runs(0, &format!("check {dir}/node-2"));
    damage(Path::new(&dir).join("node-2/checkpoint").as_path());
    judge.runs(4, &format!("check {dir}/node-2"));
    judge.runs(0, "dev revive 2 --initial");
    until("node 2 to be back", || {
        let health = judge.user.runs("health -o json");
        (health.code == Some(0)).then_some(())
    });
    judge.runs(0, "dev kill m1");
    judge.fails(3, "backup list");
    judge.fails(3, "events");
    judge.fails(5, "dev revive 1");
    judge.fails(5, "dev revive m2");
    judge.runs(0, "dev revive m1");
    judge.runs(0, "dev kill --all");
    judge.runs(0, "dev revive --all");
    judge.runs(0, "dev kill 1");
}

/// Changes a byte in every file of a directory.
fn damage(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("a file");
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        fs::write(&path, bytes).expect("written");
    }
}

/// What is printed somewhere in the tree under a name of ours has a schema.
#[test]
fn every_name_in_the_code_has_a_schema() {
    let schemas = Schemas::of_tree();
    let known: BTreeSet<&str> = schemas.names().collect();
    let mut named = BTreeSet::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../mgmt/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            let quoted = text.split('"').map(|quoted| quoted.trim_end_matches('\\'));
            for quoted in quoted.filter(|quoted| quoted.starts_with("lockstep.")) {
                let version = quoted.rsplit_once("/v").map(|(_, version)| version);
                if version.is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit())) {
                    named.insert(quoted.to_owned());
                }
            }
        }
    }
    let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    let missing: Vec<&&str> = named.difference(&known).collect();
    let dead: Vec<&&str> = known.difference(&named).collect();
    assert!(missing.is_empty(), "docs/schemas lacks {missing:?}");
    assert!(dead.is_empty(), "nothing prints {dead:?}");
}
