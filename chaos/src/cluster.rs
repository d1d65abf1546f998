//! Nodes that are real processes on this machine, each in a directory of its own; killed when this process ends, however.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dlog_client::{Client, ClientOptions, OpenError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::held::{Held, Pace};
use crate::machines::{self, Machines};
use crate::net::Network;
use crate::ports::free_addresses;

/// How long a question may take before processes are looked at again.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// A process that was started a moment ago may not listen to signals yet, and then just ends.
const YOUNG: Duration = Duration::from_secs(1);

/// How a node's process is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The built `dlog`.
    pub(crate) dlog: PathBuf,
    /// Where nodes keep their data and logs.
    pub(crate) dir: PathBuf,
    pub(crate) nodes: usize,
    /// More flags for each node.
    pub(crate) flags: Vec<String>,
    /// And for each by itself; none if it is shorter.
    pub(crate) flags_of: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Node {
    /// What others are told.
    advertised: SocketAddr,
    /// Where it listens; the same if there is no network in between.
    real: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
    started: Instant,
    is_stopped: bool,
}

/// A cluster's processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    plan: Plan,
    nodes: Vec<Node>,
    network: Option<Network>,
    /// If they do not all run on one.
    machines: Option<Machines>,
}

impl Cluster {
    /// Nodes that reach each other directly.
    pub(crate) async fn start_direct(plan: Plan) -> io::Result<Self> {
        Self::start(plan, None, None).await
    }

    /// Nodes that reach each other, and are reached, through a network that can be troubled.
    pub(crate) async fn start_behind(plan: Plan, network: Network, machines: Option<Machines>) -> io::Result<Self> {
        Self::start(plan, Some(network), machines).await
    }

