//! Scenario scripts: one situation as a short text, so that it can be read, reviewed and run under
//! any seed. Words per line:
//!
//! * `shape 2x2`, `shards 1`, `zones 2`, `mgmts 1`, `apis 0` (API nodes that offer themselves as
//!   arbitrators), `clients 3`, `partitions 8`: the cluster;
//! * `checkpoint_ms 700`: how often a partition is checkpointed; `kept_bytes 1000`: how far its
//!   joiners may fall behind;
//! * `seconds 3`, `seeds 5`, `pause_us 5000`, `lists 3`, `expiry 50`: the work;
//! * `at MS kill|power_off|terminate|restart HOST`, `at MS pause HOST MS [holding]`,
//!   `at MS cut HOST HOST MS [oneway] [reject]`, `at MS split A,B | C,D MS [reject]`,
//!   `at MS slow HOST HOST EXTRA_MS MS`, `at MS clog HOST HOST MS`, `at MS flap HOST HOST MS`,
//!   `at MS stall HOST HOST MS`, `at MS mute HOST HOST MS`, `at MS linger HOST HOST MS`,
//!   `at MS disk_slow HOST FACTOR MS`, `at MS disk_stall HOST MS`, `at MS data_stall HOST MS`
//!   (only what shards ask for), `at MS disk_full HOST BYTES MS`, `at MS disk_fails HOST STEP`,
//!   `at MS disk_keeps HOST MS` (no checkpoint can be removed),
//!   `at MS break HOST HOST`, `at MS burden HOST FACTOR MS`, `at MS ghost NODE`, `at MS backup`,
//!   `at MS remove_backups`, `at MS revive NODE [empty]`, `at MS rot NODE [redo]` (a bit flips in
//!   each of its checkpoints, or files of its redo log), `at MS lie NODE` (from then on its disk
//!   syncs nothing and says it has), `at MS come MACHINE [GROUP]` (a newcomer is started on a
//!   machine that `fresh N` has made: f1, f2 …), `at MS order drain|undrain|remove|spare N`,
//!   `at MS order join N GROUP`, `at MS order replicas N`, `at MS order primary_zone Z`,
//!   `at MS order group_create N…`, `at MS order group_drop GROUP`, `at MS order rebalance`,
//!   `at MS order automatic on|off`: what
//!   happens, counted from the start of the work;
//! * `on MESSAGE [from HOST] [to HOST] [#N] kill [HOST] before|after`: a death at one message;
//! * `on MESSAGE [from HOST] [to HOST] [#N] break`: the message is lost with its connection;
//! * `on MESSAGE [from HOST] [to HOST] [#N] stall MS`: it arrives that much later, and what follows
//!   it on its connection too;
//! * `on MESSAGE [from HOST] [to HOST] [#N] do FAULT`: what may stand after `at MS`, at a message;
//! * `on mark NAME [at HOST] [#N] BLOW`: a blow (`before_outputs`, `only_clients`, `prefix N`,
//!   `cut_off`, `pause MS`, `disk_fails STEP`, or all power fails: `blackout`) when a rare branch
//!   is reached;
//! * `configures`: two clients change the configuration, mostly at the same moment;
//! * `blackout`: when the work is over all power fails, and comes back;
//! * `dark rot NODE [redo]`: what happens to a disk meanwhile;
//! * `expect whole`: in the end whoever is dead comes back, and all nodes are in sync again;
//! * `expect members HOST…`, `expect stopped`, `expect mark NAME` (a rare branch is reached under
//!   some seed), `expect never NAME` (under none): how it must end, beside everything that every
//!   run is checked for; `may stop`: the cluster may also stop itself.

use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::orders::Order;
use lockstep_storage::disk::Fate;

use super::cluster::Shape;
use super::disk::Rotting;
use super::faults::Fault;
use super::host::HostId;
use super::net::Cut;
use super::trap::{Ambush, Blow, Price, Watch};
use super::world::World;

const MS: u64 = 1_000_000;

/// A parsed script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name: the file's, without the ending.
    pub name: String,
    /// The cluster.
    pub shape: Shape,
    /// Seconds of work.
    pub seconds: u64,
    /// Seeds it is run under.
    pub seeds: u64,
    /// Longest pause between a task's operations.
    pub pause_us: u64,
    /// Lists in use.
    pub lists: u64,
    /// Epochs a transaction id lives.
    pub expiry: u64,
    /// Timed actions, in order of time.
    pub acts: Vec<(u64, Act)>,
    /// Watched messages and branches.
    pub traps: Vec<Vec<String>>,
    /// Two clients change the configuration.
    pub configures: bool,
    /// The cluster may stop itself.
    pub may_stop: bool,
    /// All power fails at the end of the work.
    pub blackout: bool,
    /// What happens while it is dark.
    pub dark: Vec<Act>,
    /// In the end everybody comes back and is in sync.
    pub whole: bool,
    /// How it must end.
    pub expected: Vec<Expected>,
}

