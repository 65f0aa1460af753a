//! What a comparison of replicas came to, and how that is told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use lockstep_proto::ids::{Epoch, GroupId, NodeId, PartitionId};
use lockstep_proto::schema::{CATALOG, TableDef};
use lockstep_proto::view::{Standing, View};
use serde_json::{Value, json};

use super::digest::Digest;
use crate::cli::output::{table, thousands};

/// What one replica of a partition has of every table, in their order; `None`: not even the table.
pub type Contents = Vec<Option<Digest>>;

/// Where digests of the same partition meet.
pub struct Meeting {
    waiting: BTreeMap<PartitionId, Vec<(NodeId, Contents)>>,
    comparison: Comparison,
}

impl Meeting {
    /// Nothing has been read.
    #[must_use]
    pub fn new(view: &Arc<View>, epoch: Epoch, tables: &[Arc<TableDef>]) -> Self {
        let comparison = Comparison {
            view: Arc::clone(view),
            epoch,
            tables: tables.iter().map(|table| (Arc::clone(table), 0)).collect(),
            replicas: 0,
            differences: Vec::new(),
        };
        Self { waiting: BTreeMap::new(), comparison }
    }

    /// A replica has been read; the last one of a partition lets all of them be compared.
    pub fn take(&mut self, partition: PartitionId, node: NodeId, contents: Contents) {
        let view = Arc::clone(&self.comparison.view);
        let Some(placement) = view.placement(partition) else { return };
        self.comparison.replicas += 1;
        let there = self.waiting.entry(partition).or_default();
        there.push((node, contents));
        if there.len() < placement.replicas.len() {
            return;
        }
        let mut replicas = self.waiting.remove(&partition).unwrap_or_default();
        // The primary first.
        replicas.sort_by_key(|(node, _)| (*node != placement.primary, *node));
        for (index, (table, rows)) in self.comparison.tables.iter_mut().enumerate() {
            let digests = replicas.iter_mut().map(|(node, of)| (*node, of[index].take()));
            let digests: Vec<(NodeId, Option<Digest>)> = digests.collect();
            let first = digests.first().and_then(|(_, digest)| digest.as_ref());
            *rows += first.map_or(0, Digest::rows);
            if first.is_none() || digests.iter().any(|(_, digest)| digest.as_ref() != first) {
                let (table, keys) = (Arc::clone(table), Vec::new());
                let difference = Difference { partition, table, replicas: digests, keys };
                self.comparison.differences.push(difference);
            }
        }
    }

    /// Everything has been read.
    #[must_use]
    pub fn end(mut self) -> Comparison {
        self.comparison.differences.sort_by_key(|d| (d.partition, d.table.id));
        self.comparison
    }
}

/// A table of a partition that is not the same everywhere.
#[derive(Debug)]
pub struct Difference {
    /// The partition.
    pub partition: PartitionId,
    /// The table.
    pub table: Arc<TableDef>,
    /// What each replica has, the primary first.
    replicas: Vec<(NodeId, Option<Digest>)>,
    /// Some keys, in words.
    pub keys: Vec<String>,
}

impl Difference {
    /// Whether some replica does not even know the table.
    #[must_use]
    pub fn lacks_table(&self) -> bool {
        self.replicas.iter().any(|(_, digest)| digest.is_none())
    }

    /// Two replicas with different rows, and a slice in which they are.
    #[must_use]
    pub fn pair(&self) -> Option<(NodeId, NodeId, usize)> {
        let mut known = self.replicas.iter().filter_map(|(n, digest)| Some((*n, digest.as_ref()?)));
        let (one, digest) = known.next()?;
        known.find_map(|(other, of)| Some((one, other, digest.first_difference(of)?)))
    }

    fn json(&self) -> Value {
        let replica = |(node, digest): &(NodeId, Option<Digest>)| {
            json!({
                "node": node.0,
                "rows": digest.as_ref().map(Digest::rows),
                "digest": digest.as_ref().map(|digest| format!("{:016x}", digest.sum())),
            })
        };
        json!({
            "partition": self.partition.0,
            "table": self.table.name(),
            "replicas": self.replicas.iter().map(replica).collect::<Vec<Value>>(),
            "keys": self.keys,
        })
    }

    fn describe(&self) -> String {
        let replica = |(node, digest): &(NodeId, Option<Digest>)| match digest {
            Some(of) => format!("{node} {} rows {:016x}", thousands(of.rows()), of.sum()),
            None => format!("{node} does not have the table"),
        };
        let replicas: Vec<String> = self.replicas.iter().map(replica).collect();
        let mut text = format!(
            "different: {} of table {}: {}\n",
            self.partition,
            self.table.name(),
            replicas.join("; ")
        );
        for key in &self.keys {
            let _ = writeln!(text, "  key {key}");
        }
        text
    }
}

