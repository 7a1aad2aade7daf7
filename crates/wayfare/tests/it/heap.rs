//! How much memory is in use: resident memory also holds what the allocator keeps in fragments.

use wayfare_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Bytes that have been allocated and not given back.
pub(crate) fn live_bytes() -> usize {
    ALLOCATOR.live_bytes()
}

/// Bytes of memory that this process holds; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    resident_bytes_of("self")
}

/// The same of the process with this number.
pub(crate) fn resident_bytes_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}
