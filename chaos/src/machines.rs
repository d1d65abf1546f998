//! A machine of its own for each node, as far as the network goes: a network namespace with an address and a link to a bridge, at
//! the other side of which are the clients, and the forwarders that stand for nodes (see [`crate::net`]).
//!
//! ```text
//! node n in its namespace: 10.83.0.n ─ veth ─ bridge: 10.83.1.n, n's forwarder; clients
//! ```
//! So nodes are no neighbours on one loopback: they and their clients need certificates of one CA, and their paths have an MTU of
//! 1,500. This process moves into a user and a network namespace first, before anything else: that takes no privileges where the
//! system lets users have namespaces, and leaves nothing behind, because a namespace goes with its last process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

/// Set for this program when it is in its namespaces.
const MOVED: &str = "DLOG_CHAOS_MOVED";
const UNSHARE: [&str; 4] = ["--user", "--map-root-user", "--net", "--"];
const BRIDGE: &str = "dlog";
const PORT: u16 = 9092;
const HTTP_PORT: u16 = 9644;

/// Whether this program is in namespaces of its own.
pub(crate) fn has_moved() -> bool {
    std::env::var_os(MOVED).is_some()
}

/// Begins this program anew in namespaces of its own. Returns, with the reason, only if the system does not let it.
pub(crate) fn move_out() -> String {
    let probe = "ip link add probe type bridge && ip link add one type veth peer name other && command -v nsenter";
    if let Err(why) = run(Command::new("unshare").args(UNSHARE).args(["sh", "-c", probe])) {
        return why;
    }
    match std::env::current_exe() {
        Ok(program) => {
            let mut command = Command::new("unshare");
            command.args(UNSHARE).arg(program).args(std::env::args_os().skip(1)).env(MOVED, "yes").exec().to_string()
        }
        Err(error) => error.to_string(),
    }
}

/// The machines of a cluster; gone with this process, however it ends.
#[derive(Debug)]
pub(crate) struct Machines {
    /// Keep the namespaces while nodes are down.
    holders: Vec<Child>,
    tls: PathBuf,
}

impl Machines {
    /// So many machines, with certificates in `dir` that `dlog` makes.
    pub(crate) async fn make(nodes: usize, dlog: &Path, dir: &Path) -> Result<Self, String> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let mut machines = Self { holders: Vec::new(), tls: dir.join("tls") };
        for node in 1..=nodes {
            let holder = hold().map_err(|error| error.to_string())?;
            let namespace = holder.id().to_string();
            machines.holders.push(holder);
            is_apart(&namespace).await?;
            let (link, address) = (format!("node-{node}"), format!("{}/16", real(node).ip()));
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["link", "set", &link, "master", BRIDGE, "up"])?;
            ip(&["addr", "add", &format!("{}/16", advertised(node).ip()), "dev", BRIDGE])?;
            for inside in [&["addr", "add", &address, "dev", "eth0"][..], &["link", "set", "eth0", "up"]] {
                run(machines.inside(node, Path::new("ip")).args(inside))?;
            }
            run(machines.inside(node, Path::new("ip")).args(["link", "set", "lo", "up"]))?;
        }
        let addresses: Vec<String> = (1..=nodes).map(|node| format!("{node}={}", advertised(node).ip())).collect();
        run(Command::new(dlog).args(["tls", "create", "--nodes", &addresses.join(","), "--out"]).arg(&machines.tls))?;
        Ok(machines)
    }

    /// A command that is to run on a node's machine.
    pub(crate) fn inside(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holders[node - 1].id().to_string(), "--"]).arg(program);
        command
    }

    pub(crate) fn tls_dir(&self, node: usize) -> PathBuf {
        self.tls.join(format!("node-{node}"))
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.tls.join("ca.pem")
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Where a node listens.
pub(crate) fn real(node: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 83, 0, node as u8), PORT).into()
}

/// Where others reach it.
pub(crate) fn advertised(node: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 83, 1, node as u8), PORT).into()
}

pub(crate) fn http(node: usize) -> SocketAddr {
    (real(node).ip(), HTTP_PORT).into()
}

/// A process in a new network namespace that does nothing.
fn hold() -> io::Result<Child> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sleep", "infinity"]).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec only a system call is made.
    #[cfg(target_os = "linux")]
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    command.spawn()
}

/// Waits until a process is in a network namespace of its own.
async fn is_apart(process: &str) -> Result<(), String> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    for _ in 0..500 {
        if namespace(process).is_some_and(|its| Some(its) != namespace("self")) {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err("a network namespace was not made within 5 s".to_owned())
}

fn ip(words: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(words)).map(drop)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
