//! An HTTP client that can do what well-behaved ones never do: leave at any moment, and not read.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client<S = TcpStream> {
    stream: S,
    /// Read, but not taken yet.
    read: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Little room, so that a client that does not read is soon noticed.
        socket.set_recv_buffer_size(8 << 10)?;
        Ok(Self::over(socket.connect(address).await?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends the head of a POST request that announces so many bytes.
    pub(crate) async fn send_head(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> std::io::Result<()> {
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send_bytes(head.as_bytes()).await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn send(&mut self, path: &str, body: &str) -> std::io::Result<()> {
        self.send_with(path, &[], body).await
    }

    pub(crate) async fn send_with(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<()> {
        self.send_head(path, headers, body.len()).await?;
        self.send_bytes(body.as_bytes()).await
    }

    /// Reads something; false when the connection has ended.
    pub(crate) async fn read_some(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Reads until `wanted` has come.
    pub(crate) async fn read_until(&mut self, wanted: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.read);
            if text.contains(wanted) {
                return text.into_owned();
            }
            let so_far = text.into_owned();
            assert!(self.read_some().await, "the connection ended before {wanted:?} came: {so_far}");
        }
    }

    /// The next answer on this connection; `None` when the connection ends before it is whole.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.answer_head().await?;
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let body = if header("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.chunked_body().await?
        } else {
            let length = header("content-length")?.parse().ok()?;
            self.take(length).await?
        };
        Some(Answer { status, text: String::from_utf8(body).ok()?, headers })
    }

    pub(crate) async fn answer_head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let head = self.take_through(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).ok()?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        Some((status, headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect()))
    }

    async fn chunked_body(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = String::from_utf8(self.take_through(b"\r\n").await?).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let chunk = self.take(size + 2).await?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.read_some().await {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    async fn take_through(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.read_some().await {
                return None;
            }
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The code of the error that the answer is.
    pub(crate) fn error_code(&self) -> String {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("not an error: {json}"));
        assert!(error["message"].is_string() && error["type"].is_string() && error.contains_key("param"));
        error["code"].as_str().unwrap().to_owned()
    }

    /// What a stream brought before its `[DONE]`.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events: Vec<_> = self.text.trim_end().split("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.text);
        let data = events.iter().map(|event| event.strip_prefix("data: ").unwrap());
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// The code of the error with which a stream ends.
    pub(crate) fn last_error_code(&self) -> String {
        let chunks = self.chunks();
        chunks.last().unwrap()["error"]["code"].as_str().unwrap_or("no error").to_owned()
    }

    /// The first choice of an answer in one piece.
    pub(crate) fn choice(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["choices"][0].clone()
    }
}
