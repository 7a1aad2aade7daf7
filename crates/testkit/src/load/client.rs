//! One connection, one request at a time.

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wayfare_journey::{Clock as _, SystemClock};

use super::LoadPlan;
use super::answer::Answer;
use super::cpu_time::CpuTimeError;

/// Where the number of a request goes, as many characters as the number has digits.
const PLACEHOLDER: &str = "@@@@@@@@";

/// Why the load could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The body has nothing that tells requests apart.
    #[error("the body holds no {PLACEHOLDER:?} for the request's number")]
    NoPlaceholder,
    /// The path or the address cannot be used.
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    /// The server does not listen.
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("the connection failed")]
    Connection(#[from] hyper::Error),
    /// The server refused.
    #[error("the server answered {status}: {body}")]
    Status {
        /// The status.
        status: u16,
        /// The body's end.
        body: String,
    },
    /// An answer lacks something.
    #[error("an answer is not whole; it ends with {tail:?}")]
    NotWhole {
        /// Its end.
        tail: String,
    },
    /// An answer has other numbers of tokens than planned.
    #[error("tokens of prompt and answer: planned {wanted:?}, counted by the server {counted:?}")]
    Tokens {
        /// Planned.
        wanted: (u64, u64),
        /// In the answer's usage.
        counted: (u64, u64),
    },
    /// The CPU time cannot be read.
    #[error(transparent)]
    CpuTime(#[from] CpuTimeError),
    /// The driver is wrong.
    #[error("a task of the driver panicked")]
    Panicked,
}

/// Makes the requests of a plan.
#[derive(Debug)]
pub(super) struct RequestMaker {
    address: String,
    path: String,
    /// The body before and behind the number.
    body: (String, String),
    stream: bool,
}

impl RequestMaker {
    pub(super) fn new(plan: &LoadPlan) -> Result<Self, LoadError> {
        let (before, behind) = plan.body.split_once(PLACEHOLDER).ok_or(LoadError::NoPlaceholder)?;
        Ok(Self {
            address: plan.address.clone(),
            path: plan.path.clone(),
            body: (before.to_owned(), behind.to_owned()),
            stream: plan.stream,
        })
    }

    fn make(&self, number: u64) -> Result<Request<Full<Bytes>>, LoadError> {
        let (before, behind) = &self.body;
        let body = format!("{before}{number:0width$x}{behind}", width = PLACEHOLDER.len());
        let request = Request::post(&self.path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json");
        Ok(request.body(Full::from(body))?)
    }
}

/// What one request took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) first_ns: u64,
    pub(super) whole_ns: u64,
    pub(super) events: u64,
    pub(super) frames: u64,
}

/// A connection that is kept open.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A connection that fails fails its request, too, which says so.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, LoadError> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn ask(&mut self, maker: &RequestMaker, number: u64) -> Result<Measured, LoadError> {
        let request = maker.make(number)?;
        self.sender.ready().await?;
        let started = SystemClock.now();
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut answer = Answer::new(maker.stream);
        let mut first_ns = None;
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame?.into_data() {
                first_ns.get_or_insert_with(|| SystemClock.now().since(started));
                answer.take(&piece);
            }
        }
        let whole_ns = SystemClock.now().since(started);
        if !status.is_success() {
            return Err(LoadError::Status { status: status.as_u16(), body: answer.shown() });
        }
        if !answer.is_whole() {
            return Err(LoadError::NotWhole { tail: answer.shown() });
        }
        let first_ns = first_ns.unwrap_or(whole_ns);
        Ok(Measured { first_ns, whole_ns, events: answer.events(), frames: answer.frames })
    }
}
