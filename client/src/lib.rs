//! DLog's client: append, read, find, trim and admin calls.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use dlog_client::{AppendOptions, Client, Position, ReadItem};
//!
//! let client = Client::connect(["localhost:9092"]).await?;
//! let log = "demo/lines".parse()?;
//!
//! let appender = client.appender(&log, AppendOptions::default()).await?;
//! let ack = appender.append("hello").await?;
//! println!("stored at {}", ack.await?.lsn);
//!
//! let mut reader = client.reader(&log, 0, Position::Oldest, None).await?;
//! while let Some(ReadItem::Record(record)) = reader.next().await? {
//!     println!("{} {:?}", record.lsn, record.value);
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
pub mod append;
pub mod control;
mod directory;
mod error;
pub mod pool;
pub mod read;
mod sequencers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dlog_proto::transport::{ConnectorConfig, Hello, HostPort, QuicConnector, TlsError, Trust};
use dlog_proto::wire::Freshness;
use dlog_proto::{LogId, Lsn, ParseError, PartitionId};

pub use self::admin::{Copies, CopyHolder};
use self::append::ProducerIds;
pub use self::append::{Ack, AppendFailure, AppendOptions, Appended, Appender, Record};
use self::directory::Directory;
pub use self::directory::NodeAddress;
pub use self::error::ClientError;
use self::pool::Pool;
use self::read::core::ReaderCore;
use self::read::position::Partition;
pub use self::read::{GapReason, Position, ReadBatch, ReadItem, ReadRecord, ReadStep, Reader, ReaderSettings};

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Any of its nodes; the others are learned from them.
    pub servers: Vec<HostPort>,
    /// The cluster's CA. Without it only servers on this machine are trusted.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Name and version, for the servers' logs.
    pub software: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ca_file: None,
            timeout: Duration::from_secs(10),
            software: concat!("dlog-client ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Address(#[from] ParseError),
    #[error("no server was given")]
    NoServer,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A client of one cluster; cheap to clone, to be shared.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
    directory: Arc<Directory>,
    ids: Arc<ProducerIds>,
}

impl Client {
    /// A client with default options, and a first question to see that somebody answers.
    pub async fn connect<'a>(servers: impl IntoIterator<Item = &'a str>) -> Result<Self, OpenError> {
        let servers = servers.into_iter().map(str::parse).collect::<Result<Vec<HostPort>, _>>()?;
        let client = Self::new(ClientOptions { servers, ..ClientOptions::default() })?;
        client.cluster().await?;
        Ok(client)
    }

    /// A client that connects when it has to. Must be called on a tokio runtime.
    pub fn new(options: ClientOptions) -> Result<Self, OpenError> {
        if options.servers.is_empty() {
            return Err(OpenError::NoServer);
        }
        let trust = match &options.ca_file {
            Some(file) => Trust::from_ca_file(file)?,
            None => Trust::default(),
        };
        let connector = QuicConnector::new(trust, None, ConnectorConfig::default())?;
        let pool = Arc::new(Pool::new(connector, Hello::client(&options.software)));
        let directory = Arc::new(Directory::new(pool.clone(), options.servers, options.timeout));
        let ids = Arc::new(ProducerIds::new(directory.clone()));
        Ok(Self { pool, directory, ids })
    }

    /// Appends to this log.
    pub async fn appender(&self, log: &LogId, options: AppendOptions) -> Result<Appender, ClientError> {
        let info = self.directory.log(log).await?;
        Ok(Appender::new(info, self.directory.clone(), self.ids.clone(), options))
    }

    /// Reads a partition from a place on: to another (excluded), or without end.
    pub async fn reader(
        &self,
        log: &LogId,
        partition: u32,
        from: Position,
        until: Option<Position>,
    ) -> Result<Reader, ClientError> {
        self.reader_with(log, partition, from, until, ReaderSettings::default()).await
    }

    /// As [`Self::reader`], with bounds of one's own.
    pub async fn reader_with(
        &self,
        log: &LogId,
        partition: u32,
        from: Position,
        until: Option<Position>,
        settings: ReaderSettings,
    ) -> Result<Reader, ClientError> {
        let partition = self.partition(log, PartitionId(partition)).await?;
        let table = self.directory.table(partition.uid, Freshness::Local).await?;
        let from = partition.locate(&self.directory, &table, from).await?;
        let until = match until {
            Some(until) => Lsn(partition.locate(&self.directory, &table, until).await?.0.saturating_sub(1)),
            None => Lsn::MAX,
        };
        let core = ReaderCore::new(table, from, until, settings);
        Ok(Reader::start(self.directory.clone(), partition.uid, core))
    }

    /// The first LSN at this place.
    pub async fn find(&self, log: &LogId, partition: u32, position: Position) -> Result<Lsn, ClientError> {
        let partition = self.partition(log, PartitionId(partition)).await?;
        let table = self.directory.table(partition.uid, Freshness::Local).await?;
        partition.locate(&self.directory, &table, position).await
    }

    async fn partition(&self, log: &LogId, id: PartitionId) -> Result<Partition, ClientError> {
        let info = self.directory.log(log).await?;
        let uid = info.partitions.get(id.0 as usize).copied();
        let last = info.partitions.len().saturating_sub(1) as u32;
        let uid = uid.ok_or_else(|| ClientError::UnknownPartition { log: log.clone(), partition: id, last })?;
        Ok(Partition { log: log.clone(), id, uid })
    }

    /// Closes all connections. What is under way fails.
    pub fn close(&self) {
        self.pool.close();
    }

    /// As [`Self::close`], and gives the servers a moment to learn of it, so that they need not find out by themselves.
    pub async fn shutdown(&self) {
        const MOMENT: Duration = Duration::from_millis(10);
        let _ = tokio::time::timeout(MOMENT, self.pool.shutdown()).await;
    }
}