/// A timed action, its hosts still named.
#[derive(Clone, Debug)]
pub struct Act(Vec<String>);

/// One thing that must be so at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Exactly these nodes are members.
    Members(Vec<String>),
    /// The cluster has stopped itself.
    Stopped,
    /// This branch was reached, under at least one of the seeds.
    Mark(String),
    /// This branch was reached under none of them.
    Never(String),
}

/// What a script's action does to a run.
pub enum Deed {
    /// A fault of the world.
    Fault(Fault),
    /// A dead management server comes back, perhaps on an empty directory.
    Restart(HostId, bool),
    /// A dead data node comes back, perhaps with an empty disk.
    Revive(HostId, bool),
    /// A data node is started on a machine that is none yet; the group it wants to join.
    Come(HostId, Option<u16>),
    /// An operator wants something.
    Order(Order),
    /// A bit flips in each file of a kind on a node's disk.
    Rot(HostId, Rotting),
    /// A node's disk says from now on that it has synced, and has not.
    Lie(HostId),
    /// What an earlier life of this node said arrives late.
    Ghost(HostId),
    /// An operator wants a backup.
    Backup,
    /// An operator wants all backups removed.
    RemoveBackups,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The line that is none.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut script = Self {
            name: name.to_owned(),
            shape: Shape {
                groups: 2,
                replicas: 2,
                shards: 1,
                partitions: 8,
                zones: 2,
                mgmts: 1,
                apis: 0,
                fresh: 0,
                clients: 3,
                drift_ppm: 100,
                checkpoint_ms: 700,
                kept_max: lockstep_proto::limits::KEPT_BYTES_MAX,
            },
            seconds: 3,
            seeds: 3,
            pause_us: 10_000,
            lists: 4,
            expiry: lockstep_proto::limits::TX_EXPIRY_EPOCHS,
            acts: Vec::new(),
            traps: Vec::new(),
            configures: false,
            may_stop: false,
            blackout: false,
            dark: Vec::new(),
            whole: false,
            expected: Vec::new(),
        };
        for line in text.lines() {
            let line = strip_comment(line).trim();
            if !line.is_empty() {
                script.line(line).ok_or_else(|| format!("not understood: {line}"))?;
            }
        }
        script.acts.sort_by_key(|(time, _)| *time);
        Ok(script)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (first, rest) = words.split_first()?;
        let number = || rest.first()?.parse::<u64>().ok();
        let small = || u16::try_from(number()?).ok();
        match first.as_str() {
            "shape" => {
                let (groups, replicas) = rest.first()?.split_once('x')?;
                self.shape.groups = groups.parse().ok()?;
                self.shape.replicas = replicas.parse().ok()?;
            }
            "shards" => self.shape.shards = small()?,
            "zones" => self.shape.zones = small()?,
            "mgmts" => self.shape.mgmts = small()?,
            "apis" => self.shape.apis = small()?,
            "fresh" => self.shape.fresh = small()?,
            "clients" => self.shape.clients = small()?,
            "checkpoint_ms" => self.shape.checkpoint_ms = u32::try_from(number()?).ok()?,
            "kept_bytes" => self.shape.kept_max = usize::try_from(number()?).ok()?,
            "partitions" => self.shape.partitions = small()?,
            "drift_ppm" => self.shape.drift_ppm = i64::try_from(number()?).ok()?,
            "seconds" => self.seconds = number()?,
            "seeds" => self.seeds = number()?,
            "pause_us" => self.pause_us = number()?,
            "lists" => self.lists = number()?,
            "expiry" => self.expiry = number()?,
            "at" => self.acts.push((number()? * MS, Act(rest[1..].to_vec()))),
            "on" => self.traps.push(rest.to_vec()),
            "configures" => self.configures = true,
            "blackout" => self.blackout = true,
            "dark" => self.dark.push(Act(rest.to_vec())),
            "may" if rest == ["stop"] => self.may_stop = true,
            "expect" if rest == ["whole"] => self.whole = true,
            "expect" => {
                let expected = expected(rest)?;
                self.may_stop |= expected == Expected::Stopped;
                self.expected.push(expected);
            }
            _ => return None,
        }
        Some(())
    }
}

