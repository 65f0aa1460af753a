//! Every bound of the system in one place, each with its reason.

use std::time::Duration;

/// Longest frame body accepted from anybody: a one-mebibyte row, its key, and room for a batch.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Longest encoded row value; larger rows belong in an object store.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// Longest encoded primary key; keys are copied into lock tables and records.
pub const KEY_BYTES_MAX: usize = 4096;

/// Most operations in one batch: bounds the time one message can keep a shard busy.
pub const BATCH_OPS_MAX: usize = 4096;

/// Most partitions in a cluster; the partition is 16 bits on the wire.
pub const PARTITIONS_MAX: usize = 4096;

/// Most replicas of a partition.
pub const REPLICAS_MAX: usize = 4;

/// Most data nodes; member sets are walked linearly in control messages.
pub const NODES_MAX: usize = 144;

/// Orders of operators that wait for the president; each is repeated by whoever gave it.
pub const ORDERS_MAX: usize = 64;

/// Most columns of a table; the null bitmap and column lists stay small.
pub const COLUMNS_MAX: usize = 1024;

/// Most columns of a primary key; every operation walks them.
pub const KEY_COLUMNS_MAX: usize = 32;

/// Most tables of a cluster; each costs a fragment per partition.
pub const TABLES_MAX: usize = 20_000;

/// Longest table or column name in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// How many epochs a client's epoch may be ahead of a node's before it is refused (100 s of ticks):
/// a wild client must not push the cluster's clock.
pub const EPOCH_AHEAD_MAX: u64 = 10_000;

/// How many epochs a transaction id lives (10 min at the default tick).
pub const TX_EXPIRY_EPOCHS: u64 = 60_000;

/// How many closed epochs can be read at any time (1 s at the default tick): long enough for a
/// client to hear of an epoch and ask all shards for rows of it.
pub const SNAPSHOT_EPOCHS_KEPT: u64 = 100;

/// Bytes of tombstones of one partition: a replica that was away while more was deleted, or a
/// checkpoint that comes too late, gets all rows instead of the changed ones.
pub const TOMBSTONES_BYTES_MAX: usize = 16 << 20;

/// Into how many slices checkpoints cut the rows of a partition: each writes one of them beside
/// what has changed, and a restore reads as many files.
pub const CHECKPOINT_SLICES: u16 = 8;

/// Open transactions per coordinator shard; more are refused as busy.
pub const TRANSACTIONS_OPEN_MAX: usize = 100_000;

/// Answers a shard may owe to clients before it refuses new work as busy.
pub const ANSWERS_OWED_MAX: usize = 1_000_000;

/// Bytes waiting to be sent to one client before it is cut off: it does not read its answers.
pub const CLIENT_UNSENT_BYTES_MAX: usize = 64 << 20;

/// Frames of a newer view held until the receiver acts in it, per shard.
pub const FRAMES_HELD_MAX: usize = 100_000;

/// Rows in one page of a scan.
pub const SCAN_PAGE_ROWS_MAX: usize = 4096;

/// Bytes in one page of a scan; with one row of the largest size it still fits a frame.
pub const SCAN_PAGE_BYTES_MAX: usize = 1 << 20;

/// Views and proposals one side lists when it asks the arbitrator: what piled up since its last
/// registered view. Sixty-four failures in a row without reaching the arbitrator are not a split.
pub const LINEAGE_VIEWS_MAX: usize = 64;

/// Most shard cores of a node; the shard is in the high 12 bits of a session's counter.
pub const SHARDS_MAX: u16 = 255;

/// Longest `host:port` and longest zone name accepted from a newcomer; they travel in every view.
pub const ADDR_BYTES_MAX: usize = 256;

/// Events that a management server keeps: a few years of a quiet cluster, or a day of a bad one.
pub const EVENTS_MAX: usize = 1000;

/// Events in one answer.
pub const EVENTS_PER_ANSWER_MAX: usize = 256;

/// API nodes that may offer themselves as arbitrators to one data node at a time: one is enough,
/// and each is told every view.
pub const API_ARBITRATORS_MAX: usize = 16;

/// Answers of a management server that wait for its disk; more are dropped, and who asked asks
/// again.
pub const ANSWERS_HELD_MAX: usize = 100_000;

/// How long records may wait in memory before their epochs are made durable: what a power cut of
/// all machines may cost those who did not ask for more.
pub const REDO_FLUSH: Duration = Duration::from_millis(100);

/// How often a full disk is tried again.
pub const REDO_RETRY: Duration = Duration::from_secs(1);

/// A disk that has not answered for this long counts as gone.
pub const REDO_STALL: Duration = Duration::from_secs(5);

/// Stable records kept of one partition for its joiners, in bytes: one that falls behind by more
/// has less to do if it copies what has changed.
pub const KEPT_BYTES_MAX: usize = 8 << 20;

/// Longest pause before a connection that was lost is dialled again.
pub const DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the last replica of a node group may be silent before it is dropped, and the cluster
/// stops for want of it. As long as a member may take to answer a proposal: a machine that takes
/// longer to come to itself is not coming.
pub const LAST_REPLICA_WAIT: Duration = Duration::from_secs(5);

/// Bytes of records that may wait for the disk of a shard before its group refuses writes: a
/// second of a fast disk, and what a node can spare beside its rows.
pub const REDO_WAITING_BYTES_MAX: usize = 256 << 20;

/// Bytes of a redo segment: small enough that space comes back in steps, large enough that a busy
/// shard makes a new file every second at most.
pub const REDO_SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes of records after which a redo group is handed to the disk without waiting for its epoch:
/// bounds the buffers, and the write that one damaged group costs.
pub const REDO_GROUP_BYTES: usize = 1 << 20;

/// Bytes after which a block of a checkpoint is full: what one core loads in well under a
/// millisecond, and what one checksum has to vouch for.
pub const CHECKPOINT_BLOCK_BYTES: usize = 256 << 10;

/// Most slices a partition's rows are cut into for checkpoints: a restore reads as many files.
pub const CHECKPOINT_SLICES_MAX: u16 = 1024;

/// Bytes of the operations of one request: with what is added when they are forwarded, they still
/// fit a frame.
pub const REQUEST_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);

/// Bytes of the results of one answer, for the same reason.
pub const RESULTS_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);

/// Writes of one transaction in one partition.
pub const TX_WRITES_MAX: usize = 32_768;

/// Bytes of keys and values a transaction may write in one partition: its record is replicated as
/// one frame, and says which locks it holds, too.
pub const TX_WRITES_BYTES_MAX: usize = FRAME_BYTES_MAX - (1 << 20);

/// Bytes of one record of a partition log.
pub const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;

/// Changes of the configuration that are kept with the view: it travels to every client.
pub const CONFIG_HISTORY_MAX: usize = 32;

/// Longest name and longest reason of a change of the configuration: they travel in every view.
pub const CONFIG_TEXT_BYTES_MAX: usize = 120;

/// Bytes of rows in a block of a backup, before it is compressed: so little that compressing one
/// between two commits is not felt.
pub const BACKUP_BLOCK_BYTES: usize = 64 << 10;

/// Bytes that a block of a backup may unpack to: one that is nearly full, and the longest row.
pub const BACKUP_BLOCK_BYTES_MAX: usize = BACKUP_BLOCK_BYTES + ROW_BYTES_MAX + KEY_BYTES_MAX + 64;

/// Backups a management server remembers.
pub const BACKUPS_REMEMBERED_MAX: usize = 256;
