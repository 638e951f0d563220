//! Edits of gdm's file, which change only our keys.

use proptest::prelude::*;
use test_support::keyfile::{File, parse};

use crate::host::autologin::gdm::{self, MARK};
use crate::host::autologin::keyfile;
use crate::host::autologin::name::UserName;

const KEYS: [&[u8]; 2] = [b"AutomaticLoginEnable", b"AutomaticLogin"];

/// The file that Ubuntu ships.
const UBUNTU: &str = "\
# GDM configuration storage
#
# See /usr/share/gdm/gdm.schemas for a list of available options.

[daemon]
# Uncomment the line below to force the login screen to use Xorg
#WaylandEnable=false

# Enabling automatic login
#  AutomaticLoginEnable = true
#  AutomaticLogin = user1

# Enabling timed login
#  TimedLoginEnable = true
#  TimedLogin = user1
#  TimedLoginDelay = 10

[security]

[xdmcp]

[chooser]

[debug]
# Uncomment the line below to turn on debugging
#Enable=true
";

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn set(file: &str, name: &str) -> String {
    String::from_utf8(gdm::set(file.as_bytes(), &user(name))).unwrap()
}

fn clear(file: &str) -> String {
    String::from_utf8(gdm::clear(file.as_bytes())).unwrap()
}

/// The parsed file without our keys.
fn others(file: &[u8]) -> Option<File> {
    let mut file = parse(file)?;
    if let Some(daemon) = file.get_mut(&b"daemon"[..]) {
        for key in KEYS {
            daemon.remove(key);
        }
        if daemon.is_empty() {
            file.remove(&b"daemon"[..]);
        }
    }
    Some(file)
}

fn has_ours(file: &[u8]) -> bool {
    keyfile::lines(file).iter().any(|line| {
        let text = line.text.trim_ascii_start();
        KEYS.iter()
            .any(|key| text.strip_prefix(*key).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"=")))
    })
}

#[test]
fn ubuntus_file_gains_two_lines_and_loses_them_again() {
    let edited = set(UBUNTU, "task_1");
    let lines = "[daemon]\nAutomaticLoginEnable=true\nAutomaticLogin=task_1\n";
    assert_eq!(edited, UBUNTU.replace("[daemon]\n", lines));
    assert_eq!(gdm::user(edited.as_bytes()).as_deref(), Some("task_1"));
    assert_eq!(set(&edited, "task_2"), edited.replace("task_1", "task_2"));
    assert_eq!(clear(&edited), UBUNTU);
    assert_eq!(clear(UBUNTU), UBUNTU);
}

#[test]
fn active_keys_are_replaced_where_they_are() {
    let file = "[daemon]\r\n AutomaticLogin =\tbob  \r\n# x\r\nAutomaticLoginEnable = False\r\nWaylandEnable=false\r\n";
    let expected =
        "[daemon]\r\n AutomaticLogin =\tci\r\n# x\r\nAutomaticLoginEnable = true\r\nWaylandEnable=false\r\n";
    assert_eq!(set(file, "ci"), expected);
    assert_eq!(clear(file), "[daemon]\r\n# x\r\nWaylandEnable=false\r\n");
}

#[test]
fn a_key_that_is_missing_comes_below_its_section() {
    let file = "[daemon]\nWaylandEnable=false\nAutomaticLoginEnable=false\n";
    let expected = "[daemon]\nAutomaticLogin=ci\nWaylandEnable=false\nAutomaticLoginEnable=true\n";
    assert_eq!(set(file, "ci"), expected);
}

#[test]
fn the_same_key_in_another_section_is_not_ours() {
    let file = "[debug]\nAutomaticLogin=x\n[daemon]\n[security]\nAutomaticLoginEnable=true\n";
    assert_eq!(
        set(file, "ci"),
        file.replace("[daemon]\n", "[daemon]\nAutomaticLoginEnable=true\nAutomaticLogin=ci\n")
    );
    assert_eq!(gdm::user(file.as_bytes()), None);
    assert_eq!(clear(file), file);
}

