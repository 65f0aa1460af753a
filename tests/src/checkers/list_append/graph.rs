//! Which transaction must come before which, and the search for a cycle.
//!
//! Nodes are the transactions that took effect and two kinds of helpers that keep the number of
//! edges linear: one *barrier* per completion (whoever ended before it, comes before whoever
//! began after it) and one *end of list* per key (whoever read all of it, comes before whoever
//! appended something nobody read).
//!
//! Invariant: a path through helpers alone never leads from a transaction back to itself, so
//! every cycle holds at least two transactions.

use std::collections::VecDeque;
use std::fmt::Write;

use super::versions::{Tx, VersionOrders, committed_reads};
use super::{Anomaly, Violation};
use crate::checkers::history::Transaction;

/// Why one node comes before another; the values are bits of a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    /// The target wrote the version after the source's.
    WriteWrite = 1,
    /// The target read what the source wrote.
    WriteRead = 2,
    /// The source read the version before the target's.
    ReadWrite = 4,
    /// From the end of a list to those who appended beyond it; belongs to the edge before it.
    Beyond = 8,
    /// The source ended before the target began.
    RealTime = 16,
}

const WRITES: u8 = Kind::WriteWrite as u8;
const INFORMATION: u8 = WRITES | Kind::WriteRead as u8;
const ALL_DATA: u8 = INFORMATION | Kind::ReadWrite as u8 | Kind::Beyond as u8;
const REAL_TIME: u8 = Kind::RealTime as u8;

/// How many edges or nodes of a component are tried for a short witness.
const TRIES_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    kind: Kind,
    key: u64,
}

/// The transactions of a history and what must come before what.
pub(super) struct Graph {
    edges: Vec<Vec<Edge>>,
}

/// A closed path: each node with the edge that leaves it.
type Cycle = Vec<(usize, Edge)>;

impl Graph {
    /// Derives all edges.
    pub(super) fn build(txs: &[Transaction], versions: &VersionOrders) -> Self {
        let mut graph = Self { edges: vec![Vec::new(); txs.len()] };
        let ends = graph.add_writes(versions);
        graph.add_reads(txs, versions, &ends);
        graph.add_real_time(txs, versions);
        graph
    }

    /// Looks for a cycle, the most damning kind first.
    pub(super) fn check(&self, txs: &[Transaction]) -> Result<(), Violation> {
        if self.component(ALL_DATA | REAL_TIME).is_none() {
            return Ok(());
        }
        for (mask, anomaly, anomaly_single) in [
            (WRITES, Anomaly::G0, None),
            (INFORMATION, Anomaly::G1c, None),
            (ALL_DATA, Anomaly::G2, Some(Anomaly::GSingle)),
            (WRITES | REAL_TIME, Anomaly::G0RealTime, None),
            (INFORMATION | REAL_TIME, Anomaly::G1cRealTime, None),
            (ALL_DATA | REAL_TIME, Anomaly::G2RealTime, Some(Anomaly::GSingleRealTime)),
        ] {
            let Some(component) = self.component(mask) else { continue };
            let single =
                anomaly_single.and_then(|name| Some((name, self.single(mask, &component)?)));
            let (anomaly, cycle) =
                single.unwrap_or_else(|| (anomaly, self.shortest(mask, &component)));
            return Err(Violation { anomaly, witness: witness(&cycle, txs) });
        }
        unreachable!("the last mask is that of the first search")
    }

    fn add(&mut self, from: usize, to: usize, kind: Kind, key: u64) {
        if from != to {
            self.edges[from].push(Edge { to, kind, key });
        }
    }

    fn add_node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    /// Edges between writers of one list. Returns the helper node at the end of every list, in
    /// order of key.
    fn add_writes(&mut self, versions: &VersionOrders) -> Vec<usize> {
        let mut ends = Vec::new();
        for (&key, list) in &versions.lists {
            for pair in list.order.windows(2) {
                let (from, to) = (versions.writer(key, pair[0]), versions.writer(key, pair[1]));
                self.add(from, to, Kind::WriteWrite, key);
            }
            let end = self.add_node();
            let last = list.order.last().map(|&element| versions.writer(key, element));
            for &(_, writer) in &list.unobserved {
                self.add(end, writer, Kind::Beyond, key);
                if let Some(last) = last {
                    self.add(last, writer, Kind::WriteWrite, key);
                }
            }
            ends.push(end);
        }
        ends
    }

    /// Edges between readers and the writers of what they saw and of what they missed.
    fn add_reads(&mut self, txs: &[Transaction], versions: &VersionOrders, ends: &[usize]) {
        let position: Vec<u64> = versions.lists.keys().copied().collect();
        for (reader, key, list) in committed_reads(txs) {
            let known = &versions.lists[&key];
            if let Some(&last) = list.last() {
                self.add(versions.writer(key, last), reader, Kind::WriteRead, key);
            }
            if let Some(&next) = known.order.get(list.len()) {
                self.add(reader, versions.writer(key, next), Kind::ReadWrite, key);
            } else if known.unobserved.iter().any(|&(_, writer)| writer == reader) {
                for &(_, writer) in &known.unobserved {
                    self.add(reader, writer, Kind::ReadWrite, key);
                }
            } else {
                let index = position.binary_search(&key).expect("every list read has an entry");
                self.add(reader, ends[index], Kind::ReadWrite, key);
            }
        }
    }

