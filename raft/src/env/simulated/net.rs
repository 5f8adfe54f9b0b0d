//! turmoil's network, and an ear on it: what nodes say to each other can be listened to, as it is said.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use turmoil::net::{TcpListener, TcpStream};

use super::disk::SimDisk;
use crate::env::{Listener, Net, Stream};
use crate::peer::overheard::Conversation;

/// Something of weight that was said between two nodes; pulses, empty appends and the like are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<'a> {
    /// The address that was connected to.
    pub peer: &'a str,
    /// The peer's answer, as received; otherwise a question, as sent.
    pub answer: bool,
    pub words: String,
}

/// Hears what is said on the connections that a node makes.
pub type Ear = Arc<dyn Fn(Said<'_>) + Send + Sync>;

pub(super) struct SimNet {
    pub ear: Option<Ear>,
    /// Of the machine, which says what is wrong with it.
    pub disk: SimDisk,
}

impl std::fmt::Debug for SimNet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimNet")
    }
}

/// turmoil's stream; a type of our own because it must be `Debug`.
#[derive(Debug)]
struct SimStream(TcpStream);

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Between two looks at whether a connection may be read again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A stream that was accepted, and may be read late.
#[derive(Debug)]
struct Accepted {
    stream: SimStream,
    at: Duration,
    disk: SimDisk,
    look_again: Pin<Box<Sleep>>,
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.at < self.disk.ills().unread_before {
            ready!(self.look_again.as_mut().poll(context));
            self.look_again.as_mut().reset(Instant::now() + LOOK_AGAIN);
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream that is listened to.
#[derive(Debug)]
struct Overheard<S> {
    stream: S,
    conversation: Conversation,
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.conversation.received(&buffer.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, buffer);
        if let Poll::Ready(Ok(written)) = &polled {
            self.conversation.sent(&buffer[..*written]);
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Net for SimNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let disk = self.disk.clone();
        async move { Ok(Box::new(SimListener { listener: TcpListener::bind(address).await?, disk }) as Box<dyn Listener>) }.boxed()
    }
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (address, ear) = (address.to_owned(), self.ear.clone());
        async move {
            let stream = SimStream(TcpStream::connect(address.as_str()).await?);
            Ok(match ear {
                Some(ear) => Box::new(Overheard { stream, conversation: Conversation::new(address, ear) }),
                None => Box::new(stream) as Box<dyn Stream>,
            })
        }
        .boxed()
    }
}

struct SimListener {
    listener: TcpListener,
    disk: SimDisk,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimListener")
    }
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        async move {
            let (stream, peer) = self.listener.accept().await?;
            let at = turmoil::sim_elapsed().unwrap_or_default();
            let look_again = Box::pin(tokio::time::sleep(LOOK_AGAIN));
            let accepted = Accepted { stream: SimStream(stream), at, disk: self.disk.clone(), look_again };
            Ok((Box::new(accepted) as Box<dyn Stream>, peer))
        }
        .boxed()
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
