//! Taskcluster credentials: client id, access token and expiry.

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

/// Credentials are not used within this time before their expiry, or within a quarter of their lifetime if that is
/// less.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);

/// Credentials are renewed this long before their expiry …
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(30);

/// … but not sooner than this from now …
const NOT_SOONER: SignedDuration = SignedDuration::from_mins(5);

/// … unless they expire before that: then at least this long before expiry, and at least twice the margin.
const AT_LEAST_BEFORE: SignedDuration = SignedDuration::from_secs(30);

/// Taskcluster credentials, permanent or temporary.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The client's name, which is not secret.
    pub client_id: String,
    /// The secret of `client_id`.
    pub access_token: SecretString,
    /// For temporary credentials: a string that contains JSON, passed on unchanged. It is signed, and as secret as the
    /// token.
    pub certificate: Option<SecretString>,
    /// The time of expiry; `None`: never.
    pub expires: Option<Timestamp>,
    /// The time at which they were obtained by the host's clock, if it is known. The lifetime since then determines the
    /// margin before expiry.
    pub obtained: Option<Timestamp>,
}

impl Credentials {
    /// The time after which they must not be used: 2 min before expiry, or a quarter of the lifetime they had when they
    /// were obtained, if that is less. `None`: never.
    pub fn last_use(&self) -> Option<Timestamp> {
        let expires = self.expires?;
        Some(before(expires, self.margin(expires)))
    }

    /// Returns true if they can be used now.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.last_use().is_none_or(|last| now < last)
    }

    /// The time from `now` until they should be renewed; zero: the renewal is due. `None`: they never expire.
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

    /// Credentials obtained at `NOW` with this lifetime.
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
        // The host slept through the renewal.
        assert_eq!(credentials.renewal_in(NOW + hours(95) + seconds(3300)), Some(seconds(60)));
        assert_eq!(credentials.renewal_in(NOW + hours(200)), Some(SignedDuration::ZERO));
        assert_eq!(credentials.last_use(), Some(NOW + hours(96) - seconds(120)));
    }

    #[test]
    fn short_lived_credentials_keep_twice_their_margin_and_half_a_minute() {
        // Lifetime, renewal and last use, in seconds.
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
