//! Pages of one partition's rows in key order, each row committed: for export and checks, from
//! whichever in-sync replica the client names.

use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::limits::{SCAN_PAGE_BYTES_MAX, SCAN_PAGE_ROWS_MAX};
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::wire::data::Message;

use super::ShardCore;
use super::answers::Owed;
use super::read::Blocked;
use super::snapshot::put_row;

/// What a client asked for.
pub(super) struct ScanRequest {
    pub(super) link: LinkId,
    pub(super) request: u64,
    table: TableId,
    schema: SchemaVersion,
    partition: PartitionId,
    rows_max: u32,
    after: Box<[u8]>,
}

impl ShardCore {
    #[allow(clippy::too_many_arguments, reason = "the words of one request")]
    pub(super) fn on_scan(
        &mut self,
        link: LinkId,
        request: u64,
        (table, schema): (TableId, SchemaVersion),
        partition: PartitionId,
        rows_max: u32,
        after: &[u8],
        out: &mut Outputs,
    ) {
        let after = after.into();
        let scan = ScanRequest { link, request, table, schema, partition, rows_max, after };
        self.run_scan(scan, out);
    }

    /// Captures a page and tells it when all of it is stable. A prepared transaction that touches
    /// the table makes the page wait: it may put or remove rows inside it.
    pub(super) fn run_scan(&mut self, scan: ScanRequest, out: &mut Outputs) {
        let (link, request, p) = (scan.link, scan.request, scan.partition);
        if !self.serves(p) {
            self.refuse_request(link, request, Code::NotReplica, out);
            return;
        }
        let Some(part) = self.parts.get_mut(usize::from(p.0)).and_then(Option::as_mut) else {
            self.refuse_request(link, request, Code::NotReplica, out);
            return;
        };
        let table = match part.tables.get(&scan.table) {
            None => {
                let code = part.why_no_table();
                self.refuse_request(link, request, code, out);
                return;
            }
            Some(table) if table.def.version != scan.schema => {
                self.refuse_request(link, request, Code::WrongSchema, out);
                return;
            }
            Some(table) => table,
        };
        let touching = part
            .prepared
            .iter()
            .find(|(_, tx)| tx.writes().iter().any(|write| write.table == scan.table));
        if let Some((tx, _)) = touching {
            out.mark("scan_waits_for_prepared");
            let tx = *tx;
            part.blocked.entry(tx).or_default().push(Blocked::Scan(Box::new(scan)));
            return;
        }
        let rows_max = usize::try_from(scan.rows_max).unwrap_or(usize::MAX);
        let rows_max = rows_max.clamp(1, SCAN_PAGE_ROWS_MAX);
        let page = table.rows.page(&scan.after, rows_max, SCAN_PAGE_BYTES_MAX);
        let mut rows = Vec::new();
        page.rows.iter().for_each(|row| put_row(&mut rows, row));
        let after = part.end;
        let owed = Owed::Page { link, request, more: page.more, rows: rows.into_boxed_slice() };
        self.owe(p, after, owed, out);
    }

    /// Sends a page whose rows are stable, under the lease.
    pub(super) fn send_page(
        &mut self,
        link: LinkId,
        request: u64,
        more: bool,
        rows: &[u8],
        out: &mut Outputs,
    ) {
        if let Some(buffer) = out.buffer(link) {
            Message::Page { request, more, rows }.encode(buffer);
        }
    }
}