    fn add_real_time(&mut self, txs: &[Transaction], versions: &VersionOrders) {
        let effective = |tx: &Tx| versions.effective[*tx];
        let mut ended: Vec<(usize, Tx)> = (0..txs.len())
            .filter(effective)
            .filter_map(|tx| txs[tx].end.map(|end| (end, tx)))
            .collect();
        ended.sort_unstable();
        let mut ended = ended.into_iter().peekable();
        let mut barrier: Option<usize> = None;
        for tx in (0..txs.len()).filter(effective) {
            while let Some((_, before)) = ended.next_if(|&(end, _)| end < txs[tx].begin) {
                let next = self.add_node();
                if let Some(barrier) = barrier {
                    self.add(barrier, next, Kind::RealTime, 0);
                }
                self.add(before, next, Kind::RealTime, 0);
                barrier = Some(next);
            }
            if let Some(barrier) = barrier {
                self.add(barrier, tx, Kind::RealTime, 0);
            }
        }
    }

    fn edges(&self, from: usize, mask: u8) -> impl Iterator<Item = Edge> {
        self.edges[from].iter().copied().filter(move |edge| edge.kind as u8 & mask != 0)
    }

    /// The first strongly connected component of several nodes (Tarjan, without recursion),
    /// in order of node.
    fn component(&self, mask: u8) -> Option<Vec<usize>> {
        const NEW: usize = usize::MAX;
        let mut index = vec![NEW; self.edges.len()];
        let mut low = vec![NEW; self.edges.len()];
        let mut on_stack = vec![false; self.edges.len()];
        let mut stack = Vec::new();
        let mut count = 0;
        for root in 0..self.edges.len() {
            if index[root] != NEW {
                continue;
            }
            let mut path = vec![(root, 0)];
            while let Some((node, edge)) = path.pop() {
                if edge == 0 {
                    index[node] = count;
                    low[node] = count;
                    count += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                if let Some(next) = self.edges[node].get(edge) {
                    path.push((node, edge + 1));
                    if next.kind as u8 & mask == 0 {
                        continue;
                    }
                    if index[next.to] == NEW {
                        path.push((next.to, 0));
                    } else if on_stack[next.to] {
                        low[node] = low[node].min(index[next.to]);
                    }
                    continue;
                }
                if let Some(&(parent, _)) = path.last() {
                    low[parent] = low[parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let start = stack.iter().rposition(|&n| n == node).expect("node is on stack");
                    let mut component = stack.split_off(start);
                    component.iter().for_each(|&n| on_stack[n] = false);
                    if component.len() > 1 {
                        component.sort_unstable();
                        return Some(component);
                    }
                }
            }
        }
        None
    }

    /// A short cycle through exactly one read that missed a write.
    fn single(&self, mask: u8, component: &[usize]) -> Option<Cycle> {
        let missed = component.iter().flat_map(|&from| {
            self.edges(from, Kind::ReadWrite as u8).map(move |edge| (from, edge))
        });
        let rest = mask & !(Kind::ReadWrite as u8);
        missed
            .filter(|(_, edge)| component.binary_search(&edge.to).is_ok())
            .take(TRIES_MAX)
            .filter_map(|(from, edge)| {
                let mut cycle = vec![(from, edge)];
                cycle.extend(self.path(edge.to, from, rest, component)?);
                Some(cycle)
            })
            .min_by_key(Vec::len)
    }

    /// A short cycle of whatever edges.
    fn shortest(&self, mask: u8, component: &[usize]) -> Cycle {
        let starts = component.iter().take(TRIES_MAX);
        starts
            .filter_map(|&start| self.path(start, start, mask, component))
            .min_by_key(Vec::len)
            .expect("every node of a component is on a cycle")
    }

    /// The shortest path of at least one edge inside a component.
    fn path(&self, from: usize, to: usize, mask: u8, component: &[usize]) -> Option<Cycle> {
        let mut came: Vec<Option<(usize, Edge)>> = vec![None; component.len()];
        let slot = |node: usize| component.binary_search(&node).ok();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for edge in self.edges(node, mask) {
                let Some(index) = slot(edge.to) else { continue };
                if came[index].is_none() {
                    came[index] = Some((node, edge));
                    queue.push_back(edge.to);
                }
                if edge.to != to {
                    continue;
                }
                let mut path = Vec::new();
                let mut end = to;
                loop {
                    let step = came[slot(end)?]?;
                    path.push(step);
                    end = step.0;
                    if end == from {
                        path.reverse();
                        return Some(path);
                    }
                }
            }
        }
        None
    }
}

/// The cycle in words, one transaction a line; helper nodes are left out.
fn witness(cycle: &Cycle, txs: &[Transaction]) -> String {
    let first = cycle.iter().position(|&(node, _)| node < txs.len());
    let first = first.expect("every cycle holds transactions");
    let mut text = String::from("no order explains these transactions");
    for step in 0..cycle.len() {
        let (node, edge) = cycle[(first + step) % cycle.len()];
        if node < txs.len() {
            let key = edge.key;
            let why = match edge.kind {
                Kind::WriteWrite => format!("its append to key {key} comes before that of"),
                Kind::WriteRead => format!("its append to key {key} was read by"),
                Kind::ReadWrite => format!("it read key {key} without the append of"),
                Kind::Beyond => unreachable!("only helper nodes have such edges"),
                Kind::RealTime => "it ended before the beginning of".to_owned(),
            };
            let _ = write!(text, "\n  {}\n    {why} (next)", txs[node]);
        }
    }
    text.push_str("\n  (back to the first)");
    text
}