    async fn start(plan: Plan, network: Option<Network>, machines: Option<Machines>) -> io::Result<Self> {
        let node = |at: &[SocketAddr]| {
            let real = if network.is_some() { at[1] } else { at[0] };
            Node { advertised: at[0], real, http: at[2], child: None, started: Instant::now(), is_stopped: false }
        };
        let addresses = match &machines {
            Some(_) => {
                let of = |node| [machines::advertised(node), machines::real(node), machines::http(node)];
                (1..=plan.nodes).flat_map(of).collect()
            }
            None => free_addresses(3 * plan.nodes)?,
        };
        let nodes = addresses.chunks(3).map(node).collect();
        let mut cluster = Self { plan, nodes, network, machines };
        for node in 1..=cluster.nodes.len() {
            cluster.start_node(node).await?;
        }
        Ok(cluster)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    fn command(&self, node: usize) -> Command {
        let Node { advertised, real, http, .. } = &self.nodes[node - 1];
        let members: Vec<String> =
            (1..).zip(&self.nodes).map(|(id, node)| format!("{id}={}", node.advertised)).collect();
        let mut command = match &self.machines {
            Some(machines) => machines.inside(node, &self.plan.dlog),
            None => Command::new(&self.plan.dlog),
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DLOG_")) {
            command.env_remove(name);
        }
        command.arg("--data-dir").arg(self.plan.dir.join(format!("node-{node}")));
        command.args(["--node-id", &node.to_string(), "--cluster-nodes", &members.join(",")]);
        command.args(["--listen", &real.to_string(), "--advertise", &advertised.to_string()]);
        command.args(["--http", &http.to_string(), "--segment-bytes", "128MiB"]).args(&self.plan.flags);
        command.args(self.plan.flags_of.get(node - 1).into_iter().flatten());
        if let Some(machines) = &self.machines {
            command.arg("--tls-dir").arg(machines.tls_dir(node));
        }
        command
    }

    /// Starts a node that is down.
    pub(crate) async fn start_node(&mut self, node: usize) -> io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.log_file(node))?;
        writeln!(log, "--- started")?;
        let mut command = self.command(node);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        // SAFETY: between fork and exec only a system call is made.
        #[cfg(target_os = "linux")]
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be started: {error}", self.plan.dlog.display()))
        })?;
        let process = child.id();
        let entry = &mut self.nodes[node - 1];
        (entry.child, entry.started, entry.is_stopped) = (Some(child), Instant::now(), false);
        let (advertised, real) = (entry.advertised, entry.real);
        match &mut self.network {
            Some(network) => network.open(node, process, advertised, real).await,
            None => Ok(()),
        }
    }

    /// kill -9. `silently`: as if its machine had lost power, so that nobody is told that its port is closed.
    pub(crate) async fn kill(&mut self, node: usize, silently: bool) -> io::Result<()> {
        let Some(mut child) = self.nodes[node - 1].child.take() else { return Ok(()) };
        child.kill()?;
        if let Some(network) = self.network.as_mut().filter(|_| !silently) {
            network.close(node).await;
        }
        child.wait().map(drop)
    }

    /// Stops the process for a while, or lets it go on.
    pub(crate) fn set_stopped(&mut self, node: usize, stopped: bool) -> io::Result<()> {
        let entry = &mut self.nodes[node - 1];
        if let Some(child) = &entry.child {
            kill_process(Pid::from_child(child), if stopped { Signal::STOP } else { Signal::CONT })?;
            entry.is_stopped = stopped;
        }
        Ok(())
    }

    /// Makes the disk of a node slow, or hang, until what is given back is dropped. `None` if it does not run.
    pub(crate) fn hold_disk(&self, node: usize, pace: Pace) -> io::Result<Option<Held>> {
        let process = self.nodes[node - 1].child.as_ref().map(Child::id);
        process.map(|process| Held::begin(process, pace)).transpose()
    }

    /// Asks the process to end in order, and waits until it has. How it ended, if it ran long enough to know how.
    pub(crate) async fn terminate(&mut self, node: usize) -> io::Result<Option<ExitStatus>> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let Some(mut child) = self.nodes[node - 1].child.take() else { return Ok(None) };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                if let Some(network) = &mut self.network {
                    network.close(node).await;
                }
                let is_young = self.nodes[node - 1].started.elapsed() < YOUNG && status.signal().is_some();
                return Ok(Some(status).filter(|_| !is_young));
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.nodes[node - 1].child = Some(child);
        let after = PATIENCE.as_secs();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("n{node} did not end within {after} s of SIGTERM")))
    }

    /// Everybody runs again.
    pub(crate) async fn revive(&mut self) -> io::Result<()> {
        if let Some(network) = &self.network {
            network.heal();
        }
        for node in 1..=self.len() {
            match &self.nodes[node - 1] {
                Node { child: None, .. } => self.start_node(node).await?,
                Node { is_stopped: true, .. } => self.set_stopped(node, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.nodes[node - 1].child.is_some()
    }

    /// Nodes whose processes have ended, though nobody had asked them to, since this was last asked.
    pub(crate) fn ended_by_themselves(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for (node, entry) in (1..).zip(&mut self.nodes) {
            if let Some(status) = entry.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                entry.child = None;
                ended.push((node, status));
            }
        }
        ended
    }

    pub(crate) fn log_file(&self, node: usize) -> PathBuf {
        self.plan.dir.join(format!("node-{node}.log"))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self) -> Result<Client, OpenError> {
        let servers = self.nodes.iter().map(|node| node.advertised.into()).collect();
        let ca_file = self.machines.as_ref().map(Machines::ca_file);
        Client::new(ClientOptions { servers, ca_file, software: "dlog-chaos".to_owned(), ..ClientOptions::default() })
    }

    /// Waits until all nodes that run are ready, and alive in the eyes of the metadata tier; else what is missing.
    pub(crate) async fn serves(&mut self, client: &Client, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let due = (1..=self.len()).filter(|node| self.is_running(*node)).count();
            let missing = match tokio::time::timeout(ASK_PATIENCE, client.cluster_linearizable()).await {
                Ok(Ok(cluster)) if cluster.alive.len() >= due => match self.not_ready().await {
                    None => return Ok(()),
                    Some(node) => format!("n{node} is not ready"),
                },
                Ok(Ok(cluster)) => format!("{} of {due} nodes are alive", cluster.alive.len()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the metadata tier does not answer".to_owned(),
            };
            if let Some((node, status)) = self.ended_by_themselves().pop() {
                return Err(format!("n{node} has ended by itself ({status}): see {}", self.log_file(node).display()));
            }
            if Instant::now() >= deadline {
                return Err(format!("the cluster does not serve within {} s: {missing}", patience.as_secs()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Cluster {
    /// A node that runs and does not serve yet: a process is alive in the eyes of others as soon as it has registered.
    async fn not_ready(&self) -> Option<usize> {
        for (node, entry) in (1..).zip(&self.nodes).filter(|(_, entry)| entry.child.is_some()) {
            let ready = tokio::time::timeout(ASK_PATIENCE, is_ready(entry.http)).await;
            if !matches!(ready, Ok(Ok(true))) {
                return Some(node);
            }
        }
        None
    }
}

async fn is_ready(http: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status == *b"HTTP/1.1 200")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
