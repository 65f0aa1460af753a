//! Known bugs that can be switched on at run time, so that the simulator can prove that it would
//! find them. Production always runs with `None`; a canary is never a cargo feature, because
//! features are unified into the shipped binary.

/// One known bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Canary {
    /// A primary answers before its backups have the record.
    AcknowledgeBeforeBackup,
    /// A coordinator counts votes that are not stable.
    CommitBeforePreparesStable,
    /// "Aborted" is told before an abort record is stable.
    AbortBeforeStable,
    /// A member goes on accepting messages from nodes it has fenced, and of older views.
    NoFencing,
    /// Reads are served without a lease.
    ReadWithoutLease,
    /// Reads return rows whose record is not stable.
    ReadUnstable,
    /// A message of an earlier incarnation is accepted.
    AcceptOldIncarnation,
    /// The arbitrator grants two rivals.
    ArbitratorAnswersTwice,
    /// A side with fewer than half goes on.
    MinorityGoesOn,
    /// A transaction id is applied again.
    ApplyTwice,
    /// An epoch closes although an orphan may commit in it.
    CloseEpochWithOrphan,
    /// A wound of a prepared holder is ignored.
    IgnoreWoundOfPrepared,
    /// A wounded transaction is aborted although all its votes are in.
    AbortWithAllVotes,
    /// An undecided prepare is dropped when its transaction id expires.
    DropPrepareAtExpiry,
    /// A president does not wait for promises to dropped nodes.
    SkipLeaseWait,
    /// The driver reads the clock before the bytes it handles under it.
    ClockBeforeSocket,
    /// A joiner counts before it has its rows.
    JoinerVotes,
    /// A copy begins before its joiner is in the stream of the log.
    CopyBeforeStream,
    /// A copy comes without the undecided prepares.
    CopyWithoutPrepares,
    /// Snapshots are read at an epoch that is not closed.
    SnapshotOfOpenEpoch,
    /// Redo and older checkpoints go before what makes them superfluous is durable everywhere.
    TrimRedoTooEarly,
    /// A node that is being copied to removes what it would need to go back before its own files.
    TidyBehindOwnFiles,
    /// A checkpoint of a copy that was begun anew stays if it is finished after that.
    KeepFirstCopy,
    /// What is copied counts as being on the disk while a checkpoint of the copy before is there.
    CountBeforeRemoved,
    /// Silence is acted on at once while something else is proposed.
    SilenceAmidProposal,
    /// Whoever is linked counts as there, whether it answers or not.
    LinkIsLife,
    /// The redo log is written and not synced.
    SkipFsync,
    /// The rows of a checkpoint are taken whether they match their checksums or not.
    TrustBadChecksum,
    /// A log goes on from any checkpoint, also where the node was copied to in between.
    IgnoreCopied,
    /// A change of the configuration is made whatever version it was meant for.
    ConfigWithoutCompare,
    /// A view with a new arbitrator is acted in before that one has it.
    HandOverBeforeRegister,
    /// A management server that has lost its register makes one up of the first view it is shown.
    MakeUpRegister,
    /// A backup has the newest versions of rows, not those of its epoch.
    BackupOfNow,
    /// A newcomer is told of its seat before all members have the view that gives it.
    SeatToldEarly,
    /// A partition is handed over before its new replicas have what was stable without them.
    HandOverBeforeBarrier,
    /// A partition's files are removed before the view that gives it to others is on the disk.
    DropBeforeStored,
    /// A partition is read where it was until the view that gives it to others has come.
    ReadHandedOver,
    /// A joiner takes over from a lost disk although all disks of another group are lost.
    TakeOverBeyondOthers,
    /// A node takes over what it was given although its own disk is lost.
    TakeOverOnLostDisk,
    /// Partitions move away from under a backup.
    MoveDuringBackup,
    /// Parts of a backup are written before it is on disk at which nodes.
    PartsBeforeRecord,
}

