//! What `dlog tls` is told.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use dlog_proto::transport::HostPort;
use dlog_proto::{NodeId, ParseError};

use super::not;

/// Works on files: no node has to run.
#[derive(Debug, Clone, Subcommand)]
pub enum TlsCommand {
    /// Make a cluster's CA and its nodes' certificates, or those of more nodes.
    Create(TlsCreateArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What it makes:
  DIR/ca.pem   the CA's certificate, for clients: --ca ca.pem
  DIR/ca.key   the CA's key: whoever has it can make nodes. Keep it where no node runs
  DIR/node-N/  what node N needs (ca.pem, node.pem, node.key): copy it to N's machine, to where --tls-dir says

Examples:
  dlog tls create --out ca --nodes 1=10.9.0.1,2=10.9.0.2,3=10.9.0.3
  dlog tls create --out ca --nodes 4=10.9.0.4              later: one more node of the same CA

A CA that is in DIR already issues the certificates; what it issued before stays as it is, unless less than 90 days are left of the
10 years that a certificate is valid. To have one issued again, remove its directory.")]
pub struct TlsCreateArgs {
    /// Where to: a directory that only those may read who may make nodes. It is made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The nodes, each with the host under which it is reached: 1=host1,2=host2. A list such as --cluster-nodes takes
    /// will do.
    #[arg(long, value_name = "NODES", required = true, value_delimiter = ',', num_args = 1)]
    pub nodes: Vec<TlsNode>,
}

/// `1=host` or `1=host:port`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsNode {
    pub node: NodeId,
    /// With the default port if none was given.
    pub address: HostPort,
}

impl FromStr for TlsNode {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (node, address) = s.split_once('=')?;
            let address = address.trim();
            let address = address.parse().or_else(|_| format!("{address}:9092").parse()).ok()?;
            Some(Self { node: node.trim().parse().ok()?, address })
        };
        parse().ok_or_else(|| not(s, "a node and its host such as 1=host1 or 1=host1:9092"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_number_and_a_host() {
        for (text, node, address) in [
            ("1=host1", 1, "host1:9092"),
            ("n2=host2:7000", 2, "host2:7000"),
            ("3 = 10.9.0.3", 3, "10.9.0.3:9092"),
            ("4=[::1]", 4, "[::1]:9092"),
            ("5=[fd00::5]:1", 5, "[fd00::5]:1"),
        ] {
            let expected = TlsNode { node: NodeId(node), address: address.parse().unwrap() };
            assert_eq!(text.parse::<TlsNode>().unwrap(), expected);
        }
        for bad in ["", "1", "1=", "=host", "0=host", "x=host", "1=a b", "1=host:0", "1=::1", "65536=host"] {
            assert!(bad.parse::<TlsNode>().unwrap_err().to_string().contains("is not a node"), "{bad}");
        }
    }
}
