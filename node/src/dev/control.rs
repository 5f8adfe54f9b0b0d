//! How a running development mesh is told to cut and heal links: one line each way over a socket in its folder that only its owner may use.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::document::{Document, DocumentError};
use super::files::FileError;
use super::wan::{PairState, Wan};

const SOCKET_FILE: &str = "control.sock";
const REQUEST_BYTES_MAX: u64 = 256;
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// For one request, on both sides.
const PATIENCE: Duration = Duration::from_secs(5);

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Cut { a: String, b: String },
    Heal { a: String, b: String },
    List,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Pairs(Vec<PairState>),
    Refused(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the mesh in {0} does not run; start it with `meridian dev --data-dir {0} --rtt us-eu=0ms`")]
    Stopped(PathBuf),
    #[error(
        "the mesh in {0} has no relays between its regions, so there is nothing to cut; start it with --rtt, for example --rtt us-eu=0ms for one \
         without delay"
    )]
    NoRelays(PathBuf),
    #[error("{0}")]
    Refused(String),
    #[error("the mesh does not answer: {0}")]
    Io(#[from] io::Error),
}

/// The addresses of sockets are short, those of folders may be long: reach one through the other.
fn at_socket<T>(folder: &Path, reach: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let folder = File::open(folder)?;
    reach(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET_FILE))
}

/// Listens in a folder whose lock the caller has.
pub fn listen(folder: &Path) -> Result<UnixListener, FileError> {
    let path = folder.join(SOCKET_FILE);
    close(folder);
    let listener = at_socket(folder, UnixListener::bind).map_err(FileError::at(&path))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(FileError::at(&path))?;
    Ok(listener)
}

/// Removes the socket, also one that an earlier mesh left behind.
pub fn close(folder: &Path) {
    // Most often there is none.
    let _ = std::fs::remove_file(folder.join(SOCKET_FILE));
}

/// Answers, one caller after the other.
pub async fn serve(listener: UnixListener, wan: &Wan) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A caller who is slow or gone has no answer, and nobody else a loss.
                let _ = timeout(PATIENCE, answer(stream, wan)).await;
            }
            // Out of descriptors: wait for some.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: UnixStream, wan: &Wan) -> io::Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    tokio::io::BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => obey(&request, wan),
        Err(error) => Answer::Refused(format!("not a request: {error}")),
    };
    writer.write_all(format!("{}\n", serde_json::json!(answer)).as_bytes()).await
}

fn obey(request: &Request, wan: &Wan) -> Answer {
    let (a, b, cut) = match request {
        Request::List => return Answer::Pairs(wan.states()),
        Request::Cut { a, b } => (a, b, true),
        Request::Heal { a, b } => (a, b, false),
    };
    if wan.set_cut(a, b, cut) {
        return Answer::Pairs(wan.states());
    }
    let pairs: Vec<String> = wan.states().iter().map(|state| state.regions.join("-")).collect();
    Answer::Refused(format!("no relay between {a} and {b}; there are {}", pairs.join(", ")))
}

/// Asks the mesh in `folder`; answers how it stands between its regions then.
pub fn ask(folder: &Path, request: &Request) -> Result<Vec<PairState>, ControlError> {
    let stream = match at_socket(folder, BlockingStream::connect) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            let runs = Document::read(folder)?.ready && error.kind() == io::ErrorKind::NotFound;
            let (no_relays, stopped) = (ControlError::NoRelays, ControlError::Stopped);
            return Err((if runs { no_relays } else { stopped })(folder.to_path_buf()));
        }
        connected => connected?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    (&stream).write_all(format!("{}\n", serde_json::json!(request)).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    match serde_json::from_str(&line).map_err(io::Error::other)? {
        Answer::Pairs(pairs) => Ok(pairs),
        Answer::Refused(reason) => Err(ControlError::Refused(reason)),
    }
}
