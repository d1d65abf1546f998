//! Nodes that are processes of the built command, on this machine.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dlog_client::{Client, ClientOptions};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

pub(crate) fn dlog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dlog"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DLOG_") {
            command.env_remove(name);
        }
    }
    command
}

/// An address on which nobody listens, by neither protocol, and which this process gives to nobody else. Below the ports that
/// systems give to whoever connects: between now and when a node listens there, one of those might be taken.
pub(crate) fn free_address() -> String {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let (first, count) = (10_000, 22_000);
    loop {
        let next = std::process::id() * 100 + GIVEN.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", first + next % count);
        if TcpListener::bind(&address).is_ok() && UdpSocket::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Nodes of one cluster; killed when dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Child>>,
    /// Of each node; none if there is nothing to tell.
    racks: Vec<String>,
    /// More flags for every node.
    flags: Vec<String>,
}

impl Cluster {
    /// As many nodes as asked for, which serve.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_in_racks(nodes, &[]).await
    }

    /// Nodes with more flags.
    pub(crate) async fn start_with(nodes: usize, flags: &[&str]) -> Self {
        Self::start_all(nodes, &[], flags).await
    }

    /// Nodes that stand in these racks.
    pub(crate) async fn start_in_racks(nodes: usize, racks: &[&str]) -> Self {
        Self::start_all(nodes, racks, &[]).await
    }

    async fn start_all(nodes: usize, racks: &[&str], flags: &[&str]) -> Self {
        let addresses = (0..nodes).map(|_| free_address()).collect();
        let mut cluster = Self {
            dir: TempDir::new().unwrap(),
            addresses,
            nodes: std::iter::repeat_with(|| None).take(nodes).collect(),
            racks: racks.iter().map(|rack| (*rack).to_owned()).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        for node in 1..=nodes {
            cluster.start_node(node);
        }
        cluster.serves().await;
        cluster
    }

    pub(crate) fn address(&self, node: usize) -> &str {
        &self.addresses[node - 1]
    }

    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(crate) fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// What all nodes have logged.
    pub(crate) fn logs(&self) -> String {
        let logs: Vec<_> = (1..=self.nodes.len()).map(|node| self.log(node)).collect();
        logs.join("\n---\n")
    }

    fn log_file(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}.log"))
    }

    /// The command that starts a node.
    pub(crate) fn command(&self, node: usize, data_dir: &Path) -> Command {
        let members = self.addresses.iter().enumerate().map(|(i, address)| format!("{}={address}", i + 1));
        let members = members.collect::<Vec<_>>().join(",");
        let mut command = dlog();
        command.args(["--node-id", &node.to_string(), "--cluster-nodes", &members, "--http", &free_address()]);
        command.args(["--segment-bytes", "128MiB", "--data-dir", data_dir.to_str().unwrap()]).args(&self.flags);
        if let Some(rack) = self.racks.get(node - 1) {
            command.args(["--location", &format!("rack={rack}")]);
        }
        command
    }

    pub(crate) fn start_node(&mut self, node: usize) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file(node)).unwrap();
        let mut command = self.command(node, &self.data_dir(node));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.nodes[node - 1] = Some(child);
    }

    /// A node that is to stop has stopped when this returns: until one of its threads has taken the signal, the others go on.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        let child = Pid::from_child(self.nodes[node - 1].as_ref().expect("the node runs"));
        kill_process(child, signal).unwrap();
        if signal == Signal::STOP {
            let (_, status) = waitpid(Some(child), WaitOptions::UNTRACED).unwrap().expect("it was waited for");
            assert!(status.stopped(), "{status:?}");
        }
    }

    /// What the node has taken for itself, in bytes: files that it has mapped left out.
    pub(crate) fn memory(&self, node: usize) -> u64 {
        let child = self.nodes[node - 1].as_ref().expect("the node runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// kill -9
    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the node has ended by itself; whether in order.
    pub(crate) fn wait(&mut self, node: usize) -> bool {
        self.nodes[node - 1].take().expect("the node runs").wait().unwrap().success()
    }

    pub(crate) fn client(&self) -> Client {
        let servers = self.addresses.iter().map(|address| address.parse().unwrap()).collect();
        Client::new(ClientOptions { servers, ..ClientOptions::default() }).unwrap()
    }

    /// Runs a command of the built `dlog` against this cluster.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        dlog().args(args).args(["--server", &self.addresses.join(",")]).stdin(Stdio::null()).output().unwrap()
    }

    /// Waits until the cluster takes work.
    pub(crate) async fn serves(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.run(&["cluster", "status"]);
            if status.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "the cluster does not serve: {status:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
