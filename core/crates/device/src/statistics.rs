//! Counters: how many, how much, how long. Threads count apart, so that counting does not slow them down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ebscrypt_secret::thread_number;

use crate::Operation;

/// Buckets of a latency histogram. The last one begins at nine minutes, and holds everything longer.
pub const BUCKETS: usize = 40;

/// Sets of counters.
const SHARDS: usize = 16;

const OPERATIONS: usize = Operation::ALL.len();

/// One operation's counters since the device was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationStatistics {
    /// Requests, failed ones too.
    pub operations: u64,
    /// Bytes of the requests that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests by latency: bucket `i` counts those of [2^i, 2^(i+1)) nanoseconds; 0 ns count as 1.
    pub latency: [u64; BUCKETS],
}

struct Counters {
    bytes: AtomicU64,
    errors: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

#[repr(align(64))]
struct Shard([Counters; OPERATIONS]);

pub(crate) struct Statistics(Box<[Shard]>);

impl Statistics {
    pub(crate) fn new() -> Statistics {
        let zero = || AtomicU64::new(0);
        let counters = || Counters { bytes: zero(), errors: zero(), latency: std::array::from_fn(|_| zero()) };
        Statistics((0..SHARDS).map(|_| Shard(std::array::from_fn(|_| counters()))).collect())
    }

    /// Count a request; `bytes` is none when it failed.
    pub(crate) fn count(&self, operation: Operation, bytes: Option<u64>, took: Duration) {
        let counters = &self.0[thread_number() % SHARDS].0[operation as usize];
        match bytes {
            Some(bytes) => counters.bytes.fetch_add(bytes, Ordering::Relaxed),
            None => counters.errors.fetch_add(1, Ordering::Relaxed),
        };
        counters.latency[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, operation: Operation) -> OperationStatistics {
        let mut sum = OperationStatistics { operations: 0, bytes: 0, errors: 0, latency: [0; BUCKETS] };
        for shard in &self.0 {
            let counters = &shard.0[operation as usize];
            sum.bytes += counters.bytes.load(Ordering::Relaxed);
            sum.errors += counters.errors.load(Ordering::Relaxed);
            for (sum, bucket) in sum.latency.iter_mut().zip(&counters.latency) {
                *sum += bucket.load(Ordering::Relaxed);
            }
        }
        sum.operations = sum.latency.iter().sum();
        sum
    }
}

fn bucket(took: Duration) -> usize {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    (nanoseconds.max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A latency falls into the bucket of its power of two, the extremes into the first and last.
    #[test]
    fn buckets_are_powers_of_two() {
        for (nanoseconds, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (1023, 9), (1024, 10), (u64::MAX, 39)] {
            assert_eq!(bucket(Duration::from_nanos(nanoseconds)), expected);
        }
    }

    /// What many threads counted is all there in the sum, successes and failures apart.
    #[test]
    fn threads_add_up() {
        let statistics = Statistics::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        statistics.count(Operation::Write, Some(512), Duration::from_nanos(5));
                        statistics.count(Operation::Write, None, Duration::from_nanos(9));
                    }
                });
            }
        });
        let sum = statistics.of(Operation::Write);
        assert_eq!((sum.operations, sum.bytes, sum.errors), (4000, 2000 * 512, 2000));
        assert_eq!((sum.latency[2], sum.latency[3]), (2000, 2000));
        assert_eq!(statistics.of(Operation::Read).operations, 0);
    }
}
