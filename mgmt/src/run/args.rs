//! The flags of `lockstep run`. All settings have one; it beats the environment and the file.

use std::path::PathBuf;

use lockstep_proto::ids::NodeId;

use crate::config::ADMIN_LISTEN_DEFAULT;
use crate::config::layers::FlagSetting;

/// The kinds of process there are.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum RunCommand {
    /// A data node: it joins the cluster that its first management server creates
    Data(RunDataArgs),
    /// A management server: it creates the cluster and arbitrates
    Mgmt(RunMgmtArgs),
    /// A stand-in arbitrator, for when all management servers are gone: a client of the cluster
    Arbitrator(RunArbitratorArgs),
}

/// Flags of `lockstep run arbitrator`.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArbitratorArgs {
    /// What `lockstep status` calls it
    #[arg(long, value_name = "NAME", default_value = "stand-in")]
    pub name: String,
    /// Where the admin port listens: HTTP for monitors; off for none
    #[arg(long, value_name = "HOST:PORT", default_value = ADMIN_LISTEN_DEFAULT)]
    pub admin: String,
    /// End when the process that started this one ends
    #[arg(long)]
    pub die_with_parent: bool,
}

/// Flags that every process has.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ProcessArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The process's own directory; created if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: Option<String>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where others reach this process, if not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Listen beyond this machine, although strangers can read and write everything there
    #[arg(long)]
    pub insecure: bool,
    /// Where the admin port listens: HTTP for monitors; off for none [default: 127.0.0.1:0]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// What the log on stderr shows: warn, info, debug, or directives
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Write the address to this file when the process listens
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// End when the process that started this one ends
    #[arg(long)]
    pub die_with_parent: bool,
}

/// Flags of `lockstep run data`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RunDataArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "a comment here would become the command's help text")]
    pub process: ProcessArgs,
    /// The availability zone
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// The node id to wish for
    #[arg(long, visible_alias = "id", value_name = "N")]
    pub node: Option<String>,
    /// The node group to join, when the cluster is there already [default: the one in need]
    #[arg(long, value_name = "G")]
    pub group: Option<String>,
    /// How many threads share the node's data [default: one per processor]
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// The management servers, m1 first
    #[arg(long, value_name = "HOST:PORT,…")]
    pub mgmt: Vec<String>,
    /// Reach data node N at ADDR, whatever the view says (for proxies); may be repeated
    #[arg(long = "peer", value_name = "N=ADDR", value_parser = peer)]
    pub peers: Vec<(NodeId, String)>,
    /// Forget this node's own data and copy everything from its node group
    #[arg(long)]
    pub initial: bool,
    /// Start a stopped cluster with the nodes that are here and what damaged redo has left: the
    /// rest is gone for good
    #[arg(long)]
    pub force_start: bool,
    /// Write no redo and no checkpoints, to measure what they cost; nothing comes back
    #[arg(long, hide = true)]
    pub volatile: bool,
}

/// Flags of `lockstep run mgmt`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RunMgmtArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "a comment here would become the command's help text")]
    pub process: ProcessArgs,
    /// The server's place in the list of management servers, from 1
    #[arg(long, value_name = "N")]
    pub id: Option<String>,
    /// All management servers, m1 first
    #[arg(long, value_name = "HOST:PORT,…")]
    pub mgmt: Vec<String>,
    /// How many node groups share the data
    #[arg(long, value_name = "N")]
    pub groups: Option<String>,
    /// How many nodes hold each row
    #[arg(long, value_name = "N")]
    pub replicas: Option<String>,
    /// The availability zones
    #[arg(long, value_name = "ZONE,…")]
    pub zones: Vec<String>,
    /// How many slices each table has, a power of two
    #[arg(long, value_name = "N")]
    pub partitions: Option<String>,
    /// The time between heartbeats
    #[arg(long, value_name = "TIME")]
    pub heartbeat: Option<String>,
    /// The silence after which a node is given up
    #[arg(long, value_name = "TIME")]
    pub suspicion: Option<String>,
    /// The length of an epoch
    #[arg(long, value_name = "TIME")]
    pub tick: Option<String>,
    /// How long an open transaction may be idle before it is aborted
    #[arg(long, value_name = "TIME")]
    pub transaction_idle: Option<String>,
    /// How often each partition that has changed is written to a checkpoint
    #[arg(long, value_name = "TIME")]
    pub checkpoint_interval: Option<String>,
    /// How much data a node may hold
    #[arg(long, value_name = "SIZE")]
    pub data_memory: Option<String>,
    /// Whether a connection's end proves a death: fin, or never where proxies stand between
    #[arg(long, value_name = "fin|never")]
    pub peer_death: Option<String>,
}

/// Collects the flags that were given.
struct Given(Vec<FlagSetting>);

impl Given {
    fn one(mut self, key: &'static str, flag: &'static str, value: &Option<String>) -> Self {
        let values = value.iter().cloned().collect();
        self.0.push(FlagSetting { key, flag, values });
        self
    }

    fn list(mut self, key: &'static str, flag: &'static str, values: &[String]) -> Self {
        self.0.push(FlagSetting { key, flag, values: values.to_vec() });
        self
    }

