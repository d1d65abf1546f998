//! Bugs put in on purpose, one at a time: each removes one rule of the replication protocol at the place where it is kept. The
//! simulator must catch every one of them, so that we know that it would catch the same mistake made by accident.
//!
//! Without the feature `bugs` (which no binary that serves is built with) [`bug`] is `false` at compile time, and the code
//! behind it is gone.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A rule that can be taken away. Traps as in the traces that broke drafts of the protocol, see docs/SIMULATION.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

bugs! {
    // ---- the sequencer
    /// An append is acknowledged when one shard has it.
    AckBelowQuorum,
    /// An append is acknowledged although one before it is not.
    AckOutOfOrder,
    /// A sequencer releases its records before the epochs before it are decided.
    ReleaseBeforeRecovery,
    /// What lies in write caches only is released (C18).
    ReleaseFromMemory,
    /// What lies in write caches only is settled (C3).
    SettleFromMemory,
    /// The settled mark moves before it is on record what is missing (C12).
    SettleBeforeRecord,
    /// Holders of an earlier wave are not told of the new copyset.
    AmendLost,
    /// An answer to an earlier wave counts for the current one.
    OldWaveCounts,
    /// An epoch's base is one too high.
    BaseOffByOne,
    /// A retry is answered while the first attempt is still on its way (C11).
    DuplicateAnsweredEarly,
    /// The dedup window is not rebuilt after a change of epoch (C11).
    DedupWindowNotRebuilt,
    /// The dedup window is rebuilt from the epoch just before only (C11).
    DedupPreviousEpochOnly,
    /// Idempotent appends are taken before the dedup window is rebuilt (C11).
    DedupDoesNotWait,
    /// A producer snapshot tells of batches that are not acknowledged (C11).
    SnapshotOfUnacknowledged,
    /// Records may be trimmed that alone tell of their producers (C11).
    TrimForgetsProducers,
    /// Records may be trimmed before it is on record where the snapshot lies that tells of their producers (C11).
    TrimBeforeCover,
    /// A producer snapshot is looked for only on the shards of epochs that are not decided (C11).
    SnapshotOfSealedOnly,
    /// A log that prefers availability is acknowledged without a lease (C13).
    AcksWithoutLease,
    /// A log that prefers availability is released without a lease (C13).
    ReleasesWithoutLease,
    /// A lease is relied on before its sequencers were told of the state that it rests on (C13).
    LeaseBeforeView,
    /// A lease counts from when its answer came (C13).
    LeaseFromAnswer,
    /// A shard that did not answer in time is not passed over.
    SlowNotPassedOver,
    /// A shard that was passed over never gets another chance.
    NoProbation,
    /// A block waits for the shards of its first wave, however long they take.
    NoLaterWaves,

    // ---- recovery
    /// Recovery of a log that prefers availability does not wait for the lease to end (C13).
    RecoveryIgnoresLease,
    /// A decision that too few answers stand behind is not flagged.
    DecisionNotFlagged,
    /// Where a log is content with too few answers, the end is that of the unbroken run.
    AvailableCutsOff,
    /// What one of the answers tells is left out.
    RecoveryIgnoresAnAnswer,
    /// An f-majority is one shard short.
    SealsOneTooFew,
    /// An f-majority is computed from the counts of R, not of W (C14).
    FMajorityWithR,
    /// The run starts at settled, whatever was acknowledged or trimmed (C5, C6).
    RunIgnoresAcked,
    /// Without an f-majority, the end is still that of the unbroken run (C5).
    NonAuthoritativeCutsOff,
    /// Recovery needs R live shards (C7).
    RecoveryNeedsAllCopies,
    /// An epoch is decided before its last blocks are copied (C7b).
    DecideBeforeRepair,
    /// Recovery's copies count when they are in memory (C7b).
    RecoveryStoresCached,
    /// Recovery's placements do not win over the old sequencer's (C9).
    RecoveryKeepsVersion,
    /// A shard that lost its write cache counts towards an f-majority (C2).
    IncompleteCounts,
    /// A disk that was lost counts as empty while its epochs are open (C10).
    LostDiskIsEmpty,
    /// A shard whose log was damaged counts towards an f-majority (C15).
    DamageCounts,
    /// What recovery could not copy is not put on record.
    MissingNotRecorded,
    /// Settled blocks stay as an earlier recoverer left them (INV-SETTLED).
    SettledNotRepaired,
    /// Recovery tells holders of a new placement before those whom it names have the block (INV-STORES-FIRST).
    AmendsBeforeStores,
    /// What a shard answers while an epoch is repaired is not looked at (INV-LATE-ANSWER).
    LateAnswerIgnored,
    /// A shard that has a block and cannot read it counts as if it had none (INV-UNREADABLE).
    UnreadableIsAbsent,
    /// A block that nobody can read stays where an earlier placement says, off the record (INV-UNREADABLE).
    UnreadableForgotten,
    /// Ends that an earlier recoverer decided are not told to shards that missed them (C8).
    OldEndsNotTold,

    // ---- the shard
    /// A store is answered before it is durable.
    AnswerBeforeSync,
    /// A seal is kept in memory only.
    SealNotPersisted,
    /// A seal is answered before what was admitted before it is durable (C1).
    SealAnsweredEarly,
    /// A sealed epoch still takes stores.
    SealSparesStores,
    /// A sealed epoch still takes amends (C9).
    SealSparesAmends,
    /// A sealed shard still takes stores of older recoverers (C9b).
    SealSparesRecoverers,
    /// A shard that lost its write cache tells of it at the next start only (C2).
    LostCacheNotKept,
    /// What lies beyond a decided end is neither purged nor refused (C8).
    PurgeForgotten,
    /// Beyond a known end, stores are still taken (C8).
    EndSparesStores,
    /// A replaced disk answers for the one before it (C4).
    IncarnationIgnored,
    /// A shard whose log was damaged takes stores before the metadata tier knows of it (C15).
    DamagedServes,
    /// A shard whose log was damaged is not sealed anew (C15).
    NotSealedAnew,
    /// Marks of sealed epochs still move.
    MarksMoveUnderSeal,
    /// Trim goes beyond what is released.
    TrimPassesReleased,
    /// In single-copy mode, a shard's silence counts up to released (C17).
    SilenceBeyondSettled,

    // ---- the clients
    /// A reader takes what a shard ships for decided (C8).
    ReadsUndecided,
    /// A reader takes whatever comes, however much waits for those before it.
    WindowIgnored,
    /// A reader calls lost what one shard does not have.
    GapFromOneShard,
    /// A reader calls lost what single-copy delivery did not bring.
    GapFromSingleCopies,
    /// A reader calls lost what shards did not have before the others were given up (INV-GAP-ASKED-AGAIN).
    GapFromOldAnswers,
    /// Batches that were on a lost connection are not sent again.
    AppendNotResent,

    // ---- the metadata tier
    /// A recoverer decides although a later epoch exists (C9b).
    StaleRecovererDecides,
    /// A trimmed epoch leaves the epoch table, whether or not a snapshot tells of its producers (C11).
    TrimmedEpochsLeave,
    /// A restarted process repeats the request ids of the one before it (C16).
    RequestIdsRepeat,
}

/// Whether this bug is put in, in this thread.
#[cfg(not(feature = "bugs"))]
#[inline(always)]
pub const fn bug(_: Bug) -> bool {
    false
}

#[cfg(feature = "bugs")]
mod injected {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static INJECTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is put in, in this thread.
    pub fn bug(bug: Bug) -> bool {
        INJECTED.get() == Some(bug)
    }

    /// Puts a bug in, or takes it out again, for all code that this thread runs.
    pub fn inject(bug: Option<Bug>) {
        INJECTED.set(bug);
    }
}

#[cfg(feature = "bugs")]
pub use injected::{bug, inject};
