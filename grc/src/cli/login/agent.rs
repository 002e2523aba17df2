//! The ssh agent: which keys it has, and its signatures (draft-miller-ssh-agent, 3.5 and 3.6). Two
//! questions of its protocol are all that is needed.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::cli::client::reason;
use crate::login::key::Key;
use crate::login::wire::{put_string, take_string};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// For RSA: sha512 instead of sha1.
const RSA_SHA2_512: u32 = 4;
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// For an answer that nobody has to think about.
pub const LIST_TIME: Duration = Duration::from_secs(5);

/// A connection to the user's agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    /// Why it is of no use any more: what it says next would answer an earlier question.
    failed: Option<String>,
}

impl Agent {
    /// # Errors
    /// Nobody listens there; in words.
    pub async fn connect(socket: &Path) -> Result<Self, String> {
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Self { stream, failed: None }),
            Err(error) => Err(format!("the ssh agent at {}: {}", socket.display(), reason(&error))),
        }
    }

    /// The keys that can be used here, in the agent's order. Others are passed over.
    pub async fn keys(&mut self) -> Result<Vec<Key>, String> {
        let answer = self.ask(&[REQUEST_IDENTITIES], Instant::now() + LIST_TIME).await?;
        keys_of(&answer).ok_or_else(|| "the ssh agent cannot be understood".to_owned())
    }

    /// Its signature, in the form in which ssh sends it. A person may have to allow it, until then.
    pub async fn sign(&mut self, key: &Key, data: &[u8], until: Instant) -> Result<Vec<u8>, String> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, key.as_bytes());
        put_string(&mut request, data);
        let flags = if key.is_rsa() { RSA_SHA2_512 } else { 0 };
        request.extend_from_slice(&flags.to_be_bytes());
        let answer = self.ask(&request, until).await?;
        match answer.split_first() {
            Some((&SIGN_RESPONSE, mut rest)) => {
                let signature = take_string(&mut rest).map(<[u8]>::to_vec);
                signature.ok_or_else(|| "the ssh agent cannot be understood".to_owned())
            }
            _ => Err(format!("the ssh agent does not sign with {key}")),
        }
    }

    async fn ask(&mut self, request: &[u8], until: Instant) -> Result<Vec<u8>, String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let (mut message, begun) = (Vec::new(), Instant::now());
        put_string(&mut message, request);
        let exchange = async {
            self.stream.write_all(&message).await?;
            let length = self.stream.read_u32().await? as usize;
            if length > ANSWER_BYTES_MAX {
                return Err(std::io::Error::other("its answer is too long"));
            }
            let mut answer = vec![0; length];
            self.stream.read_exact(&mut answer).await.map(|_| answer)
        };
        let why = match timeout_at(until, exchange).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => format!("the ssh agent went away: {}", reason(&error)),
            Err(_) => format!("the ssh agent did not answer within {} s", (until - begun).as_secs()),
        };
        self.failed = Some(why.clone());
        Err(why)
    }
}

fn keys_of(answer: &[u8]) -> Option<Vec<Key>> {
    let (&IDENTITIES_ANSWER, rest) = answer.split_first()? else { return None };
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (key, _comment) = (take_string(&mut rest)?, take_string(&mut rest)?);
        keys.extend(Key::from_bytes(key));
    }
    Some(keys)
}
