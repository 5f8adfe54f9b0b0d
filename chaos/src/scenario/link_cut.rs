//! Scenario 22: the links between the home and one mirror are cut under load and healed. Staleness must grow while they are cut, the other
//! mirror must not notice, and the mirror must catch up with no gap and no duplicate.

use std::time::Duration;

use tokio::time::Instant;

use super::{HOME, ScenarioError, Stage, TOPIC};

const CALM: Duration = Duration::from_secs(3);
/// A mirror that is in step tells a staleness below this, ms.
const IN_STEP_MS: i64 = 2_000;
const CATCH_UP: Duration = Duration::from_secs(30);
const CUT_OFF: &str = "eu";
const UNHARMED: &str = "asia";

pub async fn play(stage: &mut Stage) -> Result<serde_json::Value, ScenarioError> {
    tokio::time::sleep(CALM).await;
    stage.mesh.command(&["link", "cut", HOME, CUT_OFF]).await?;
    stage.fault(format!("cut every link between {HOME} and {CUT_OFF}"));
    let cut = Instant::now();
    let mut honest = true;
    while cut.elapsed() < stage.plan.duration {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Unknown is honest; a number must not be younger than the cut, give or take what was told just before it.
        let told_ms = stage.mesh.staleness_ms(TOPIC, CUT_OFF).await?;
        let least_ms = cut.elapsed().as_millis() as i64 - 2_000;
        if told_ms.is_some_and(|told| told < least_ms) {
            honest = false;
            stage.broken.push(format!("{CUT_OFF} told a staleness of {told_ms:?} ms {} ms into the cut", cut.elapsed().as_millis()));
        }
    }
    let at_heal_ms = stage.mesh.staleness_ms(TOPIC, CUT_OFF).await?;
    let unharmed_ms = stage.mesh.staleness_ms(TOPIC, UNHARMED).await?;
    if unharmed_ms.is_none_or(|told| told > IN_STEP_MS) {
        stage.broken.push(format!("{UNHARMED} fell behind during the cut of {CUT_OFF}: staleness {unharmed_ms:?} ms"));
    }
    stage.mesh.command(&["link", "heal", HOME, CUT_OFF]).await?;
    stage.fault(format!("healed every link between {HOME} and {CUT_OFF}"));
    let healed = Instant::now();
    while stage.mesh.staleness_ms(TOPIC, CUT_OFF).await?.is_none_or(|told| told > IN_STEP_MS) {
        if healed.elapsed() > CATCH_UP {
            stage.broken.push(format!("{CUT_OFF} was not in step again within {} s", CATCH_UP.as_secs()));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let caught_up_ms = healed.elapsed().as_millis();
    tokio::time::sleep(CALM).await;
    Ok(serde_json::json!({
        "cut_ms": stage.plan.duration.as_millis(), "staleness_at_heal_ms": at_heal_ms, "staleness_elsewhere_ms": unharmed_ms,
        "in_step_again_after_ms": caught_up_ms, "staleness_honest_throughout": honest,
    }))
}
