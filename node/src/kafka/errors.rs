//! From what failed to Kafka's error code: one table for the errors of the rooms below.

pub use kafka_protocol::ResponseError as ErrorCode;
use meridian_raft::batch::BatchError;
use meridian_raft::partition::{AppendError, DeleteRecordsError, ReadError};

use crate::controller::handle::SubmitError;

/// No error.
pub const NONE: i16 = 0;

pub fn code_of<T>(result: &Result<T, ErrorCode>) -> i16 {
    result.as_ref().err().map_or(NONE, ErrorCode::code)
}

pub fn of_batch(error: &BatchError) -> ErrorCode {
    match error {
        // Fewer bytes than claimed were damaged on the way; more are further batches, which Kafka refuses since Produce 3.
        BatchError::Length { claimed, present } if *claimed > *present as i64 => ErrorCode::CorruptMessage,
        BatchError::Checksum => ErrorCode::CorruptMessage,
        BatchError::Magic(_) => ErrorCode::UnsupportedForMessageFormat,
        BatchError::Codec(_) => ErrorCode::UnsupportedCompressionType,
        // Producers split what is too large, and send it again.
        BatchError::Large => ErrorCode::MessageTooLarge,
        BatchError::TimestampType => ErrorCode::InvalidTimestamp,
        BatchError::Short(_)
        | BatchError::Length { .. }
        | BatchError::Count { .. }
        | BatchError::Control
        | BatchError::Producer
        | BatchError::Records
        | BatchError::Compression(_) => ErrorCode::InvalidRecord,
    }
}

pub fn of_append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        AppendError::Malformed(error) => of_batch(error),
        AppendError::NotContiguous { .. } | AppendError::AppendTime(_) => ErrorCode::InvalidRequest,
        // Retriable, and says what is so: nothing was appended, because the replicas do not keep up.
        AppendError::Overloaded => ErrorCode::NotEnoughReplicas,
        AppendError::Timeout => ErrorCode::RequestTimedOut,
        // Retriable, both: clients look for another leader, and come back.
        AppendError::Storage(_) | AppendError::DiskFull => ErrorCode::KafkaStorageError,
    }
}

pub fn of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Storage(_) => ErrorCode::KafkaStorageError,
    }
}

pub fn of_delete_records(error: &DeleteRecordsError) -> ErrorCode {
    match error {
        DeleteRecordsError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        DeleteRecordsError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        DeleteRecordsError::Timeout => ErrorCode::RequestTimedOut,
        DeleteRecordsError::Storage(_) => ErrorCode::KafkaStorageError,
    }
}

pub fn of_submit(error: &SubmitError) -> ErrorCode {
    match error {
        SubmitError::Unavailable => ErrorCode::CoordinatorNotAvailable,
        SubmitError::Timeout => ErrorCode::RequestTimedOut,
        SubmitError::TooLarge(_) => ErrorCode::InvalidRequest,
    }
}