/// A comment starts with `# ` or is a whole line; `#2` is a count.
fn strip_comment(line: &str) -> &str {
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.split(" # ").next().unwrap_or_default()
}

fn expected(words: &[String]) -> Option<Expected> {
    match words.first()?.as_str() {
        "members" => Some(Expected::Members(words[1..].to_vec())),
        "stopped" => Some(Expected::Stopped),
        "mark" => Some(Expected::Mark(words.get(1)?.clone())),
        "never" => Some(Expected::Never(words.get(1)?.clone())),
        _ => None,
    }
}

fn host(world: &World, name: &str) -> Option<HostId> {
    let is_it = |of: &str| of == name || of.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
    let index = world.hosts.iter().position(|host| is_it(&host.name))?;
    u16::try_from(index).ok().map(HostId)
}

fn hosts(world: &World, names: &str) -> Option<Vec<HostId>> {
    names.split(',').map(|name| host(world, name)).collect()
}

/// An order as a script has it: `drain 2`, `undrain 2`, `remove 2`, `spare 2`, `join 5 1`,
/// `replicas 3`, `primary_zone z1`, `group_create 5 6`, `group_drop 1`, `rebalance` or
/// `automatic on`.
fn order(words: &[&str]) -> Option<Order> {
    let number = |at: usize| words.get(at)?.parse::<u16>().ok();
    let node = || number(1).map(NodeId);
    Some(match *words.first()? {
        "drain" => Order::Drain { node: node()?, drained: true },
        "undrain" => Order::Drain { node: node()?, drained: false },
        "remove" => Order::Remove { node: node()? },
        "spare" => Order::Spare { node: node()? },
        "join" => Order::Join { node: node()?, group: GroupId(number(2)?) },
        "replicas" => Order::Replicas { count: number(1)? },
        "group_create" => {
            let nodes = words[1..].iter().map(|word| word.parse::<u16>().ok().map(NodeId));
            Order::CreateGroup { nodes: nodes.collect::<Option<_>>()? }
        }
        "group_drop" => Order::DropGroup { group: GroupId(number(1)?) },
        "rebalance" => Order::Rebalance,
        "automatic" => Order::Automatic { on: *words.get(1)? == "on" },
        "primary_zone" => Order::PrimaryZone { zone: (*words.get(1)?).to_owned() },
        _ => return None,
    })
}

impl Act {
    /// What it does, with its hosts found.
    ///
    /// # Panics
    /// If the script names a host or word that is not there.
    #[must_use]
    pub fn deed(&self, world: &World) -> Deed {
        self.find(world).unwrap_or_else(|| panic!("not understood: {}", self.0.join(" ")))
    }

    fn find(&self, world: &World) -> Option<Deed> {
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let ms = |at: usize| Some(words.get(at)?.parse::<u64>().ok()? * MS);
        let one = |at: usize| host(world, words.get(at)?);
        let cut = if words.contains(&"reject") { Cut::Reject } else { Cut::Silent };
        let one_way = words.contains(&"oneway");
        Some(Deed::Fault(match *words.first()? {
            "kill" => Fault::Kill(one(1)?),
            "power_off" => Fault::PowerOff(one(1)?),
            "terminate" => Fault::Terminate(one(1)?),
            "pause" => Fault::Pause(one(1)?, ms(2)?, words.contains(&"holding")),
            "cut" => {
                let (side, rest, length) =
                    (hosts(world, words[1])?, hosts(world, words[2])?, ms(3)?);
                Fault::Split { side, rest, cut, one_way, length }
            }
            "split" => {
                let (side, rest, length) =
                    (hosts(world, words[1])?, hosts(world, words[3])?, ms(4)?);
                Fault::Split { side, rest, cut, one_way, length }
            }
            "slow" => Fault::Slow(one(1)?, one(2)?, ms(3)?, ms(4)?),
            "clog" => Fault::Clog(one(1)?, one(2)?, ms(3)?),
            "flap" => Fault::Flap(one(1)?, one(2)?, 5, ms(3)?),
            "break" => Fault::Break(one(1)?, one(2)?),
            "burden" => Fault::Burden(one(1)?, ms(2)? / MS, ms(3)?),
            "disk_slow" => Fault::DiskSlow(one(1)?, ms(2)? / MS, ms(3)?),
            "disk_stall" => Fault::DiskStall(one(1)?, ms(2)?),
            "data_stall" => Fault::DataStall(one(1)?, ms(2)?),
            "disk_full" => {
                let left = words.get(2)?.parse().ok()?;
                Fault::DiskFull(one(1)?, left, ms(3)?)
            }
            "disk_keeps" => Fault::DiskKeeps(one(1)?, ms(2)?),
            "disk_fails" => Fault::DiskFails(one(1)?, words.get(2)?.parse().ok()?),
            "mute" => Fault::Mute(one(1)?, one(2)?, ms(3)?),
            "stall" => Fault::Stall(one(1)?, one(2)?, ms(3)?),
            "linger" => Fault::Linger(one(1)?, one(2)?, ms(3)?),
            "restart" => return Some(Deed::Restart(one(1)?, words.contains(&"empty"))),
            "revive" => return Some(Deed::Revive(one(1)?, words.contains(&"empty"))),
            "rot" => {
                let redo = words.contains(&"redo");
                let kind = if redo { Rotting::Redo } else { Rotting::Checkpoints };
                return Some(Deed::Rot(one(1)?, kind));
            }
            "come" => {
                let group = words.get(2).map(|group| group.parse()).transpose().ok()?;
                return Some(Deed::Come(one(1)?, group));
            }
            "order" => return Some(Deed::Order(order(&words[1..])?)),
            "lie" => return Some(Deed::Lie(one(1)?)),
            "backup" => return Some(Deed::Backup),
            "remove_backups" => return Some(Deed::RemoveBackups),
            "ghost" => return Some(Deed::Ghost(one(1)?)),
            _ => return None,
        }))
    }
}

