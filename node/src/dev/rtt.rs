//! `--rtt us-eu=80ms,us-asia=160ms`: how far regions are from each other.

use std::time::Duration;

/// Light needs 134 ms around the world; a detour through space 600.
const RTT_MS_MAX: u64 = 10_000;

/// Two regions and the round trip between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distance {
    pub regions: [String; 2],
    pub rtt: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--rtt {text:?} {problem}")]
pub struct RttError {
    text: String,
    problem: String,
}

/// Reads `A-B=TIMEms` for regions of this mesh.
pub fn parse(text: &str, regions: &[String]) -> Result<Distance, RttError> {
    let refused = |problem: String| RttError { text: text.to_owned(), problem };
    let form = || refused("is not REGION-REGION=NUMBERms, for example us-eu=80ms".to_owned());
    let (pair, time) = text.split_once('=').ok_or_else(form)?;
    let number = time.strip_suffix("ms").ok_or_else(form)?;
    let rtt_ms: u64 = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(form)?;
    if rtt_ms > RTT_MS_MAX {
        return Err(refused(format!("is more than {RTT_MS_MAX}ms")));
    }
    // A region's name may have a hyphen itself.
    let splits = pair.match_indices('-').map(|(at, _)| (&pair[..at], &pair[at + 1..]));
    let is_region = |name: &str| regions.iter().any(|region| region == name);
    let mut known = splits.filter(|(a, b)| is_region(a) && is_region(b) && a != b);
    match (known.next(), known.next()) {
        (Some((a, b)), None) => Ok(Distance { regions: [a.to_owned(), b.to_owned()], rtt: Duration::from_millis(rtt_ms) }),
        (Some(_), Some(_)) => Err(refused("names more than one pair of regions".to_owned())),
        (None, _) => Err(refused(format!("does not name two regions of {}", regions.join(",")))),
    }
}

/// Reads all of them; each pair may be named once.
pub fn parse_all(texts: &[String], regions: &[String]) -> Result<Vec<Distance>, RttError> {
    let mut distances: Vec<Distance> = Vec::new();
    for text in texts {
        let distance = parse(text, regions)?;
        if distances.iter().any(|held| distance.regions.iter().all(|region| held.regions.contains(region))) {
            return Err(RttError { text: text.clone(), problem: "names a pair of regions again".to_owned() });
        }
        distances.push(distance);
    }
    Ok(distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions() -> Vec<String> {
        ["us", "us-east", "eu", "east-eu"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_distance_names_two_regions_whose_names_may_have_hyphens() {
        let read = |text| parse(text, &regions()).map(|Distance { regions: [a, b], rtt }| (a, b, rtt.as_millis()));
        assert_eq!(read("us-eu=80ms"), Ok(("us".into(), "eu".into(), 80)));
        assert_eq!(read("eu-us-east=0ms"), Ok(("eu".into(), "us-east".into(), 0)));
        let ambiguous = read("us-east-eu=1ms").expect_err("us-east and eu, or us and east-eu").to_string();
        assert!(ambiguous.contains("more than one pair"), "{ambiguous}");
    }

    #[test]
    fn what_is_no_distance_is_refused() {
        for text in ["us-eu", "us-eu=80", "us-eu=+8ms", "us-eu=ms", "us-us=1ms", "us-asia=1ms", "us=1ms", "us-eu=10001ms", ""] {
            assert!(parse(text, &regions()).is_err(), "{text}");
        }
        let twice = ["us-eu=1ms", "eu-us=2ms"].map(str::to_owned);
        assert!(parse_all(&twice, &regions()).expect_err("twice").to_string().contains("again"));
    }
}
