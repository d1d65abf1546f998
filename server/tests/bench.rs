//! `dlog bench append` against real nodes, with each protocol.

mod support;

use support::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_is_checked_whatever_the_protocol() {
    let cluster = Cluster::start(2).await;
    for (protocol, more) in [("native", &[][..]), ("kafka", &[]), ("kafka", &["--linger", "2", "--compression", "lz4"])]
    {
        let args = ["bench", "append", "--records", "5000", "--partitions", "3", "--replication", "2", "--json"];
        let small = ["--batch-bytes", "8192", "--acks-inflight", "2000", "--protocol", protocol];
        let output = cluster.run(&[&args[..], &small, more].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{protocol}: {error}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["protocol"], &report["verified"]), (&protocol.into(), &true.into()));
        // One record to each partition comes before, unmeasured.
        assert_eq!((&report["append"]["records"], &report["read"]["records"]), (&5000.into(), &5003.into()));
    }
}
