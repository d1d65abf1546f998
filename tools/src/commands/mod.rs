//! A file or folder per command.

mod append;
mod bench;
mod bench_disk;
mod bench_storage;
mod cluster_status;
mod copyset_show;
mod epoch_show;
mod in_flight;
mod log;
mod read;
mod segment;
mod streams;
mod tls_create;

use dlog_client::{Client, ClientOptions};
use dlog_proto::PartitionId;

use crate::args::{
    BenchCommand, ClusterCommand, Command, ConnectArgs, CopysetCommand, EpochCommand, LogCommand, PartitionName,
    TlsCommand,
};
use crate::failure::{Failure, Outcome};

pub(crate) async fn run(command: Command) -> Result<Outcome, Failure> {
    match &command {
        Command::Segment(command) => return segment::run(command),
        Command::Tls(TlsCommand::Create(args)) => return tls_create::run(args).map(|()| Outcome::Done),
        Command::Bench(BenchCommand::Disk(args)) => return bench_disk::run(args).map(|()| Outcome::Done),
        Command::Bench(BenchCommand::Storage(args)) => return bench_storage::run(args).map(|()| Outcome::Done),
        _ => {}
    }
    let client = client(command.connect().expect("all others are for a cluster"))?;
    let outcome = Box::pin(run_with(&client, command)).await;
    client.shutdown().await;
    outcome
}

fn client(args: &ConnectArgs) -> Result<Client, Failure> {
    let timeout = args.answer_timeout();
    let ConnectArgs { server, ca, .. } = args.clone();
    let software = concat!("dlog ", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(Client::new(ClientOptions { servers: server, ca_file: ca, timeout, software })?)
}

/// The partition that is meant; the only one if its number was left out.
async fn number_of(client: &Client, name: &PartitionName) -> Result<PartitionId, Failure> {
    if let Some(number) = name.partition {
        return Ok(number);
    }
    match client.log(&name.log).await?.partitions.len() {
        1 => Ok(PartitionId(0)),
        count => Err(Failure::usage(format!("{name} has {count} partitions: say which one, as in {name}/0"))),
    }
}

async fn run_with(client: &Client, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Log(LogCommand::Create(args)) => log::create::run(client, &args).await?,
        Command::Log(LogCommand::List(args)) => log::list::run(client, &args).await?,
        Command::Log(LogCommand::Show(args)) => log::show::run(client, &args).await?,
        Command::Log(LogCommand::Set(args)) => log::set::run(client, &args).await?,
        Command::Log(LogCommand::Trim(args)) => log::trim::run(client, &args).await?,
        Command::Log(LogCommand::Delete(args)) => log::delete::run(client, &args).await?,
        Command::Append(args) => append::run(client, &args).await?,
        Command::Read(args) => return read::run(client, &args).await,
        Command::Cluster(ClusterCommand::Status(args)) => cluster_status::run(client, &args).await?,
        Command::Epoch(EpochCommand::Show(args)) => epoch_show::run(client, &args).await?,
        Command::Copyset(CopysetCommand::Show(args)) => copyset_show::run(client, &args).await?,
        Command::Bench(BenchCommand::Append(args)) => bench::run(client, &args).await?,
        Command::Segment(_) | Command::Tls(_) | Command::Bench(BenchCommand::Disk(_) | BenchCommand::Storage(_)) => {
            unreachable!("it needs no client")
        }
    }
    Ok(Outcome::Done)
}
