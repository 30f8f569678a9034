//! A real HTTP/1.1 server on loopback that answers as a test's script says, faults included.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The how-manieth request of the server, from 0.
    pub index: usize,
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the client sent JSON")
    }

    /// The first byte that a `Range: bytes=5-` header asks for.
    pub fn range_start(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A complete response.
    Full { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Promises the whole body, sends so many bytes of it, and closes the connection.
    Cut { status: u16, headers: Vec<(String, String)>, body: Vec<u8>, n_bytes_sent: usize },
    /// Says nothing for so long, then closes the connection.
    Silence(Duration),
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Full { status, headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string()).with("content-type", "application/json")
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        if let Self::Full { headers, .. } | Self::Cut { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_string()));
        }
        self
    }

    /// The same response, but the connection breaks after `n_bytes_sent` of its body.
    pub fn cut_after(self, n_bytes_sent: usize) -> Self {
        match self {
            Self::Full { status, headers, body } => Self::Cut { status, headers, body, n_bytes_sent },
            other => other,
        }
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// The server; it stops when it is dropped.
pub struct HttpServer {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    is_stopped: Arc<AtomicBool>,
}

impl HttpServer {
    /// Starts a server whose every answer comes from `script`.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let (shared_requests, shared_stop) = (Arc::clone(&requests), Arc::clone(&is_stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared_stop.load(Ordering::Relaxed) {
                    return;
                }
                let (script, requests) = (Arc::clone(&script), Arc::clone(&shared_requests));
                std::thread::spawn(move || serve_connection(stream, &*script, &requests));
            }
        });
        Self { address, requests, is_stopped }
    }

    /// `http://127.0.0.1:port`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn n_requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve_connection(stream: TcpStream, script: &Script, requests: &Mutex<Vec<Request>>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read_request(&mut reader) {
        {
            let mut requests = requests.lock().unwrap();
            request.index = requests.len();
            requests.push(request.clone());
        }
        let stream = reader.get_mut();
        // What follows the head of an answer to HEAD would be read as the next answer.
        let n_bytes_max = if request.method == "HEAD" { 0 } else { usize::MAX };
        let is_written = match script(&request) {
            Reply::Full { status, headers, body } => {
                write_response(stream, status, &headers, &body, body.len().min(n_bytes_max))
            }
            Reply::Cut { status, headers, body, n_bytes_sent } => {
                let _ = write_response(stream, status, &headers, &body, n_bytes_sent);
                return;
            }
            Reply::Silence(duration) => {
                std::thread::sleep(duration);
                return;
            }
        };
        if is_written.is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n_bytes| n_bytes > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let n_bytes = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; n_bytes];
    reader.read_exact(&mut body).ok()?;
    Some(Request { index: 0, method, path, headers, body })
}

fn write_response(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
    n_bytes_sent: usize,
) -> std::io::Result<()> {
    let mut message = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(&body[..n_bytes_sent.min(body.len())]);
    stream.write_all(&message)?;
    stream.flush()
}