#[test]
fn a_section_that_occurs_twice_has_its_keys_replaced_in_both() {
    let file = "[daemon]\nAutomaticLogin=a\n[x]\n[daemon]\nAutomaticLogin=b\nAutomaticLoginEnable=1\n";
    let expected =
        "[daemon]\nAutomaticLogin=ci\n[x]\n[daemon]\nAutomaticLogin=ci\nAutomaticLoginEnable=true\n";
    assert_eq!((gdm::user(file.as_bytes()).as_deref(), set(file, "ci").as_str()), (Some("b"), expected));
}

#[test]
fn a_section_is_added_where_there_is_none_and_goes_with_its_keys() {
    for file in [
        "",
        "\n",
        "# x",
        "# x\r",
        "# x\r\n",
        "[security]\n",
        "[security]\nx=1",
        "[security]\r\nx=\r",
        "\r\n\r\n",
        "[Daemon]\n",
    ] {
        let edited = set(file, "ci");
        assert!(edited.contains(MARK) && edited.starts_with(file), "{edited:?}");
        assert_eq!(gdm::user(edited.as_bytes()).as_deref(), Some("ci"), "{edited:?}");
        assert_eq!(clear(&edited), file);
    }
    // Lines that were added later to our section, or a section after it, are kept.
    let edited = set("[security]\n", "ci") + "WaylandEnable=false\n";
    assert!(clear(&edited).ends_with("\n[daemon]\nWaylandEnable=false\n"), "{edited}");
    let edited = set("[security]\n", "ci") + "\n[chooser]\n";
    assert_eq!(clear(&edited), "[security]\n\n[chooser]\n");
}

#[test]
fn what_glib_refuses_is_found() {
    for (file, line) in [
        ("x", 1),
        ("a=b\n", 1),
        ("[daemon]\n=x", 2),
        ("\u{feff}[daemon]\n", 1),
        ("[daemon] # x\n", 1),
        ("[]", 1),
        ("[d]\na[=x", 2),
    ] {
        assert_eq!(keyfile::first_fault(file.as_bytes()), Some(line), "{file:?}");
        assert_eq!(parse(file.as_bytes()), None);
    }
    assert_eq!(keyfile::first_fault(UBUNTU.as_bytes()), None);
}

/// A line of a file, well-formed or malformed.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "[daemon]",
        "[daemon] ",
        "\t[daemon]\t",
        "[security]",
        "[Daemon]",
        "[daemon]x",
        "[daemon]]",
        "[",
        "[]",
        "[a[b]",
        "[daemon",
        "WaylandEnable=false",
        "TimedLogin = user1",
        "AutomaticLogin[de]=x",
        "AutomaticLogins=x",
        "xAutomaticLogin=x",
        "#AutomaticLogin=x",
        "#  AutomaticLoginEnable = true",
        "# comment",
        "",
        " ",
        "\t",
        "\r",
        "=x",
        "novalue",
        "a b = c = d",
        "key[de]=x",
        "key [de]=x",
        "key[=x",
        "key]=x",
        "x=\r",
        "\u{feff}",
        "\u{0b}",
    ]);
    let ours = prop::sample::select(vec![
        "AutomaticLogin=bob",
        "AutomaticLogin = bob ",
        " AutomaticLoginEnable=false",
        "AutomaticLoginEnable\t=\tTrue",
        "AutomaticLogin=",
        "AutomaticLogin=\r",
        "AutomaticLoginEnable = ",
    ]);
    prop_oneof![
        8 => known.prop_map(|line| line.as_bytes().to_vec()),
        2 => ours.prop_map(|line| line.as_bytes().to_vec()),
        2 => prop::collection::vec(prop::sample::select(b"[]=# \t\r\x0c\x0badA\xff\0".to_vec()), 0..8),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

/// Any file: `\n`, `\r\n` or a mixture of them, with or without one at its end.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let ends = prop::collection::vec(prop::bool::ANY, 1..4);
    (prop::collection::vec(line(), 0..12), ends, prop::bool::ANY).prop_map(|(lines, ends, open)| {
        let mut file = Vec::new();
        let count = lines.len();
        for (number, line) in lines.into_iter().enumerate() {
            file.extend(line);
            if number + 1 < count || !open {
                file.extend(if ends[number % ends.len()] { &b"\r\n"[..] } else { b"\n" });
            }
        }
        file
    })
}

