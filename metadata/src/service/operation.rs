//! Commands with their answers' types, so that who asks need not take a [`Response`] apart.

use std::ops::Range;

use dlog_proto::{ClusterId, Epoch, Lsn};

use crate::state::{
    Activate, Activated, AllocateProducerIds, BatchTooLong, Command, Cover, CoverError, CreateLog, CreateLogError,
    CreatePartitions, CreatePartitionsError, Damaged, DamagedError, Decide, DecideError, Decided, DeleteLog,
    InitCluster, LogCreated, LogUid, ProducerIdsError, RecordUnderReplicated, RegisterError, RegisterNode, Registered,
    Response, SetAttributes, SetAttributesError, Trim, TrimError, UnderReplicatedError, UnknownLog,
};

/// A command and what it answers.
pub trait Operation {
    type Answer;

    fn into_command(self) -> Command;

    /// `None` if `response` is not to this command.
    fn answer(response: Response) -> Option<Self::Answer>;
}

macro_rules! operation {
    ($type:ident, $variant:ident, $answer:ty) => {
        impl Operation for $type {
            type Answer = $answer;

            fn into_command(self) -> Command {
                Command::$variant(self)
            }

            fn answer(response: Response) -> Option<Self::Answer> {
                match response {
                    Response::$variant(answer) => Some(answer),
                    _ => None,
                }
            }
        }
    };
}

operation!(InitCluster, InitCluster, ClusterId);
operation!(RegisterNode, RegisterNode, Result<Registered, RegisterError>);
operation!(CreateLog, CreateLog, Result<LogCreated, CreateLogError>);
operation!(DeleteLog, DeleteLog, Result<LogUid, UnknownLog>);
operation!(SetAttributes, SetAttributes, Result<(), SetAttributesError>);
operation!(CreatePartitions, CreatePartitions, Result<LogCreated, CreatePartitionsError>);
operation!(Activate, Activate, Result<Activated, BatchTooLong>);
operation!(Decide, Decide, Result<Vec<Result<Decided, DecideError>>, BatchTooLong>);
operation!(RecordUnderReplicated, UnderReplicated, Result<Vec<Result<(), UnderReplicatedError>>, BatchTooLong>);
operation!(Trim, Trim, Result<Vec<Result<Lsn, TrimError>>, BatchTooLong>);
operation!(Damaged, Damaged, Result<u64, DamagedError>);
operation!(Cover, Cover, Result<Vec<Result<Epoch, CoverError>>, BatchTooLong>);
operation!(AllocateProducerIds, AllocateProducerIds, Result<Range<i64>, ProducerIdsError>);
