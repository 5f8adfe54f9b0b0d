//! The client's first SASL message, by mechanism: both carry a JWT.

/// A mechanism that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    OauthBearer,
    Plain,
}

/// Names as SaslHandshake lists them.
pub const MECHANISMS: [&str; 2] = ["OAUTHBEARER", "PLAIN"];

impl Mechanism {
    pub fn named(name: &str) -> Option<Mechanism> {
        match name {
            "OAUTHBEARER" => Some(Mechanism::OauthBearer),
            "PLAIN" => Some(Mechanism::Plain),
            _ => None,
        }
    }
}

/// What a client claims: a token, and possibly whom it says it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    pub user: Option<&'a str>,
    pub token: &'a str,
}

impl std::fmt::Debug for Claim<'_> {
    /// Never the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("user", &self.user).finish_non_exhaustive()
    }
}

/// PLAIN's user name of a client that has a token and no name.
const ANY_USER: &str = "token";

impl<'a> Claim<'a> {
    /// None when it is not a message of that mechanism.
    pub fn parse(mechanism: Mechanism, message: &'a [u8]) -> Option<Claim<'a>> {
        let text = std::str::from_utf8(message).ok()?;
        match mechanism {
            Mechanism::OauthBearer => bearer(text),
            Mechanism::Plain => plain(text),
        }
    }

    /// Does the name go with the token's subject?
    pub fn speaks_for(&self, subject: &str) -> bool {
        self.user.is_none_or(|user| user == subject || user == ANY_USER)
    }
}

/// RFC 7628: `n,[a=USER],\x01` then `key=value\x01` pairs, one of them `auth=Bearer TOKEN`, then `\x01`.
fn bearer(text: &str) -> Option<Claim<'_>> {
    let (header, pairs) = text.split_once('\x01')?;
    // `n`: the client does no channel binding. `y` says it could have; neither asks for any.
    let user = header.strip_prefix("n,").or_else(|| header.strip_prefix("y,"))?.strip_suffix(',')?;
    let user = if user.is_empty() { None } else { Some(user.strip_prefix("a=")?) };
    let pairs = pairs.strip_suffix("\x01\x01").or_else(|| pairs.strip_suffix('\x01'))?;
    let mut auth = pairs.split('\x01').filter_map(|pair| pair.strip_prefix("auth="));
    let (scheme, token) = auth.next()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && auth.next().is_none()).then_some(Claim { user, token })
}

/// RFC 4616: `[authorize-as] NUL user NUL password`.
fn plain(text: &str) -> Option<Claim<'_>> {
    let mut parts = text.split('\0');
    let (authorize_as, user, token) = (parts.next()?, parts.next()?, parts.next()?);
    let sound = parts.next().is_none() && !user.is_empty() && !token.is_empty() && (authorize_as.is_empty() || authorize_as == user);
    sound.then_some(Claim { user: Some(user), token })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(mechanism: Mechanism, message: &[u8]) -> Option<(Option<&str>, &str)> {
        Claim::parse(mechanism, message).map(|claim| (claim.user, claim.token))
    }

    #[test]
    fn the_framings_that_clients_send_are_read() {
        let bearer = |message| parse(Mechanism::OauthBearer, message);
        assert_eq!(bearer(b"n,,\x01auth=Bearer a.b.c\x01\x01"), Some((None, "a.b.c")));
        assert_eq!(bearer(b"n,a=ann,\x01host=h\x01auth=bearer a.b.c\x01x=y\x01\x01"), Some((Some("ann"), "a.b.c")));
        assert_eq!(parse(Mechanism::Plain, b"\0ann\0a.b.c"), Some((Some("ann"), "a.b.c")));
        assert_eq!(parse(Mechanism::Plain, b"ann\0ann\0a.b.c"), Some((Some("ann"), "a.b.c")));
    }

    #[test]
    fn other_framings_are_refused() {
        for message in
            [&b"n,,\x01\x01"[..], b"n,,\x01auth=Basic a\x01\x01", b"p,,\x01auth=Bearer a\x01\x01", b"n,,\x01auth=Bearer \x01\x01"]
        {
            assert_eq!(parse(Mechanism::OauthBearer, message), None, "{message:?}");
        }
        assert_eq!(parse(Mechanism::OauthBearer, b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01"), None, "two tokens");
        for message in [&b"ann\0bob\0a"[..], b"\0\0a", b"\0ann\0", b"\0ann", b"\0ann\0a\0b", b"\xff\0ann\0a"] {
            assert_eq!(parse(Mechanism::Plain, message), None, "{message:?}");
        }
    }

    #[test]
    fn a_name_must_be_the_subject_or_none_at_all() {
        let named = |user| Claim { user, token: "" }.speaks_for("ann");
        assert!(named(None) && named(Some("ann")) && named(Some("token")) && !named(Some("bob")));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message in prop::collection::vec(any::<u8>(), 0..100), text in "[n,a=\\x01\\x00uthBer .]{0,60}") {
            for mechanism in [Mechanism::OauthBearer, Mechanism::Plain] {
                let _ = Claim::parse(mechanism, &message);
                let _ = Claim::parse(mechanism, text.as_bytes());
            }
        }
    }
}