/// A file that `GLib` reads.
fn good_file() -> impl Strategy<Value = Vec<u8>> {
    let good = (prop::bool::ANY, file()).prop_map(|(crlf, file)| {
        let kept = keyfile::lines(&file).into_iter().filter(|line| {
            let alone = [b"[x]\n", &*line.text].concat();
            parse(&alone).is_some()
        });
        let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
        let mut file = [b"[x]", end].concat();
        kept.for_each(|line| file.extend([&*line.text, line.end].concat()));
        file
    });
    good.prop_filter("GLib reads it", |file| parse(file).is_some())
}

/// The bytes of the lines that are not ours.
fn rest(file: &[u8]) -> Vec<u8> {
    let lines = keyfile::lines(file);
    let rest =
        lines.iter().filter(|line| !has_ours(&line.text) || line.text.trim_ascii_start().starts_with(b"#"));
    rest.flat_map(|line| line.text.to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn our_reading_is_glibs(file in prop_oneof![file(), good_file()]) {
        prop_assert_eq!(keyfile::first_fault(&file).is_none(), parse(&file).is_some());
        prop_assert_eq!(keyfile::bytes(&keyfile::lines(&file)), file);
    }

    #[test]
    fn an_edited_file_says_the_same_but_for_our_keys(file in prop_oneof![file(), good_file()], name in "[a-z_][a-z0-9_-]{0,31}") {
        prop_assume!(name != "root");
        let edited = gdm::set(&file, &user(&name));
        prop_assert_eq!(others(&edited), others(&file));
        if let Some(parsed) = parse(&edited) {
            let daemon = &parsed[&b"daemon"[..]];
            prop_assert_eq!(daemon[KEYS[0]].as_slice(), b"true");
            prop_assert_eq!(daemon[KEYS[1]].as_slice(), name.as_bytes());
            prop_assert_eq!(gdm::user(&edited), Some(name));
        }
        let cleared = gdm::clear(&file);
        prop_assert_eq!(others(&cleared), others(&file));
        if let Some(daemon) = parse(&cleared).and_then(|mut parsed| parsed.remove(&b"daemon"[..])) {
            prop_assert!(KEYS.iter().all(|key| !daemon.contains_key(*key)));
        }
    }

    #[test]
    fn editing_twice_is_editing_once(file in prop_oneof![file(), good_file()]) {
        let once = gdm::set(&file, &user("task_1"));
        prop_assert_eq!(gdm::set(&once, &user("task_1")), once.clone());
        prop_assert_eq!(gdm::set(&gdm::set(&file, &user("task_22")), &user("task_1")), once);
        let cleared = gdm::clear(&file);
        prop_assert_eq!(gdm::clear(&cleared), cleared);
    }

    #[test]
    fn setting_and_clearing_gives_the_bytes_back(file in prop_oneof![file(), good_file()]) {
        let lines = keyfile::lines(&file);
        let file: Vec<_> = lines.into_iter().filter(|line| !has_ours(&line.text)).collect();
        let file = keyfile::bytes(&file);
        prop_assert_eq!(gdm::clear(&gdm::set(&file, &user("task_1"))), file);
    }

    #[test]
    fn comments_order_and_blank_lines_stay(file in prop_oneof![file(), good_file()]) {
        let mut edited = rest(&gdm::set(&file, &user("task_1")));
        if let Some(at) = edited.windows(MARK.len()).position(|part| part == MARK.as_bytes()) {
            edited.truncate(at);
        }
        prop_assert_eq!(edited, rest(&file));
    }
}
