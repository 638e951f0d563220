//! From the Markdown of docs/ to a manual page: as much of both languages as docs/ needs.

use std::fmt::Write as _;

/// The first lines of a page that clap does not make.
pub(crate) fn title(name: &str, section: u8, version: &str) -> String {
    format!(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {name} {section} \"\" \"start-worker {version}\"\n")
}

/// The section with this heading, which it begins with.
pub(crate) fn section<'d>(document: &'d str, heading: &str) -> Option<&'d str> {
    let heading = format!("\n## {heading}\n");
    let start = document.find(&heading)? + 1;
    let rest = document.get(start..)?;
    let end = rest.find("\n## ").map_or(rest.len(), |end| end + 1);
    rest.get(..end)
}

/// A document, or a section of one.
pub(crate) fn from_markdown(document: &str) -> String {
    let mut page = String::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            block(&mut page, &code);
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            table(&mut page, &rows);
        } else if let Some((level, heading)) = heading(line) {
            let _ = match level {
                // The page's name, and what it is.
                1 => writeln!(page, ".SH NAME\nstart\\-worker.yml \\- {}\n.SH DESCRIPTION", lowered(heading)),
                2 => writeln!(page, ".SH {}", quoted(&heading.to_uppercase())),
                _ => writeln!(page, ".SS {}", quoted(heading)),
            };
        } else if !line.trim().is_empty() {
            let mut text = line.to_owned();
            while let Some(more) = lines.next_if(|line| goes_on(line)) {
                text.push(' ');
                text.push_str(more.trim());
            }
            let _ = match text.strip_prefix("* ") {
                Some(item) => writeln!(page, ".IP \\(bu 2\n{}", inline(item)),
                None => writeln!(page, ".PP\n{}", inline(&text)),
            };
        }
    }
    page
}

/// Whether a line belongs to the paragraph above it.
fn goes_on(line: &str) -> bool {
    !line.trim().is_empty() && !["#", "|", "```", "* "].iter().any(|start| line.starts_with(start))
}

fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.chars().take_while(|character| *character == '#').count();
    let text = line.get(level..)?.strip_prefix(' ')?;
    (level > 0).then_some((level, text))
}

/// As it stands in the middle of a sentence.
fn lowered(heading: &str) -> String {
    let mut characters = heading.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + characters.as_str())
}

/// As it begins a sentence.
fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}

/// A macro's only argument.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(&text.replace('`', "")).replace('"', "\\(dq"))
}

/// The cells of a table's row; a `\|` does not divide.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
    row.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// Each row is a paragraph: its first cell, what that means (the column which is called so, else the last), then the
/// others with their columns' names.
fn table(page: &mut String, rows: &[Vec<String>]) {
    let Some((names, rows)) = rows.split_first() else { return };
    let meaning = names.iter().position(|name| name.to_lowercase().starts_with("mean"));
    let meaning = meaning.unwrap_or(names.len() - 1);
    for row in rows.iter().skip(1) {
        let only = |column: usize| row.get(column).map(|cell| inline(cell)).unwrap_or_default();
        let _ = writeln!(page, ".TP\n{}\n{}", only(0), only(meaning));
        let others: Vec<String> = names
            .iter()
            .zip(row)
            .enumerate()
            .filter(|(column, (_, cell))| !cell.is_empty() && ![0, meaning].contains(column))
            .map(|(_, (name, cell))| format!("{}: {}.", inline(&capitalised(name)), inline(cell)))
            .collect();
        if !others.is_empty() {
            let _ = writeln!(page, ".br\n{}", others.join(" "));
        }
    }
}

/// Code, as it is.
fn block(page: &mut String, code: &[&str]) {
    page.push_str(".PP\n.RS 4\n.nf\n");
    for line in code {
        let _ = writeln!(page, "{}", guarded(&escaped(line)));
    }
    page.push_str(".fi\n.RE\n");
}

/// Text with its emphases; of a link the text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(at);
        out.push_str(&escaped(before));
        let found = [("`", "`", 'B'), ("**", "**", 'B'), ("*", "*", 'I')].into_iter().find_map(
            |(open, close, font)| {
                let (inside, after) = marked.strip_prefix(open)?.split_once(close)?;
                (!inside.is_empty()).then(|| (format!("\\f{font}{}\\fR", escaped(inside)), after))
            },
        );
        let found = found.or_else(|| {
            let (inside, after) = marked.strip_prefix('[')?.split_once("](")?;
            let (_, after) = after.split_once(')')?;
            Some((inline(inside), after))
        });
        rest = if let Some((text, after)) = found {
            out.push_str(&text);
            after
        } else {
            let (mark, after) = marked.split_at(1);
            out.push_str(mark);
            after
        };
    }
    out.push_str(&escaped(rest));
    guarded(&out)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga")
}

/// A line that begins with a dot would be a macro.
fn guarded(line: &str) -> String {
    if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
}
