//! What a server of the default model holds.

use crate::server::ServerProcess;

#[test]
fn the_kv_cache_takes_memory_as_it_is_used() {
    // 2 GiB: a position takes 2 * 30 layers * 3 heads * 64 components * 2 bytes.
    const NUM_BLOCKS: u64 = 5_825;
    const POOL_BYTES: u64 = NUM_BLOCKS * 16 * 23_040;
    let server = ServerProcess::start(&["--num-gpu-blocks-override", &NUM_BLOCKS.to_string()]);
    assert!(server.log().contains("2.00 GiB"), "{}", server.log());
    let held = server.resident_bytes();
    assert!(held > 512 << 20, "{held} bytes are held, which is less than is taken at the start");
    assert!(held < POOL_BYTES / 2, "{held} bytes are held before there is a request");
}
