//! `dlog tls create`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use dlog_proto::transport::{ClusterCa, NodeCert, TlsError};

use crate::args::{TlsCreateArgs, TlsNode};
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::print;

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

pub(crate) fn run(args: &TlsCreateArgs) -> Result<(), Failure> {
    print(&create(args)?)
}

/// Makes what is not there, and says what to do with it.
fn create(args: &TlsCreateArgs) -> Result<String, Failure> {
    let mut nodes = BTreeSet::new();
    if let Some(twice) = args.nodes.iter().find(|node| !nodes.insert(node.node)) {
        return Err(Failure::usage(format!("node {} is given twice", twice.node.0)));
    }
    let (ca, known) = cluster_ca(&args.out)?;
    let mut made = 0;
    for node in &args.nodes {
        made += u64::from(issue(&ca, node, &node_dir(&args.out, node))?);
    }
    Ok(summary(args, known, made))
}

fn node_dir(out: &Path, node: &TlsNode) -> PathBuf {
    out.join(format!("node-{}", node.node.0))
}

/// The CA, and whether it was there before.
fn cluster_ca(out: &Path) -> Result<(ClusterCa, bool), Failure> {
    let known = out.join(CA_KEY).exists();
    if !known && out.join(CA_CERT).exists() {
        let what = format!("{} has a CA's certificate but not its key, {CA_KEY}: nothing can be issued", out.display());
        return Err(
            Failure::new(what).hint("put the key there that belongs to it, or choose another --out for a new CA")
        );
    }
    Ok((ClusterCa::load_or_create(out).map_err(|error| failed(&error))?, known))
}

/// Makes a node's directory, or checks the one that is there. Whether a certificate was issued.
fn issue(ca: &ClusterCa, node: &TlsNode, dir: &Path) -> Result<bool, Failure> {
    let ca_path = dir.join(CA_CERT);
    match fs::read_to_string(&ca_path) {
        Ok(pem) if pem == ca.pem() => {}
        Ok(_) => {
            let what = format!("{} is of another CA", ca_path.display());
            return Err(Failure::new(what).hint(format!("remove {} to have it made again", dir.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_new(&ca_path, ca.pem()).map_err(|error| cannot_write(&ca_path, &error))?;
        }
        Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", ca_path.display()))),
    }
    let certificate = dir.join("node.pem");
    let before = fs::read(&certificate).ok();
    let names = [node.address.host().to_owned()];
    NodeCert::load_or_create(dir, ca, node.node, &names).map_err(|error| failed(&error))?;
    Ok(before != fs::read(&certificate).ok())
}

/// A file that is there whole or not at all.
fn write_new(path: &Path, contents: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new(".")))?;
    let new = path.with_added_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
}

fn failed(error: &TlsError) -> Failure {
    Failure::new(error.to_string())
}

fn summary(args: &TlsCreateArgs, known: bool, made: u64) -> String {
    let out = args.out.display();
    let ca = if known { "used the CA that was there" } else { "made a CA" };
    let kept = match args.nodes.len() as u64 - made {
        0 => String::new(),
        kept => {
            format!("; {} there already and good", if kept == 1 { "1 was".to_owned() } else { format!("{kept} were") })
        }
    };
    let mut text = format!("{out}: {ca}, issued {}{kept}\n\n", counted(made, "node certificate"));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "Copy each node's directory to its machine, readable for the node's user only, such as to /etc/dlog/tls:"
    );
    for node in &args.nodes {
        let (from, host, id) = (node_dir(&args.out, node), node.address.host(), node.node.0);
        let _ = writeln!(text, "  {}  to {host}: dlog --node-id {id} --tls-dir /etc/dlog/tls …", from.display());
    }
    let list: Vec<_> = args.nodes.iter().map(|node| format!("{}={}", node.node.0, node.address)).collect();
    if !known {
        let _ = writeln!(text, "Give all of them the same --cluster-nodes {}", list.join(","));
    }
    let _ = writeln!(text, "Give clients {out}/{CA_CERT}: dlog log list --server HOST:PORT --ca {CA_CERT}");
    let _ = writeln!(text, "Keep {out}/{CA_KEY} somewhere safe, for more nodes later: whoever has it can make nodes.");
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use dlog_proto::NodeId;

    use super::*;

    fn args(out: &Path, nodes: &[&str]) -> TlsCreateArgs {
        TlsCreateArgs { out: out.to_owned(), nodes: nodes.iter().map(|node| node.parse().unwrap()).collect() }
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_node_gets_what_it_needs_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("some/ca");
        let text = create(&args(&out, &["1=host1", "2=host2:7000"])).unwrap();
        assert!(text.contains("made a CA, issued 2 node certificates\n"), "{text}");
        assert!(text.contains("--cluster-nodes 1=host1:9092,2=host2:7000\n"), "{text}");
        assert_eq!(files(&out), ["ca.key", "ca.pem", "node-1", "node-2"]);
        for node in [1, 2] {
            let dir = out.join(format!("node-{node}"));
            assert_eq!(files(&dir), ["ca.pem", "node.key", "node.pem"]);
            assert_eq!(NodeCert::load(&dir, NodeId(node)).unwrap().node(), NodeId(node));
            assert!(NodeCert::load(&dir, NodeId(3 - node)).is_err(), "it is for one node");
            assert_eq!(fs::read(dir.join(CA_CERT)).unwrap(), fs::read(out.join(CA_CERT)).unwrap());
        }
        for key in ["ca.key", "node-1/node.key"] {
            assert_eq!(fs::metadata(out.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn nodes_are_added_later_by_the_same_ca() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        create(&args(out, &["1=host1"])).unwrap();
        let read = |file: &str| fs::read(out.join(file)).unwrap();
        let before = ["ca.key", "ca.pem", "node-1/node.pem", "node-1/node.key"].map(read);
        let text = create(&args(out, &["1=host1", "2=host2"])).unwrap();
        assert!(text.contains("used the CA that was there, issued 1 node certificate; 1 was there already"), "{text}");
        assert_eq!(["ca.key", "ca.pem", "node-1/node.pem", "node-1/node.key"].map(read), before);
        assert_eq!(read("node-2/ca.pem"), before[1]);
        NodeCert::load(&out.join("node-2"), NodeId(2)).unwrap();
    }

    #[test]
    fn nothing_is_overwritten() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error = create(&args(one.path(), &["1=a", "1=b"])).unwrap_err().to_string();
        assert!(error.contains("node 1 is given twice") && files(one.path()).is_empty(), "{error}");

        for dir in [&one, &other] {
            create(&args(dir.path(), &["1=host1"])).unwrap();
        }
        fs::copy(other.path().join("node-1/ca.pem"), one.path().join("node-1/ca.pem")).unwrap();
        let error = create(&args(one.path(), &["1=host1"])).unwrap_err().to_string();
        assert!(error.contains("node-1/ca.pem is of another CA"), "{error}");

        fs::remove_file(one.path().join(CA_KEY)).unwrap();
        let ca = fs::read(one.path().join(CA_CERT)).unwrap();
        let error = create(&args(one.path(), &["2=host2"])).unwrap_err().to_string();
        assert!(error.contains("has a CA's certificate but not its key"), "{error}");
        assert_eq!(fs::read(one.path().join(CA_CERT)).unwrap(), ca);
    }
}