impl Canary {
    /// Every canary.
    pub const ALL: &'static [Canary] = &[
        Self::AcknowledgeBeforeBackup,
        Self::CommitBeforePreparesStable,
        Self::AbortBeforeStable,
        Self::NoFencing,
        Self::ReadWithoutLease,
        Self::ReadUnstable,
        Self::AcceptOldIncarnation,
        Self::ArbitratorAnswersTwice,
        Self::MinorityGoesOn,
        Self::ApplyTwice,
        Self::CloseEpochWithOrphan,
        Self::IgnoreWoundOfPrepared,
        Self::AbortWithAllVotes,
        Self::DropPrepareAtExpiry,
        Self::SkipLeaseWait,
        Self::ClockBeforeSocket,
        Self::JoinerVotes,
        Self::CopyBeforeStream,
        Self::CopyWithoutPrepares,
        Self::SnapshotOfOpenEpoch,
        Self::TrimRedoTooEarly,
        Self::TidyBehindOwnFiles,
        Self::KeepFirstCopy,
        Self::CountBeforeRemoved,
        Self::SilenceAmidProposal,
        Self::LinkIsLife,
        Self::SkipFsync,
        Self::TrustBadChecksum,
        Self::IgnoreCopied,
        Self::ConfigWithoutCompare,
        Self::HandOverBeforeRegister,
        Self::MakeUpRegister,
        Self::BackupOfNow,
        Self::SeatToldEarly,
        Self::HandOverBeforeBarrier,
        Self::DropBeforeStored,
        Self::ReadHandedOver,
        Self::TakeOverBeyondOthers,
        Self::TakeOverOnLostDisk,
        Self::MoveDuringBackup,
        Self::PartsBeforeRecord,
    ];

    /// The name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeBackup => "acknowledge_before_backup",
            Self::CommitBeforePreparesStable => "commit_before_prepares_stable",
            Self::AbortBeforeStable => "abort_before_stable",
            Self::NoFencing => "no_fencing",
            Self::ReadWithoutLease => "read_without_lease",
            Self::ReadUnstable => "read_unstable",
            Self::AcceptOldIncarnation => "accept_old_incarnation",
            Self::ArbitratorAnswersTwice => "arbitrator_answers_twice",
            Self::MinorityGoesOn => "minority_goes_on",
            Self::ApplyTwice => "apply_twice",
            Self::CloseEpochWithOrphan => "close_epoch_with_orphan",
            Self::IgnoreWoundOfPrepared => "ignore_wound_of_prepared",
            Self::AbortWithAllVotes => "abort_with_all_votes",
            Self::DropPrepareAtExpiry => "drop_prepare_at_expiry",
            Self::SkipLeaseWait => "skip_lease_wait",
            Self::ClockBeforeSocket => "clock_before_socket",
            Self::JoinerVotes => "joiner_votes",
            Self::CopyBeforeStream => "copy_before_stream",
            Self::CopyWithoutPrepares => "copy_without_prepares",
            Self::SnapshotOfOpenEpoch => "snapshot_of_open_epoch",
            Self::TrimRedoTooEarly => "trim_redo_too_early",
            Self::TidyBehindOwnFiles => "tidy_behind_own_files",
            Self::KeepFirstCopy => "keep_first_copy",
            Self::CountBeforeRemoved => "count_before_removed",
            Self::SilenceAmidProposal => "silence_amid_proposal",
            Self::LinkIsLife => "link_is_life",
            Self::SkipFsync => "skip_fsync",
            Self::TrustBadChecksum => "trust_bad_checksum",
            Self::IgnoreCopied => "ignore_copied",
            Self::ConfigWithoutCompare => "config_without_compare",
            Self::HandOverBeforeRegister => "hand_over_before_register",
            Self::MakeUpRegister => "make_up_register",
            Self::BackupOfNow => "backup_of_now",
            Self::SeatToldEarly => "seat_told_early",
            Self::HandOverBeforeBarrier => "hand_over_before_barrier",
            Self::DropBeforeStored => "drop_before_stored",
            Self::ReadHandedOver => "read_handed_over",
            Self::TakeOverBeyondOthers => "take_over_beyond_others",
            Self::TakeOverOnLostDisk => "take_over_on_lost_disk",
            Self::MoveDuringBackup => "move_during_backup",
            Self::PartsBeforeRecord => "parts_before_record",
        }
    }
}