/// Sets a script's traps in a world.
///
/// # Panics
/// If a line is not understood.
pub fn arm(world: &mut World, traps: &[Vec<String>]) {
    for words in traps {
        let text = words.join(" ");
        arm_one(world, words).unwrap_or_else(|| panic!("not understood: on {text}"));
    }
}

fn arm_one(world: &mut World, words: &[String]) -> Option<()> {
    let after = |word: &str| {
        let at = words.iter().position(|other| other == word)?;
        words.get(at + 1).map(String::as_str)
    };
    let count = words.iter().find_map(|word| word.strip_prefix('#')?.parse::<u32>().ok());
    if words.first()? == "mark" {
        let mark = words.get(1).filter(|name| *name != "any").cloned();
        let at = after("at").map(|name| host(world, name));
        let number = |word: &str| after(word)?.parse::<u64>().ok();
        let blow = if let Some(links) = number("prefix") {
            Blow::Prefix(usize::try_from(links).ok()?)
        } else if let Some(length) = number("pause") {
            Blow::Pause(length * MS)
        } else if let Some(later) = number("disk_fails") {
            Blow::DiskFails(later)
        } else if words.iter().any(|word| word == "only_clients") {
            Blow::OnlyClients
        } else if words.iter().any(|word| word == "blackout") {
            Blow::Blackout(Fate::Nothing)
        } else if words.iter().any(|word| word == "cut_off") {
            Blow::CutOff
        } else if words.iter().any(|word| word == "before_outputs") {
            Blow::OutputsLost
        } else {
            return None;
        };
        let left = count.unwrap_or(1) - 1;
        world.ambush = Some(Ambush { host: at.flatten(), mark, left, blow });
        return Some(());
    }
    let has = |word: &str| words.iter().any(|other| other == word);
    let price = if let Some(at) = words.iter().position(|word| word == "do") {
        let Deed::Fault(fault) = Act(words[at + 1..].to_vec()).find(world)? else { return None };
        world.provoked.push(fault);
        Price::Fault(world.provoked.len() - 1)
    } else if let Some(length) = after("stall") {
        Price::Time(length.parse::<u64>().ok()? * MS)
    } else if has("break") {
        Price::Connection
    } else if has("kill") {
        let victim = after("kill").filter(|name| !matches!(*name, "before" | "after"));
        Price::Death(victim.and_then(|name| host(world, name)), has("before"))
    } else {
        return None;
    };
    world.watches.push(Watch {
        from: after("from").and_then(|name| host(world, name)),
        to: after("to").and_then(|name| host(world, name)),
        name: words.first()?.clone(),
        left: count.unwrap_or(1),
        price,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_and_a_wrong_line_is_named() {
        let text = "# why\nshape 1x3\nat 100 kill n1\non Prepare from n1 #2 kill after\n\
                    expect members n2 n3\nexpect mark takeover_begun # or not\n";
        let script = Script::parse("some", text).unwrap();
        assert_eq!((script.shape.groups, script.shape.replicas), (1, 3));
        assert_eq!(script.acts.len(), 1);
        assert_eq!(script.traps[0][3], "#2");
        assert_eq!(script.expected[1], Expected::Mark("takeover_begun".into()));
        assert!(Script::parse("some", "shape 2y2").unwrap_err().contains("shape 2y2"));
    }
}
