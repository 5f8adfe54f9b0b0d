//! `client.properties` (Java) and `librdkafka.properties` of each region: all that a stock client needs to connect as the mesh's superuser.

use super::document::Document;
use super::files::{self, FileError, Readers};

pub const JAVA_FILE: &str = "client.properties";
pub const LIBRDKAFKA_FILE: &str = "librdkafka.properties";

/// Writes both files into each region's folder. Neither holds a token: Java reads its file, librdkafka is told on its command line.
pub fn write(document: &Document) -> Result<(), FileError> {
    for (name, region) in &document.regions {
        let folder = document.dir.join(name);
        files::replace(&folder.join(JAVA_FILE), &java(document, &region.bootstrap), Readers::All)?;
        files::replace(&folder.join(LIBRDKAFKA_FILE), &librdkafka(document, &region.bootstrap), Readers::All)?;
    }
    Ok(())
}

/// For kafka-clients 4.0 and later. The token is read again before it expires.
fn java(document: &Document, bootstrap: &str) -> String {
    let (ca, token) = (document.ca.display(), document.admin_token.display());
    format!(
        r"# For Java clients of Kafka 4.0 and later. They read a token file only when their JVM is told that they may:
#   KAFKA_OPTS=-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{token}
# (from 4.1 on also -Dorg.apache.kafka.sasl.oauthbearer.allowed.files={token})
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

fn librdkafka(document: &Document, bootstrap: &str) -> String {
    let (ca, token) = (document.ca.display(), document.admin_token.display());
    format!(
        r"# For clients built on librdkafka (kcat -F FILE, confluent-kafka, …). librdkafka takes a JWT from its application: in Python for example
#   Consumer({{…, 'oauth_cb': lambda _: (token := open('{token}').read().strip(), exp_of(token))}})
bootstrap.servers={bootstrap}
security.protocol=SASL_SSL
ssl.ca.location={ca}
sasl.mechanism=OAUTHBEARER
"
    )
}
