//! An error with its causes, in one line.

use std::error::Error;
use std::fmt;

/// Formats an error followed by its causes, separated by colons. The text of a cause that is already part of its error
/// is not repeated.
#[derive(Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            source = cause.source();
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        source: Option<Box<Failure>>,
    }

    fn chain(texts: &[&'static str]) -> String {
        let failure = texts
            .iter()
            .rev()
            .fold(None, |source: Option<Box<Failure>>, text| Some(Box::new(Failure { text, source })));
        ErrorChain(&*failure.unwrap()).to_string()
    }

    #[test]
    fn every_cause_is_told_and_none_twice() {
        assert_eq!(chain(&["cannot write it"]), "cannot write it");
        assert_eq!(chain(&["no file", "no place", "disk full"]), "no file: no place: disk full");
        assert_eq!(
            chain(&["no file: disk full; make room", "disk full", "really"]),
            "no file: disk full; make room: really"
        );
    }
}
