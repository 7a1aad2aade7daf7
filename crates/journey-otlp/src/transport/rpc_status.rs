//! A gRPC status, as far as it says what is wrong and when to try again.
//!
//! Source: `google/rpc/status.proto` and `google/rpc/error_details.proto` of googleapis.

use std::time::Duration;

use prost::Message;

const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<DurationMessage>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct DurationMessage {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// What a status says is wrong.
pub(super) fn message(status: &[u8]) -> Option<String> {
    RpcStatus::decode(status).ok().map(|status| status.message)
}

/// The `RetryInfo` in a status's details, if there is one; one without a delay stands for "at once".
pub(super) fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let is_retry_info = |any: &&Any| any.type_url.rsplit('/').next() == Some(RETRY_INFO);
    let info = RetryInfo::decode(&*status.details.iter().find(is_retry_info)?.value).ok()?;
    let delay = info.retry_delay.unwrap_or_default();
    let (seconds, nanos) = (u64::try_from(delay.seconds), u32::try_from(delay.nanos));
    Some(
        Duration::from_secs(seconds.unwrap_or(0))
            .saturating_add(Duration::from_nanos(nanos.unwrap_or(0).into())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_other_details_hold_no_delay() {
        assert_eq!(retry_delay(b""), None);
        assert_eq!(retry_delay(b"\xff\xff\xff"), None);
        let other = Any { type_url: "type.googleapis.com/google.rpc.Help".into(), value: vec![1, 2] };
        assert_eq!(
            retry_delay(&RpcStatus { message: "refused".into(), details: vec![other] }.encode_to_vec()),
            None
        );
    }

    #[test]
    fn a_delay_is_found_and_a_negative_one_is_none_at_all() {
        let details = |seconds, nanos| {
            let info = RetryInfo { retry_delay: Some(DurationMessage { seconds, nanos }) };
            let any =
                Any { type_url: format!("type.googleapis.com/{RETRY_INFO}"), value: info.encode_to_vec() };
            RpcStatus { details: vec![any], ..RpcStatus::default() }.encode_to_vec()
        };
        assert_eq!(retry_delay(&details(2, 500_000_000)), Some(Duration::from_millis(2500)));
        assert_eq!(retry_delay(&details(-2, -5)), Some(Duration::ZERO));
    }
}
