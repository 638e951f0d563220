//! Taskcluster credentials: who calls, with which secret, and until when.

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

/// Credentials are not used closer to their end than this, or than a quarter of their whole life, where that is less.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);

/// Renewed this long before their end …
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(30);

/// … but not sooner than this from now …
const NOT_SOONER: SignedDuration = SignedDuration::from_mins(5);

/// … unless their end is nearer than that: then at least so long before it, and twice the margin.
const AT_LEAST_BEFORE: SignedDuration = SignedDuration::from_secs(30);

/// Taskcluster credentials, permanent or temporary.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The client's name; not a secret.
    pub client_id: String,
    /// The secret that goes with `client_id`.
    pub access_token: SecretString,
    /// For temporary credentials: a string that holds JSON, handed on unchanged. It is signed, and as secret as
    /// the token.
    pub certificate: Option<SecretString>,
    /// When they stop being valid; `None`: never.
    pub expires: Option<Timestamp>,
    /// When they were obtained, by the host's clock, where that is known: what they have lived since then says how
    /// close to their end they may come.
    pub obtained: Option<Timestamp>,
}

impl Credentials {
    /// When they must not be used any longer: 2 min before their end, or a quarter of the time they had when they were
    /// obtained, where that is less. `None`: never.
    pub fn last_use(&self) -> Option<Timestamp> {
        let expires = self.expires?;
        Some(before(expires, self.margin(expires)))
    }

    /// Whether they can be used now.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.last_use().is_none_or(|last| now < last)
    }

    /// How long from `now` until they should be renewed; zero: they are due. `None`: they never expire.
    pub fn renewal_in(&self, now: Timestamp) -> Option<SignedDuration> {
        let expires = self.expires?;
        let left = expires.duration_since(now);
        let early = (left - RENEW_BEFORE).max(NOT_SOONER);
        let latest = (left - AT_LEAST_BEFORE).min(left - self.margin(expires) * 2);
        Some(early.min(latest).max(SignedDuration::ZERO))
    }

    fn margin(&self, expires: Timestamp) -> SignedDuration {
        let life = self.obtained.map(|obtained| expires.duration_since(obtained));
        life.map_or(MARGIN, |life| MARGIN.min(life / 4).max(SignedDuration::ZERO))
    }
}

fn before(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn seconds(count: i64) -> SignedDuration {
        SignedDuration::from_secs(count)
    }

    /// Obtained at `NOW`, with this life.
    fn living(life: SignedDuration) -> Credentials {
        Credentials {
            client_id: "c".to_owned(),
            access_token: "t".into(),
            certificate: None,
            expires: Some(NOW + life),
            obtained: Some(NOW),
        }
    }

    #[test]
    fn permanent_credentials_are_never_renewed_and_always_usable() {
        let permanent = Credentials { expires: None, ..living(seconds(1)) };
        assert_eq!(permanent.renewal_in(NOW), None);
        assert_eq!(permanent.last_use(), None);
        assert!(permanent.usable(NOW + seconds(1_000_000_000)));
    }

    #[test]
    fn long_lived_credentials_are_renewed_half_an_hour_before_their_end() {
        let hours = |count: i64| seconds(count * 3600);
        let credentials = living(hours(96));
        assert_eq!(credentials.renewal_in(NOW), Some(hours(96) - seconds(1800)));
        assert_eq!(credentials.renewal_in(NOW + hours(95)), Some(seconds(1800)));
        // A host that slept through it.
        assert_eq!(credentials.renewal_in(NOW + hours(95) + seconds(3300)), Some(seconds(60)));
        assert_eq!(credentials.renewal_in(NOW + hours(200)), Some(SignedDuration::ZERO));
        assert_eq!(credentials.last_use(), Some(NOW + hours(96) - seconds(120)));
    }

    #[test]
    fn short_lived_credentials_keep_twice_their_margin_and_half_a_minute() {
        // Life, renewed after, last used at: seconds.
        for (life, renewed, last) in
            [(40, 10, 30), (20, 0, 15), (60, 30, 45), (480, 240, 360), (1200, 300, 1080), (3600, 1800, 3480)]
        {
            let credentials = living(seconds(life));
            assert_eq!(credentials.renewal_in(NOW), Some(seconds(renewed)), "{life}");
            assert_eq!(credentials.last_use(), Some(NOW + seconds(last)), "{life}");
        }
    }

    #[test]
    fn credentials_of_unknown_age_keep_the_whole_margin() {
        let credentials = Credentials { obtained: None, ..living(seconds(40)) };
        assert_eq!(credentials.renewal_in(NOW), Some(SignedDuration::ZERO));
        assert!(!credentials.usable(NOW));
    }

    #[test]
    fn credentials_that_expired_before_they_were_obtained_are_due_and_unusable() {
        let credentials = living(seconds(-5));
        assert_eq!(credentials.renewal_in(NOW), Some(SignedDuration::ZERO));
        assert!(!credentials.usable(NOW));
    }
}
