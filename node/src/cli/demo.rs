//! `meridian demo`: three regions, a month of flights, a reader who may and one who may not. The README's main job, in one command.

mod folder;
mod mesh;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use flate2::read::MultiGzDecoder;
use kafka_protocol::error::ResponseError;
use meridian_auth::acl::{Binding, Operation, PatternType, Permission, ResourceType};
use meridian_auth::principal::Principal;
use meridian_raft::env::Env;
use tokio::time::Instant;

use self::folder::Folder;
use self::mesh::DemoMesh;
use self::report::Side;
use super::mesh::Asker;
use super::output::line;
use super::produce::{Key, delivered, lines, stream};
use super::progress::Progress;
use super::region::Target;
use super::{CliError, block_on, digest};
use crate::client::admin::NewTopic;
use crate::client::errors::name;
use crate::client::fetch::{Consumer, Start};
use crate::client::produce::Producer;
use crate::client::{ClientError, Cluster};
use crate::controller::topic_config::MIRRORS;
use crate::dev::issuer::{AUDIENCE, Issuer};
use crate::signals::StopSignals;

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 3;
const HOME: &str = "us";
const REGIONS: [&str; 3] = [HOME, "eu", "asia"];
/// May read the topic.
const READER: &str = "ann";
/// May not.
const STRANGER: &str = "eve";
const TOKEN_TTL_S: u32 = 60 * 60;
/// How long mirrors may take to hold everything that home has acknowledged.
const MIRROR_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LINGER: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Make the mesh in this folder, which must not be there yet, and leave the folder at the end [default: one among the machine's
    /// temporary files, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Gzipped JSON lines to stream, with a field `carrier`
    #[arg(long, value_name = "FILE", default_value = "data/flights-2013-01.jsonl.gz")]
    data: PathBuf,
    /// Leave the mesh running at the end, and its folder
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), CliError> {
        let flights = std::fs::File::open(&self.data).map_err(|error| {
            CliError::Usage(format!(
                "cannot read {}: {error}; run this from the repository's root, or give --data FILE",
                self.data.display()
            ))
        })?;
        block_on(async {
            let began = Instant::now();
            let signals = StopSignals::catch().map_err(CliError::Runtime)?;
            let folder = Folder::choose(self.dir)?;
            let shown = play(folder.path(), flights, self.keep, signals, began).await;
            match &shown {
                Ok(()) if self.keep => {}
                Ok(()) | Err(CliError::Interrupted) => folder.remove(),
                Err(_) => eprintln!("meridian: the nodes' logs stay in {}", folder.path().display()),
            }
            shown
        })
    }
}

/// Whatever happens, the mesh is stopped at the end, unless all went well and it is to be kept.
async fn play(dir: &Path, flights: std::fs::File, keep: bool, mut signals: StopSignals, began: Instant) -> Result<(), CliError> {
    let mut mesh = DemoMesh::spawn(dir, keep)?;
    let shown = tokio::select! {
        shown = async {
            mesh.ready().await?;
            show(dir, flights, began).await
        } => shown,
        () = signals.next() => Err(CliError::Interrupted),
    };
    if keep && shown.is_ok() {
        return mesh.keep(dir);
    }
    if matches!(shown, Err(CliError::Interrupted)) {
        tokio::spawn(signals.asked_to_stop_again());
    }
    mesh.stop().await;
    shown
}

