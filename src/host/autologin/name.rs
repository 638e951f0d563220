//! The validated names that can be written to a display manager's file. Nothing else is written there.

use std::fmt;

/// The reason why a text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("root is not logged in automatically: display managers refuse it")]
    Root,
    #[error("not a user name: up to 32 of a-z, 0-9, - and _, a letter or _ first")]
    User,
    #[error("not a session's name: up to 128 letters, digits and - _ . +")]
    Session,
    #[error("not a terminal's name: up to 32 letters, digits, - and _")]
    Tty,
}

/// A user's name: `[a-z_][a-z0-9_-]{0,31}`, and not `root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName(String);

/// A desktop session's name: the name of a file in `xsessions`, with or without its `.desktop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionName(String);

/// A terminal's name below `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tty(String);

impl UserName {
    /// Validates the name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        match text {
            "root" => Err(NameError::Root),
            _ if first && text.bytes().all(rest) && text.len() <= 32 => Ok(Self(text.to_owned())),
            _ => Err(NameError::User),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SessionName {
    /// Validates the name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = named(text, 128, b"-_.+");
        name.filter(|name| !name.starts_with('.')).map(Self).ok_or(NameError::Session)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tty {
    /// Validates the name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        named(text, 32, b"-_").filter(|name| !name.starts_with('-')).map(Self).ok_or(NameError::Tty)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tty {
    fn default() -> Self {
        Self("tty1".to_owned())
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn named(text: &str, most: usize, others: &[u8]) -> Option<String> {
    let good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    (good && !text.is_empty() && text.len() <= most).then(|| text.to_owned())
}

/// Returns true if a name matches a pattern, in which `*` stands for any text and `?` for one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of) = (0, 0);
    // The position to resume at when the text after the last star does not match.
    let mut again = None;
    while let Some(letter) = name.get(of) {
        match pattern.get(at) {
            Some('*') => {
                again = Some((at + 1, of));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((after, from)) = again else { return false };
                again = Some((after, from + 1));
                at = after;
                of = from + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_is_one_that_every_system_takes() {
        for good in ["ci", "_ci", "task_1732471200", "a", "a-b_c", &"a".repeat(32)] {
            assert_eq!(UserName::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn hostile_user_names_are_refused() {
        let long = "a".repeat(33);
        let hostile = [
            "",
            " ",
            "root\n",
            "ci\n",
            "ci\r",
            "ci\nAutomaticLogin=root",
            "ci\0",
            "a=b",
            "a b",
            " ci",
            "ci ",
            "Ci",
            "0",
            "0ci",
            "-ci",
            "--help",
            "-f root",
            "ci;reboot",
            "ci$HOME",
            "$(id)",
            "`id`",
            "ci%n",
            "%I",
            "../ci",
            "a/b",
            ".",
            "..",
            "a.b",
            "a:b",
            "a,b",
            "a#b",
            "#ci",
            "[daemon]",
            "ci]",
            "a\\b",
            "a\"b",
            "a'b",
            "a\tb",
            "ü",
            "cı",
            "ci\u{200b}",
            "ci\u{2028}",
            "ｃｉ",
            "a@b",
            "a+b",
            "a*",
            "task_?",
            "ci$",
            &long,
        ];
        for name in hostile {
            assert_eq!(UserName::parse(name), Err(NameError::User), "{name:?}");
        }
        assert_eq!(UserName::parse("root"), Err(NameError::Root));
    }

    #[test]
    fn sessions_and_terminals_have_no_way_out_of_their_line() {
        for good in ["ubuntu", "plasma.desktop", "gnome-xorg", "i3+x"] {
            assert!(SessionName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nUser=root", "a=b", "a b", "../x", "x/y", ".x", "a\0", "ü", &"a".repeat(129)] {
            assert_eq!(SessionName::parse(bad), Err(NameError::Session), "{bad:?}");
        }
        for good in ["tty1", "ttyS0", "hvc0"] {
            assert!(Tty::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "../tty1", "tty1\n", "tty 1", "pts/0", "%I", "-x", "tty1.service.d", &"t".repeat(33)]
        {
            assert_eq!(Tty::parse(bad), Err(NameError::Tty), "{bad:?}");
        }
    }

    #[test]
    fn patterns_know_stars_and_question_marks() {
        for (pattern, name) in [
            ("task_*", "task_1"),
            ("*", ""),
            ("*", "ci"),
            ("t*k_?", "task_1"),
            ("*a*b*", "xaxxb"),
            ("ci", "ci"),
            ("a**", "a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("task_*", "root"),
            ("task_*", "atask_1"),
            ("", "a"),
            ("?", ""),
            ("ci", "cia"),
            ("*a*b", "ba"),
            ("[a-z]", "a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
