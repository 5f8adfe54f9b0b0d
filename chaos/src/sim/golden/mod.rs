//! Golden transcripts: what an engineer would see of the protocol in a few fixed scenes, as text that is kept in `chaos/golden`.
//!
//! A [`scene`](scenes) is played by whole nodes on a [`stage`]; what is written down is what they say to each other on the simulated network and
//! what their replicas are and hold ([`transcript`]). A change of the protocol shows as a difference in these texts, to be read and then kept.

mod scenes;
mod stage;
mod transcript;

use std::io;
use std::path::Path;

pub use scenes::SCENES;

/// One scene, by the name of its file.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    pub name: &'static str,
    /// What happens.
    pub title: &'static str,
    play: fn(&mut stage::Stage) -> Result<(), String>,
}

#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("{scene}: {what}")]
    Scene { scene: &'static str, what: String },
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{name}.txt is not what is seen now (- kept, + seen); once read and found right: meridian-chaos golden --write\n{difference}")]
    Differs { name: &'static str, difference: String },
}

impl Scene {
    /// Plays it; the transcript.
    pub fn transcript(self) -> Result<String, GoldenError> {
        let failed = |what| GoldenError::Scene { scene: self.name, what };
        let mut stage = stage::Stage::new(self.title);
        (self.play)(&mut stage).map_err(|what| failed(format!("{what}; seen so far:\n{}", stage.transcript())))?;
        Ok(stage.transcript())
    }

    /// Compares what is seen now with what is kept in the folder.
    pub fn compare(self, folder: &Path) -> Result<(), GoldenError> {
        let (path, seen) = (folder.join(self.name).with_extension("txt"), self.transcript()?);
        let kept = std::fs::read_to_string(&path).map_err(|error| GoldenError::File { path: path.display().to_string(), error })?;
        if kept == seen { Ok(()) } else { Err(GoldenError::Differs { name: self.name, difference: difference(&kept, &seen) }) }
    }

    pub fn write(self, folder: &Path) -> Result<(), GoldenError> {
        let path = folder.join(self.name).with_extension("txt");
        std::fs::write(&path, self.transcript()?).map_err(|error| GoldenError::File { path: path.display().to_string(), error })
    }
}

/// Lines of both texts, in order: those of one alone marked, the others only near these.
fn difference(kept: &str, seen: &str) -> String {
    const NEAR: usize = 2;
    let (kept, seen): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), seen.lines().collect());
    let lines = aligned(&kept, &seen);
    let near = |at: usize| lines[at.saturating_sub(NEAR)..lines.len().min(at + NEAR + 1)].iter().any(|(mark, _)| *mark != ' ');
    let shown = lines.iter().enumerate().filter(|(at, _)| near(*at));
    shown.map(|(_, (mark, line))| format!("{mark} {line}\n")).collect()
}

/// By the longest common subsequence; the texts are short.
fn aligned<'a>(kept: &[&'a str], seen: &[&'a str]) -> Vec<(char, &'a str)> {
    let mut common = vec![vec![0usize; seen.len() + 1]; kept.len() + 1];
    for one in (0..kept.len()).rev() {
        for other in (0..seen.len()).rev() {
            common[one][other] = match kept[one] == seen[other] {
                true => common[one + 1][other + 1] + 1,
                false => common[one + 1][other].max(common[one][other + 1]),
            };
        }
    }
    let (mut one, mut other, mut lines) = (0, 0, Vec::new());
    while one < kept.len() || other < seen.len() {
        if one < kept.len() && other < seen.len() && kept[one] == seen[other] {
            lines.push((' ', kept[one]));
            (one, other) = (one + 1, other + 1);
        } else if other == seen.len() || one < kept.len() && common[one + 1][other] >= common[one][other + 1] {
            lines.push(('-', kept[one]));
            one += 1;
        } else {
            lines.push(('+', seen[other]));
            other += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_is_what_is_kept() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        let differing: Vec<String> =
            SCENES.iter().filter_map(|scene| scene.compare(&folder).err()).map(|error| error.to_string()).collect();
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    }

    #[test]
    fn a_difference_shows_what_is_gone_and_what_is_new_and_little_else() {
        let shown = difference("a\nb\nc\nd\ne\nf\ng\n", "a\nb\nc\nd\ne\nF\ng\nh\n");
        assert_eq!(shown, "  d\n  e\n- f\n+ F\n  g\n+ h\n");
    }
}
