//! What a stock client needs to connect to a region as the mesh's superuser, ready to be given to it: one file per region and kind of client.

use super::document::Document;
use super::files::{self, FileError, Readers};
use super::layout::ADMIN;

/// Java; reads the token's file, and reads it again before the token expires. Its JVM must be told that it may.
pub const JAVA_FILE: &str = "client.properties";
/// Java; holds the token itself, so it goes as it is, until the token expires.
pub const JAVA_PLAIN_FILE: &str = "client-plain.properties";
/// librdkafka (`kcat -F FILE`, Python, Go, …); holds the token itself.
pub const LIBRDKAFKA_FILE: &str = "librdkafka.properties";

/// Writes the files into each region's folder. Those that hold the token are their owner's alone.
pub fn write(document: &Document, token: &str) -> Result<(), FileError> {
    for (name, region) in &document.regions {
        let folder = document.dir.join(name);
        files::replace(&folder.join(JAVA_FILE), &java(document, &region.bootstrap), Readers::All)?;
        files::replace(&folder.join(JAVA_PLAIN_FILE), &java_plain(document, &region.bootstrap, token), Readers::Owner)?;
        files::replace(&folder.join(LIBRDKAFKA_FILE), &librdkafka(document, &region.bootstrap, token), Readers::Owner)?;
    }
    Ok(())
}

fn java(document: &Document, bootstrap: &str) -> String {
    let (ca, token) = (document.ca.display(), document.admin_token.display());
    format!(
        r"# For Java clients of Kafka 4.0 and later. They read a token's file only when their JVM is told that they may:
#   KAFKA_OPTS=-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{token} -Dorg.apache.kafka.sasl.oauthbearer.allowed.files={token}
# (4.0 asks for the first, 4.1 and later for the second too.)
bootstrap.servers={bootstrap}
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location={ca}
sasl.mechanism=OAUTHBEARER
sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
sasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler
sasl.oauthbearer.token.endpoint.url=file://{token}
"
    )
}

fn java_plain(document: &Document, bootstrap: &str, token: &str) -> String {
    let ca = document.ca.display();
    format!(
        r#"# For Java clients of Kafka 2.7 and later. The password is a token that expires within a day; the running mesh writes a new one in time.
bootstrap.servers={bootstrap}
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location={ca}
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="{ADMIN}" password="{token}";
"#
    )
}

fn librdkafka(document: &Document, bootstrap: &str, token: &str) -> String {
    let ca = document.ca.display();
    format!(
        r"# For clients built on librdkafka. The password is a token that expires within a day; the running mesh writes a new one in time.
bootstrap.servers={bootstrap}
security.protocol=SASL_SSL
ssl.ca.location={ca}
sasl.mechanisms=PLAIN
sasl.username={ADMIN}
sasl.password={token}
"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::dev::layout::Layout;

    #[test]
    fn a_file_that_holds_the_token_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().to_path_buf();
        let regions = std::collections::BTreeMap::new();
        let mut document = Document { ready: true, ca: path.join("ca.pem"), admin_token: path.join("t"), dir: path, regions };
        for place in (Layout { regions: vec!["us".to_owned()], nodes: 1 }).places(dir.path(), 19_000) {
            std::fs::create_dir_all(&place.home).expect("a folder");
            document.add(&place, None);
        }
        write(&document, "abc.def.ghi").expect("written");
        for (file, mode) in [(JAVA_FILE, 0o644), (JAVA_PLAIN_FILE, 0o600), (LIBRDKAFKA_FILE, 0o600)] {
            let path = dir.path().join("us").join(file);
            let text = std::fs::read_to_string(&path).expect("written");
            assert!(text.contains("bootstrap.servers=127.0.0.1:19000\n"), "{text}");
            assert_eq!(text.contains("abc.def.ghi"), mode == 0o600, "{file}");
            let permissions = std::fs::metadata(&path).expect("written").permissions().mode();
            assert_eq!(permissions & 0o777, mode, "{file}");
        }
    }
}