    fn switch(self, key: &'static str, flag: &'static str, on: bool) -> Self {
        self.one(key, flag, &on.then(|| "true".to_owned()))
    }

    fn take(mut self) -> Vec<FlagSetting> {
        self.0.retain(|given| !given.values.is_empty());
        self.0
    }
}

impl RunDataArgs {
    pub(super) fn flags(&self) -> Vec<FlagSetting> {
        let process = &self.process;
        Given(Vec::new())
            .one("node.dir", "--dir", &process.dir)
            .one("node.listen", "--listen", &process.listen)
            .one("node.advertise", "--advertise", &process.advertise)
            .switch("node.insecure", "--insecure", process.insecure)
            .one("admin.listen", "--admin", &process.admin)
            .one("log.filter", "--log", &process.log)
            .one("node.zone", "--zone", &self.zone)
            .one("node.id", "--node", &self.node)
            .one("node.group", "--group", &self.group)
            .one("node.shards", "--shards", &self.shards)
            .list("cluster.mgmt", "--mgmt", &self.mgmt)
            .take()
    }
}

impl RunMgmtArgs {
    pub(super) fn flags(&self) -> Vec<FlagSetting> {
        let process = &self.process;
        Given(Vec::new())
            .one("mgmt.dir", "--dir", &process.dir)
            .one("mgmt.listen", "--listen", &process.listen)
            .one("mgmt.advertise", "--advertise", &process.advertise)
            .switch("mgmt.insecure", "--insecure", process.insecure)
            .one("admin.listen", "--admin", &process.admin)
            .one("log.filter", "--log", &process.log)
            .one("mgmt.id", "--id", &self.id)
            .list("cluster.mgmt", "--mgmt", &self.mgmt)
            .one("cluster.groups", "--groups", &self.groups)
            .one("cluster.replicas", "--replicas", &self.replicas)
            .list("cluster.zones", "--zones", &self.zones)
            .one("cluster.partitions", "--partitions", &self.partitions)
            .one("cluster.heartbeat", "--heartbeat", &self.heartbeat)
            .one("cluster.suspicion", "--suspicion", &self.suspicion)
            .one("cluster.tick", "--tick", &self.tick)
            .one("cluster.transaction_idle", "--transaction-idle", &self.transaction_idle)
            .one("cluster.checkpoint_interval", "--checkpoint-interval", &self.checkpoint_interval)
            .one("cluster.data_memory", "--data-memory", &self.data_memory)
            .one("cluster.peer_death", "--peer-death", &self.peer_death)
            .take()
    }
}

fn peer(text: &str) -> Result<(NodeId, String), String> {
    let (node, addr) = text.split_once('=').ok_or("it must be N=HOST:PORT")?;
    let node = node.trim_start_matches('n').parse().map_err(|_| "N must be a node id")?;
    match addr.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok((NodeId(node), addr.to_owned()))
        }
        _ => Err("ADDR must be host:port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_were_given_become_settings() {
        let args = RunDataArgs {
            node: Some("3".to_owned()),
            mgmt: vec!["m1:1".to_owned(), "m2:2".to_owned()],
            ..RunDataArgs::default()
        };
        let keys: Vec<_> = args.flags().into_iter().map(|given| (given.key, given.flag)).collect();
        assert_eq!(keys, [("node.id", "--node"), ("cluster.mgmt", "--mgmt")]);
        assert!(RunMgmtArgs::default().flags().is_empty());
    }

    #[test]
    fn every_setting_has_a_flag() {
        let text = || Some(String::new());
        let process = ProcessArgs {
            dir: text(),
            listen: text(),
            advertise: text(),
            insecure: true,
            admin: text(),
            log: text(),
            ..ProcessArgs::default()
        };
        let (zone, node, shards, group) = (text(), text(), text(), text());
        let mgmt = vec![String::new()];
        let data = RunDataArgs {
            process: process.clone(),
            zone,
            node,
            group,
            shards,
            mgmt: mgmt.clone(),
            peers: Vec::new(),
            initial: false,
            force_start: false,
            volatile: false,
        };
        assert_eq!(data.flags().len(), crate::config::DATA_KEYS.len());
        let mgmt = RunMgmtArgs {
            process,
            id: text(),
            mgmt: mgmt.clone(),
            groups: text(),
            replicas: text(),
            zones: mgmt,
            partitions: text(),
            heartbeat: text(),
            suspicion: text(),
            tick: text(),
            transaction_idle: text(),
            checkpoint_interval: text(),
            data_memory: text(),
            peer_death: text(),
        };
        assert_eq!(mgmt.flags().len(), crate::config::MGMT_KEYS.len());
    }

    #[test]
    fn peers_are_node_and_address() {
        assert_eq!(peer("3=127.0.0.1:7"), Ok((NodeId(3), "127.0.0.1:7".to_owned())));
        assert_eq!(peer("n3=h:7"), Ok((NodeId(3), "h:7".to_owned())));
        for wrong in ["3", "x=h:7", "3=h", "3=:7", "3=h:99999"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }
}
