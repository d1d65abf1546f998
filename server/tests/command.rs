//! The built command, run as a user does.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{dlog, free_address};
use tempfile::TempDir;

fn output(args: &[&str]) -> Output {
    dlog().args(args).output().unwrap()
}

/// A node that says it is ready. Killed when dropped.
struct Node {
    process: Child,
    stdout: BufReader<ChildStdout>,
    banner: String,
    http: String,
}

impl Node {
    fn start(data_dir: &Path) -> Self {
        let (listen, http) = (free_address(), free_address());
        let args = ["--listen", &listen, "--http", &http, "--data-dir", data_dir.to_str().unwrap()];
        let mut process = dlog().args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("dlog read") {
            assert_ne!(stdout.read_line(&mut banner).unwrap(), 0, "it ended before it was ready: {banner}");
        }
        Self { process, stdout, banner, http }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Its exit status; its standard output ends no later than the process does.
    fn wait(mut self) -> ExitStatus {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.process.wait().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_node_says_what_listens_where_and_stops_in_order() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(&dir.path().join("data"));
    assert!(node.banner.contains(&node.http) && node.banner.contains("/data\n"), "{}", node.banner);
    let mut stream = node.connect();
    stream.write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("\"node\":1"), "{answer}");
    node.signal(Signal::TERM);
    assert!(node.wait().success());
    assert!(dir.path().join("data/node.json").exists());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path());
    // A request that never ends keeps an orderly stop waiting.
    let mut stream = node.connect();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\n\r\nGET /").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 1, "it has the connection");
    node.signal(Signal::TERM);
    node.signal(Signal::INT);
    let code = node.wait().code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}");
}

#[test]
fn a_directory_in_use_or_of_another_node_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let node = Node::start(dir.path());
    let second = output(&["--data-dir", path, "--http", &free_address(), "--listen", &free_address()]);
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(error.contains(&format!("in use by process {}", node.process.id())), "{error}");
    node.signal(Signal::KILL);
    node.wait();
    let other = output(&["--data-dir", path, "--node-id", "2"]);
    let error = String::from_utf8(other.stderr).unwrap();
    assert!(error.contains("error: the data directory") && error.contains("belongs to node 1"), "{error}");
}

#[test]
fn an_occupied_port_is_named() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = taken.local_addr().unwrap().to_string();
    let args = ["--http", &http, "--listen", &free_address(), "--data-dir", dir.path().to_str().unwrap()];
    let refused = output(&args);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(error.contains(&format!("error: TCP {http} (http) is in use")), "{error}");
}

#[test]
fn settings_are_shown_or_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("node.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "node_id = 2\n[cluster_nodes]\n1 = \"a:1\"\n2 = \"b:1\"\n").unwrap();
    let shown = output(&["config", "show", "--json", "--config", path]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["node_id"], serde_json::json!({ "value": 2, "source": format!("{path}:1") }));
    assert_eq!(shown["listen"]["value"], "b:1");

    std::fs::write(&file, "nodeid = 2\nshards = 0\n").unwrap();
    for args in [&["config", "show", "--config", path][..], &["--config", path]] {
        let refused = output(args);
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(
            String::from_utf8(refused.stderr).unwrap(),
            format!(
                "error: {path}:1: unknown key 'nodeid', did you mean 'node_id'?; `dlog config show` lists all keys\n\
                 error: shards = 0 ({path}:2): from 1 to 64 is expected\n"
            )
        );
    }
}

#[test]
fn the_command_line_is_refused_with_a_reason() {
    for (args, why) in [
        (&["--nodeid", "1"][..], "--node-id"),
        (&["serve"], "unrecognized subcommand 'serve'"),
        (&["--node-id", "1", "log", "list"], "a setting of a node that serves"),
        (&["log", "create", "x", "--partitions", "0", "--replication", "1"], "--partitions"),
        (&["read", "demo/lines", "--from", "e9n"], "is not a position"),
    ] {
        let refused = output(args);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(error.contains(why), "{args:?}: {error}");
    }
}
