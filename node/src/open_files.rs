//! How many files and sockets this process may have open: as many as it is allowed to, and no start where that is too few.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Without partitions a node needs a tenth of that; every replica keeps a file open for each of its segments.
const OPEN_FILES_MIN: u64 = 1024;
/// With fewer a node starts, and says how far it reaches.
const OPEN_FILES_PLENTY: u64 = 65_536;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may have {allowed} files open and needs at least {OPEN_FILES_MIN}, beside one for each segment of each replica: raise the hard \
     limit (LimitNOFILE= in a systemd unit, --ulimit nofile= of a container, ulimit -Hn in a shell)"
)]
pub struct OpenFilesError {
    allowed: u64,
}

/// Raises the soft limit to the hard one. Returns what is allowed now.
pub fn raise() -> Result<u64, OpenFilesError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    // None: without limit.
    let allowed = if raised { maximum } else { current }.unwrap_or(u64::MAX);
    enough(allowed)
}

fn enough(allowed: u64) -> Result<u64, OpenFilesError> {
    if allowed < OPEN_FILES_MIN {
        return Err(OpenFilesError { allowed });
    }
    if allowed < OPEN_FILES_PLENTY {
        tracing::warn!(allowed, "few files may be open: every replica keeps one for each of its segments (raise the hard limit)");
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let allowed = raise().expect("enough for a test");
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, current.unwrap_or(u64::MAX)), (maximum, allowed));
    }

    #[test]
    fn too_few_are_refused_with_what_to_do() {
        let refusal = enough(256).expect_err("too few").to_string();
        assert!(refusal.contains("256 files") && refusal.contains("LimitNOFILE"), "{refusal}");
    }
}
