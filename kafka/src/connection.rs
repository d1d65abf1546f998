//! One connection: requests in, answers out, in the same order.
//!
//! As Kafka does, one request at a time is carried out, and what comes behind it waits: clients rely on it. Produce is the
//! exception, because it is the one that clients pipeline: its batches are put in line as the request is read, and the
//! answers follow as they are acknowledged. What waits is bounded in number and bytes; a peer that sends more waits in
//! TCP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use crate::broker::Pending;
use crate::gateway::{REQUEST_UNIT, Shared};
use crate::handlers::{self, Caller};
use crate::wire::{Answer, Pieces, Refusal, Request, parse};

/// What is read at a time.
const READ_LEN: usize = 16 << 10;
const LENGTH_LEN: usize = 4;
/// A header and an API version: anything shorter is no request.
const REQUEST_LEN_MIN: usize = 8;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("the peer closed it")]
    ByPeer,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it said nothing for {} s", .0.as_secs())]
    Idle(std::time::Duration),
    #[error("it stalled inside {what} for {} s", .after.as_secs())]
    Stalled { what: &'static str, after: std::time::Duration },
    #[error("{0}; this is the Kafka port")]
    NotKafka(&'static str),
    #[error("it announced a request of {len} bytes, the limit is {max}")]
    TooLong { len: i32, max: usize },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    NoAnswer(String),
}

/// A request that was read, with its share of the memory for requests.
struct Frame {
    bytes: Bytes,
    memory: OwnedSemaphorePermit,
}

/// The reading side. What it has read so far stays when a read is given up.
struct Intake {
    shared: Arc<Shared>,
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// The frame that is being read has its memory.
    memory: Option<OwnedSemaphorePermit>,
}

impl Intake {
    async fn next(&mut self) -> Result<Frame, Closed> {
        loop {
            if let Some(len) = self.announced()? {
                if self.memory.is_none() {
                    let all = self.shared.settings.requests_bytes_max / REQUEST_UNIT;
                    let units = len.div_ceil(REQUEST_UNIT).min(all.max(1)) as u32;
                    let memory = self.shared.request_memory.clone().acquire_many_owned(units).await;
                    self.memory = Some(memory.map_err(|_| Closed::ByPeer)?);
                }
                let whole = LENGTH_LEN + len;
                if self.buffer.len() >= whole {
                    self.buffer.advance(LENGTH_LEN);
                    let bytes = self.buffer.split_to(len).freeze();
                    if let Some(memory) = self.memory.take() {
                        return Ok(Frame { bytes, memory });
                    }
                }
                self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
            } else {
                self.buffer.reserve(READ_LEN);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Closed> {
        let settings = &self.shared.settings;
        let (limit, inside) = match self.buffer.is_empty() {
            true => (settings.connection_idle, false),
            false => (settings.stall, true),
        };
        match timeout(limit, self.socket.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => Err(Closed::ByPeer),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) if inside => Err(Closed::Stalled { what: "a request", after: limit }),
            Err(_) => Err(Closed::Idle(limit)),
        }
    }

    /// Length of the frame that the buffer begins with, once enough of it is there to tell that it is one.
    fn announced(&self) -> Result<Option<usize>, Closed> {
        let Some(head) = self.buffer.first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = i32::from_be_bytes(*head);
        let settings = &self.shared.settings;
        let fits = usize::try_from(len).ok().filter(|len| (REQUEST_LEN_MIN..=settings.request_len_max).contains(len));
        let Some(fits) = fits else {
            return Err(foreign(head).unwrap_or(Closed::TooLong { len, max: settings.request_len_max }));
        };
        if fits <= settings.small_request_len_max {
            return Ok(Some(fits));
        }
        // Only a Produce may be long, so its memory is not set aside before it says that it is one.
        let Some(&[high, low]) = self.buffer.get(LENGTH_LEN..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        match i16::from_be_bytes([high, low]) == ApiKey::Produce as i16 {
            true => Ok(Some(fits)),
            false => Err(Closed::TooLong { len, max: settings.small_request_len_max }),
        }
    }
}

/// What these bytes are the beginning of, if not of a request.
fn foreign(head: &[u8; LENGTH_LEN]) -> Option<Closed> {
    match head {
        [0x16, 0x03, ..] => Some(Closed::NotKafka("it speaks TLS")),
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"PRI " | b"OPTI" | b"DELE" | b"CONN" => {
            Some(Closed::NotKafka("it speaks HTTP"))
        }
        b"SSH-" => Some(Closed::NotKafka("it speaks SSH")),
        _ => None,
    }
}

/// A request that is being carried out.
struct InFlight {
    answer: Pending<Answer>,
    is_produce: bool,
    len: usize,
    _memory: OwnedSemaphorePermit,
}

pub(crate) struct Connection {
    shared: Arc<Shared>,
    intake: Intake,
    writer: OwnedWriteHalf,
    caller: Caller,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Read, and not begun: what is in flight has to be answered first.
    next: Option<(Request, Frame)>,
    stopping: watch::Receiver<bool>,
}

enum Event {
    Read(Result<Frame, Closed>),
    Answered(Answer),
    /// The node stops, and nobody waits for an answer.
    Drained,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Self {
        let (socket, writer) = stream.into_split();
        let intake = Intake { shared: shared.clone(), socket, buffer: BytesMut::new(), memory: None };
        let caller = Caller::new(peer);
        let stopping = shared.stopping.subscribe();
        Self { shared, intake, writer, caller, in_flight: VecDeque::new(), in_flight_bytes: 0, next: None, stopping }
    }

    pub(crate) async fn run(mut self) -> Result<(), Closed> {
        loop {
            match self.next_event().await {
                // It waits for us.
                Event::Read(Err(Closed::Idle(_))) if !self.in_flight.is_empty() => {}
                Event::Read(frame) => {
                    let frame = frame?;
                    let request = parse(frame.bytes.clone())?;
                    self.next = Some((request, frame));
                }
                Event::Drained => return Ok(()),
                Event::Answered(answer) => {
                    if let Some(done) = self.in_flight.pop_front() {
                        self.in_flight_bytes -= done.len;
                    }
                    match answer {
                        Answer::Send(pieces) => self.write(pieces).await?,
                        Answer::Silence => {}
                        Answer::Close(why) => return Err(Closed::NoAnswer(why)),
                    }
                }
            }
            self.begin();
        }
    }

    async fn next_event(&mut self) -> Event {
        let (reads, waits) = (self.next.is_none(), !self.in_flight.is_empty());
        tokio::select! {
            biased;
            answer = first(&mut self.in_flight) => Event::Answered(answer),
            _ = self.stopping.wait_for(|stops| *stops), if !waits => Event::Drained,
            frame = self.intake.next(), if reads => Event::Read(frame),
        }
    }

    /// Begins the request that was read, if it may be.
    fn begin(&mut self) {
        let settings = &self.shared.settings;
        let Some((request, frame)) = &self.next else { return };
        let is_produce = is_produce(request);
        let room = self.in_flight.len() < settings.pipelined_max
            && self.in_flight_bytes + frame.bytes.len() <= settings.pipelined_bytes_max;
        let all_produce = is_produce && self.in_flight.iter().all(|other| other.is_produce);
        if !(self.in_flight.is_empty() || all_produce && room) {
            return;
        }
        let Some((request, frame)) = self.next.take() else { return };
        let len = frame.bytes.len();
        self.in_flight_bytes += len;
        let answer = handlers::begin(&self.shared, &mut self.caller, request);
        self.in_flight.push_back(InFlight { answer, is_produce, len, _memory: frame.memory });
    }

    async fn write(&mut self, mut pieces: Pieces) -> Result<(), Closed> {
        let limit = self.shared.settings.stall;
        while pieces.has_remaining() {
            match timeout(limit, self.writer.write_buf(&mut pieces)).await {
                Ok(Ok(0)) => return Err(Closed::ByPeer),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(Closed::Stalled { what: "an answer", after: limit }),
            }
        }
        Ok(())
    }
}

fn is_produce(request: &Request) -> bool {
    matches!(request, Request::Known { body, .. } if matches!(**body, RequestKind::Produce(_)))
}

/// The answer that is due next. Those behind it are Produce, whose batches are in line already, so that nothing waits for
/// being polled.
async fn first(in_flight: &mut VecDeque<InFlight>) -> Answer {
    match in_flight.front_mut() {
        Some(first) => (&mut first.answer).await,
        None => std::future::pending().await,
    }
}
