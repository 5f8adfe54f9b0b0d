//! Apache Kafka's own Java client, driven by `clients/java/Flights.java` with the properties file that `meridian dev` writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::client::{Digest, Loaded, Resumed, answer, cache, install, told};
use super::{ScenarioError, io};

const SOURCE: &str = include_str!("../../clients/java/Flights.java");
const POM: &str = include_str!("../../clients/java/pom.xml");

#[derive(Debug)]
pub struct Java {
    classpath: String,
    /// Of the region that is spoken to.
    properties: PathBuf,
    /// The only file that the client is allowed to read a token from.
    token: PathBuf,
}

impl Java {
    /// Fetches the client from its registry on first use, and compiles the workload into `dir`.
    pub fn prepare(dir: &Path, properties: PathBuf, token: &Path) -> Result<Java, ScenarioError> {
        let classes = dir.join("java");
        std::fs::create_dir_all(&classes).map_err(io("java"))?;
        std::fs::write(classes.join("Flights.java"), SOURCE).map_err(io("Flights.java"))?;
        let library = jars("java", POM)?;
        let jars = format!("{}/*", library.display());
        let source = classes.join("Flights.java");
        install(Path::new("javac"), &["-cp", &jars, "-d", &classes.to_string_lossy(), &source.to_string_lossy()])?;
        Ok(Java { classpath: format!("{jars}:{}", classes.display()), properties, token: token.to_owned() })
    }

    /// The same client, speaking to another region.
    pub fn with(&self, properties: PathBuf) -> Java {
        Java { classpath: self.classpath.clone(), token: self.token.clone(), properties }
    }

    pub async fn load(&self, topic: &str, file: &Path) -> Result<Loaded, ScenarioError> {
        told(self.run("load", &[topic, &file.to_string_lossy()]).await?)
    }

    pub async fn digest(&self, topic: &str) -> Result<Digest, ScenarioError> {
        told(self.run("digest", &[topic]).await?)
    }

    pub async fn resume(&self, topic: &str, count: u64) -> Result<Resumed, ScenarioError> {
        told(self.run("resume", &[topic, "resume-java", &count.to_string()]).await?)
    }

    async fn run(&self, verb: &str, arguments: &[&str]) -> Result<serde_json::Value, ScenarioError> {
        let mut command = jvm(&self.token, &self.classpath);
        command.args(["Flights", verb]).arg(&self.properties).args(arguments);
        answer(command, "the Java client").await
    }
}

/// What a pom asks for, in a folder of the user's cache; fetched on first use.
pub(super) fn jars(name: &str, pom: &str) -> Result<PathBuf, ScenarioError> {
    let library = cache()?.join(name);
    let complete = library.join("complete");
    if !complete.exists() {
        let probe = Command::new("mvn").arg("--version").stdout(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            return Err(ScenarioError::Skipped("no mvn, so nothing of Kafka's in Java".into()));
        }
        std::fs::create_dir_all(&library).map_err(io("a folder for jars"))?;
        let file = library.join("pom.xml");
        std::fs::write(&file, pom).map_err(io("pom.xml"))?;
        let output = format!("-DoutputDirectory={}", library.display());
        install(Path::new("mvn"), &["-q", "-B", "-f", &file.to_string_lossy(), "dependency:copy-dependencies", &output])?;
        std::fs::write(&complete, "").map_err(io("a folder for jars"))?;
    }
    Ok(library)
}

/// A JVM that may read the mesh's token: a client reads only token files that its operator has named, by URL up to 4.0, by path since.
pub(super) fn jvm(token: &Path, classpath: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("java");
    let token = token.display();
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{token}"));
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={token}"));
    command.args(["-cp", classpath]).stdin(Stdio::null()).kill_on_drop(true);
    command
}