async fn show(dir: &Path, flights: std::fs::File, began: Instant) -> Result<(), CliError> {
    let say = |text: String| line(format_args!("{:4.1} s  {text}", began.elapsed().as_secs_f64()));
    say("three regions of three nodes serve".into())?;
    let home = Target::of_mesh(dir, Some(HOME), None).connect()?;
    prepare(&home).await?;
    say(format!("topic {TOPIC} made in {HOME}, mirrored to eu and asia; User:{READER} may read it"))?;

    let producer = Producer::open(home.clone(), TOPIC, LINGER).await?;
    let flights = lines(MultiGzDecoder::new(flights));
    let (delivery, seconds) = stream(producer, flights, &Key::Field("carrier".into()), None, Progress::silent()).await?;
    let sent = delivered(delivery)?;
    say(format!("{sent} flights acknowledged in {HOME} ({:.0} a second), each on two disks of three at least", sent as f64 / seconds))?;

    let reader = token(dir, READER)?;
    let mut sides = Vec::new();
    for region in REGIONS {
        // Home is read as the operator, so that a reader's refusal cannot pass for agreement.
        let as_whom = if region == HOME { None } else { Some(reader.as_path()) };
        sides.push(side(dir, region, as_whom, sides.first()).await?);
    }
    say(format!("every record read back in every region, in eu and asia as User:{READER}"))?;

    let refusal = refusal(dir).await?;
    say(format!("User:{STRANGER}, who has a good token and no rule, is refused in eu: {}", name(refusal)))?;
    report::tell(sent, &sides)
}

/// Topic and rule.
async fn prepare(home: &Cluster) -> Result<(), CliError> {
    let configs = [(MIRRORS.to_owned(), "eu,asia".to_owned())].into();
    let topic = NewTopic { name: TOPIC.into(), partitions: Some(PARTITIONS), replication_factor: Some(3), configs };
    home.create_topic(&topic).await?;
    let rule = Binding {
        resource: ResourceType::Topic,
        pattern: PatternType::Literal,
        name: TOPIC.into(),
        principal: Principal::user(READER),
        host: "*".into(),
        operation: Operation::Read,
        permission: Permission::Allow,
    };
    home.create_acls(&[rule]).await?;
    Ok(())
}

/// Writes a token for `User:subject` beside the mesh's own, readable by its owner alone.
fn token(dir: &Path, subject: &str) -> Result<PathBuf, CliError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let now_s = Env::real().clock.wall_us() / 1_000_000;
    let token = Issuer::open(dir)?.issue(subject, AUDIENCE, TOKEN_TTL_S, now_s)?;
    let path = dir.join(format!("{subject}.token"));
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    opened.and_then(|mut file| file.write_all(token.as_bytes())).map_err(CliError::Records)?;
    Ok(path)
}

/// What one region holds, once it holds as much as home.
async fn side(dir: &Path, region: &str, token: Option<&Path>, home: Option<&Side>) -> Result<Side, CliError> {
    let place = Target::of_mesh(dir, Some(region), token).place()?;
    let until = Instant::now() + MIRROR_PATIENCE;
    loop {
        let holding = match digest::read(place.cluster(), TOPIC).await {
            // The topic and who may read it arrive here a moment after home has them.
            Err(_) if Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            read => read?,
        };
        let is_complete = home.is_none_or(|home| holding.end_offsets == home.holding.end_offsets);
        if is_complete || Instant::now() > until {
            let asker = Asker::new(&Target::of_mesh(dir, Some(region), None).place()?)?;
            let status = asker.status().await?;
            return Ok(Side { region: region.into(), holding, staleness_ms: report::staleness(&status, TOPIC, region) });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The error that a principal without any rule gets; it is a failure of the demonstration if there is none.
async fn refusal(dir: &Path) -> Result<ResponseError, CliError> {
    let stranger = token(dir, STRANGER)?;
    let cluster = Target::of_mesh(dir, Some("eu"), Some(&stranger)).connect()?;
    let read = match Consumer::open(cluster, TOPIC, None, Start::Beginning).await {
        Ok(mut consumer) => consumer.poll().await.map(|_| ()),
        Err(error) => Err(error),
    };
    match read {
        Err(ClientError::Kafka { error, .. }) if error == ResponseError::TopicAuthorizationFailed => Ok(error),
        Err(error) => Err(error.into()),
        Ok(()) => Err(CliError::Demo(format!("User:{STRANGER} could read {TOPIC} without a rule that allows it"))),
    }
}
