//! EC2's notices of a spot instance's end.
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>

use jiff::Timestamp;
use serde_json::Value;

use crate::clock::Date;

/// `{"action": "terminate", "time": …}`, absent while no action is due.
pub(super) const INSTANCE_ACTION: &str = "/latest/meta-data/spot/instance-action";
/// The older form: a time, and sometimes another text.
pub(super) const TERMINATION_TIME: &str = "/latest/meta-data/spot/termination-time";

/// The announced action and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// `terminate`, `stop`, `hibernate`.
    pub action: String,
    pub time: Option<Timestamp>,
}

impl Spot {
    /// Parses [`INSTANCE_ACTION`]; `None`: the text has another form.
    pub fn from_instance_action(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let action = value.get("action")?.as_str()?.to_owned();
        let time = value.get("time").and_then(Value::as_str).and_then(Date::parse).map(Date::or_last);
        Some(Self { action, time })
    }

    /// Parses [`TERMINATION_TIME`]; `None`: the text is not a time, so no action is due.
    pub fn from_termination_time(text: &str) -> Option<Self> {
        let time = Date::parse(text.trim())?.or_last();
        Some(Self { action: "terminate".to_owned(), time: Some(time) })
    }

    /// Returns true if the instance does not come back; one that is stopped or hibernated can.
    pub fn ends(&self) -> bool {
        !matches!(self.action.as_str(), "stop" | "hibernate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_is_a_termination_time() {
        let spot = Spot::from_termination_time("2026-11-24T18:02:00Z\n").unwrap();
        assert_eq!((spot.action.as_str(), spot.ends()), ("terminate", true));
        assert_eq!(spot.time.unwrap().to_string(), "2026-11-24T18:02:00Z");
        for text in ["", "none", "0", "<html>404</html>", "2026-11-24"] {
            assert_eq!(Spot::from_termination_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_notice_for_the_end_of_all_dates_is_one_with_much_time() {
        let end = "9999-12-31T23:59:59Z";
        assert_eq!(Spot::from_termination_time(end).unwrap().time, Some(Timestamp::MAX));
        let action = format!(r#"{{"action": "terminate", "time": "{end}"}}"#);
        assert_eq!(Spot::from_instance_action(&action).unwrap().time, Some(Timestamp::MAX));
    }

    #[test]
    fn a_stopped_or_hibernating_instance_can_come_back() {
        for (action, ends) in [("terminate", true), ("stop", false), ("hibernate", false)] {
            let text = format!(r#"{{"action": "{action}", "time": "2026-11-24T18:02:00Z"}}"#);
            assert_eq!(Spot::from_instance_action(&text).unwrap().ends(), ends, "{action}");
        }
        assert_eq!(Spot::from_instance_action("<html>"), None);
    }
}