/// A node group without all of its replicas.
struct Shortage {
    group: GroupId,
    in_sync: usize,
    joining: Vec<NodeId>,
}

/// What a comparison came to.
pub struct Comparison {
    /// Whose replicas they are.
    pub view: Arc<View>,
    /// The moment everything is of.
    pub epoch: Epoch,
    /// All tables, each with its rows, counted once.
    tables: Vec<(Arc<TableDef>, u64)>,
    /// Replicas of partitions that were read.
    pub replicas: usize,
    /// What is not the same.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Whether all replicas that are there have the same rows.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }

    /// Rows of all tables but the catalog, counted once.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let own = self.tables.iter().filter(|(table, _)| table.id != CATALOG);
        own.map(|(_, rows)| rows).sum()
    }

    /// The differences in words.
    #[must_use]
    pub fn in_words(&self) -> Vec<String> {
        let line = |difference: &Difference| difference.describe().trim_end().to_owned();
        self.differences.iter().map(line).collect()
    }

    fn shortages(&self) -> Vec<Shortage> {
        let wanted = usize::from(self.view.config.replicas);
        let of_group = |group| {
            let members = || self.view.members.iter().filter(move |m| m.group == group);
            let joining = members().filter(|member| member.standing != Standing::InSync);
            let joining: Vec<NodeId> = joining.map(|member| member.instance.node).collect();
            let in_sync = members().count() - joining.len();
            Shortage { group, in_sync, joining }
        };
        let all = self.view.groups().into_iter().map(of_group);
        all.filter(|shortage| shortage.in_sync < wanted).collect()
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let view = &self.view;
        let shortages = self.shortages();
        let missing = |shortage: &Shortage| {
            json!({
                "group": shortage.group.0,
                "in_sync": shortage.in_sync,
                "wanted": view.config.replicas,
                "joining": shortage.joining.iter().map(|node| node.0).collect::<Vec<u16>>(),
            })
        };
        let of_table =
            |(table, rows): &(Arc<TableDef>, u64)| json!({ "name": table.name(), "rows": rows });
        json!({
            "schema": "lockstep.check-cluster/v1",
            "cluster": view.cluster.to_string(),
            "equal": self.is_equal(),
            "epoch": self.epoch.0,
            "generation": view.restart_generation.0,
            "view": view.number.0,
            "partitions": view.placements.len(),
            "replicas": self.replicas,
            "rows": self.rows(),
            "tables": self.tables.iter().map(of_table).collect::<Vec<Value>>(),
            "full_redundancy": shortages.is_empty(),
            "missing": shortages.iter().map(missing).collect::<Vec<Value>>(),
            "differences": self.differences.iter().map(Difference::json).collect::<Vec<Value>>(),
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let view = &self.view;
        let cells =
            |(table, rows): &(Arc<TableDef>, u64)| vec![table.name().to_owned(), thousands(*rows)];
        let rows: Vec<Vec<String>> = self.tables.iter().map(cells).collect();
        let mut text = format!(
            "cluster {}, view {}: {} replicas of {} partitions as of epoch {}\n\n{}\n",
            view.cluster,
            view.number.0,
            self.replicas,
            view.placements.len(),
            self.epoch.0,
            table(&["table", "rows"], &rows)
        );
        for Shortage { group, in_sync, joining } in self.shortages() {
            let wanted = view.config.replicas;
            let _ = write!(text, "redundancy not full: {group} has {in_sync} of {wanted} replicas");
            for node in joining {
                let _ = write!(text, ", {node} is coming back");
            }
            text.push('\n');
        }
        self.differences.iter().for_each(|difference| text += &difference.describe());
        text += if self.is_equal() {
            "all replicas in sync have the same rows\n"
        } else {
            "REPLICAS DIFFER\n\
             This must never happen. Keep the logs and directories of these nodes, and what each \
             of them has\n(`lockstep table export TABLE --from-node NODE`), and report it.\n"
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::ids::{
        ClusterId, Incarnation, NodeInstance, RestartGeneration, ViewNumber,
    };
    use lockstep_proto::roster::Roster;
    use lockstep_proto::schema::catalog_def;
    use lockstep_proto::view::{ClusterConfig, Member, Placement};

    use super::*;

    const ROWS: [(&str, &str); 2] = [("a", "1"), ("b", "2")];

    /// One group of two replicas; these nodes of it are there.
    fn view(nodes: &[u16]) -> Arc<View> {
        let group = GroupId(1);
        let member = |node: &u16| Member {
            instance: NodeInstance { node: NodeId(*node), incarnation: Incarnation(1) },
            group,
            zone: String::new(),
            addr: String::new(),
            shards: 1,
            seniority: u64::from(*node),
            standing: Standing::InSync,
        };
        let placement = |local_index| Placement {
            group,
            local_index,
            primary: NodeId(nodes[0]),
            replicas: nodes.iter().copied().map(NodeId).collect(),
            joining: Vec::new(),
            to: None,
        };
        Arc::new(View {
            cluster: ClusterId(7),
            number: ViewNumber(3),
            config: ClusterConfig { replicas: 2, ..ClusterConfig::default() },
            roster: Roster::of(&nodes.iter().map(member).collect::<Vec<_>>()),
            members: nodes.iter().map(member).collect(),
            placements: (0..2).map(placement).collect(),
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            configured: lockstep_proto::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: Epoch(0),
            restart_generation: RestartGeneration(1),
            cuts: Vec::new(),
        })
    }

    fn digest(rows: &[(&str, &str)]) -> Option<Digest> {
        let mut digest = Digest::default();
        rows.iter().for_each(|(key, row)| digest.add(key.as_bytes(), row.as_bytes()));
        Some(digest)
    }

    /// Two partitions; the second replica of the second one has this.
    fn compared(last: Option<Digest>) -> Comparison {
        let tables = [Arc::new(catalog_def().clone())];
        let mut meeting = Meeting::new(&view(&[1, 2]), Epoch(9), &tables);
        let (first, second) = (PartitionId(0), PartitionId(1));
        meeting.take(second, NodeId(2), vec![last]);
        meeting.take(first, NodeId(1), vec![digest(&ROWS)]);
        meeting.take(second, NodeId(1), vec![digest(&ROWS)]);
        meeting.take(first, NodeId(2), vec![digest(&ROWS)]);
        meeting.end()
    }

    #[test]
    fn the_same_rows_are_equal() {
        let comparison = compared(digest(&[ROWS[1], ROWS[0]]));
        assert!(comparison.is_equal());
        let json = comparison.json();
        assert_eq!((&json["equal"], &json["full_redundancy"]), (&true.into(), &true.into()));
        assert_eq!((&json["replicas"], &json["tables"][0]["rows"]), (&4.into(), &4.into()));
        assert!(comparison.text().ends_with("have the same rows\n"), "{}", comparison.text());
    }

    #[test]
    fn different_digests_are_a_difference_of_that_partition() {
        for other in [digest(&[ROWS[0], ("b", "3")]), digest(&ROWS[..1]), digest(&[]), None] {
            let comparison = compared(other.clone());
            assert!(!comparison.is_equal(), "{other:?}");
            let json = comparison.json();
            assert_eq!(json["equal"], false);
            assert_eq!(json["differences"].as_array().map(Vec::len), Some(1));
            let difference = &json["differences"][0];
            assert_eq!(
                (&difference["partition"], &difference["table"]),
                (&1.into(), &"catalog".into())
            );
            assert_eq!(difference["replicas"][0]["node"], 1, "the primary first");
            let digests = [0, 1].map(|replica| difference["replicas"][replica]["digest"].clone());
            assert_ne!(digests[0], digests[1]);
            assert_eq!(comparison.differences[0].lacks_table(), other.is_none());
            assert_eq!(comparison.differences[0].pair().is_some(), other.is_some());
            assert!(comparison.text().contains("REPLICAS DIFFER"), "{}", comparison.text());
        }
    }

    #[test]
    fn a_missing_replica_is_said_and_is_no_difference() {
        let tables = [Arc::new(catalog_def().clone())];
        let mut meeting = Meeting::new(&view(&[2]), Epoch(9), &tables);
        for partition in [0, 1].map(PartitionId) {
            meeting.take(partition, NodeId(2), vec![digest(&ROWS)]);
        }
        let comparison = meeting.end();
        let json = comparison.json();
        assert_eq!((&json["equal"], &json["full_redundancy"]), (&true.into(), &false.into()));
        assert_eq!((&json["missing"][0]["in_sync"], &json["replicas"]), (&1.into(), &2.into()));
        let text = comparison.text();
        assert!(text.contains("redundancy not full: g1 has 1 of 2 replicas"), "{text}");
    }
}
