//! Real processes in trouble for a few seconds, and a checker over what their clients saw: docs/CHAOS.md. What it prints says what broke, and
//! where to look.

use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_what_is_promised_whatever_happens_to_nodes() {
    let kept = dlog_chaos::play_shortly(Path::new(env!("CARGO_BIN_EXE_dlog"))).await;
    assert_eq!(kept, Ok(true), "see above");
}
