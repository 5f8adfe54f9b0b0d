//! Where a key set comes from: a file, or an issuer's https URL.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use meridian_auth::jwt::{KEY_SET_BYTES_MAX, KeySetError};
use reqwest::{Client, ClientBuilder, Url, redirect};

/// One fetch, from dialling to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
const REDIRECTS_MAX: usize = 3;
/// Reading a small file costs nothing.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
const URL_INTERVAL: Duration = Duration::from_secs(300);
/// After a fetch that failed.
const URL_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url { client: Client, url: Url },
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is not a URL that can be asked")]
    Url,
    #[error("cannot be fetched: {0}")]
    Fetch(#[from] reqwest::Error),
    #[error("is answered with status {0}")]
    Status(u16),
    #[error("is larger than {KEY_SET_BYTES_MAX} bytes")]
    Large,
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

impl Source {
    pub fn of(location: &str) -> Result<Source, SourceError> {
        if location.starts_with("https://") { Source::url(location, Client::builder()) } else { Ok(Source::File(location.into())) }
    }

    pub(super) fn url(location: &str, client: ClientBuilder) -> Result<Source, SourceError> {
        let url = Url::parse(location).map_err(|_| SourceError::Url)?;
        // A redirect to another host would let that host say whose tokens are believed.
        let same_origin = redirect::Policy::custom(|attempt| {
            let origin = attempt.previous().first().map(Url::origin);
            let stays = origin.is_some_and(|origin| origin == attempt.url().origin());
            if stays && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
        });
        let client = client.https_only(true).redirect(same_origin).timeout(FETCH_DEADLINE).build()?;
        Ok(Source::Url { client, url })
    }

    pub fn is_file(&self) -> bool {
        matches!(self, Source::File(_))
    }

    pub fn interval(&self, failing: bool) -> Duration {
        match self {
            Source::File(_) => FILE_INTERVAL,
            Source::Url { .. } if failing => URL_AGAIN,
            Source::Url { .. } => URL_INTERVAL,
        }
    }

    pub async fn read(&self) -> Result<Vec<u8>, SourceError> {
        let mut document = Vec::new();
        match self {
            Source::File(path) => {
                std::fs::File::open(path)?.take(KEY_SET_BYTES_MAX as u64 + 1).read_to_end(&mut document)?;
            }
            Source::Url { client, url } => {
                let mut response = client.get(url.clone()).send().await?;
                // A redirect that was not followed ends here too.
                if !response.status().is_success() {
                    return Err(SourceError::Status(response.status().as_u16()));
                }
                while let Some(chunk) = response.chunk().await? {
                    document.extend_from_slice(&chunk);
                    if document.len() > KEY_SET_BYTES_MAX {
                        return Err(SourceError::Large);
                    }
                }
            }
        }
        if document.len() > KEY_SET_BYTES_MAX { Err(SourceError::Large) } else { Ok(document) }
    }
}
