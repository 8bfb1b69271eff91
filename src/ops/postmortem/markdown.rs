//! The document as Markdown (GitHub's), to be edited where post-mortems are kept. Charts are left out: Markdown has no
//! pictures of its own.

use std::fmt::Write as _;

use super::document::{Block, Document, Table};
use super::text::visible;

/// The text.
pub fn page(document: &Document) -> String {
    let mut out = format!("# {}\n\n**{}**\n\n", escape(&document.title), escape(&document.when));
    for card in &document.cards {
        let _ =
            writeln!(out, "- {}: **{}** ({})", escape(card.label), escape(&card.value), escape(&card.note));
    }
    let _ = write!(out, "\n{}\n", escape(&document.lead));
    for section in &document.sections {
        let _ = write!(out, "\n## {}\n\n", escape(section.title));
        for block in &section.blocks {
            write_block(&mut out, block);
        }
    }
    let _ = write!(out, "\n---\n\n{}\n", escape(&document.foot));
    while let Some(place) = out.find("\n\n\n") {
        out.remove(place);
    }
    out
}

fn write_block(out: &mut String, block: &Block) {
    match block {
        Block::Text(text) => {
            let _ = write!(out, "{}\n\n", escape(text));
        }
        Block::Heading(text) => {
            let _ = write!(out, "### {}\n\n", escape(text));
        }
        Block::List(items) => list(out, items),
        Block::Table(table) => write_table(out, table),
        Block::Charts(charts) => {
            for chart in charts.iter().filter(|chart| !chart.is_empty()) {
                let _ = writeln!(
                    out,
                    "- {} ({}): {}",
                    escape(&chart.title),
                    escape(&chart.unit),
                    escape(&chart.in_words())
                );
            }
            out.push('\n');
        }
        // The table beside it has the same numbers.
        Block::Bars { .. } => {}
        Block::Candidate { name, share, is_cause, because, against, .. } => {
            let mark = if *is_cause { " — the cause" } else { "" };
            let _ = write!(out, "**{}**: {}{mark}\n\n", escape(name), escape(share));
            let told = |side: &str, items: &[String]| {
                items.iter().map(|item| format!("{side}: {item}")).collect::<Vec<_>>()
            };
            list(out, &[told("for", because), told("against", against)].concat());
        }
        Block::Blank(text) => {
            let _ = write!(out, "> {}\n\n", escape(text));
        }
    }
}

fn list(out: &mut String, items: &[String]) {
    for item in items {
        let _ = writeln!(out, "- {}", escape(item));
    }
    out.push('\n');
}

fn write_table(out: &mut String, table: &Table) {
    let row =
        |cells: &mut dyn Iterator<Item = String>| format!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    let _ =
        writeln!(out, "{}", row(&mut table.head.iter().map(|title| escape(title.trim_start_matches('>')))));
    let _ = writeln!(
        out,
        "{}",
        row(&mut table
            .head
            .iter()
            .map(|title| if title.starts_with('>') { "---:" } else { "---" }.to_owned()))
    );
    for (is_stressed, cells) in &table.rows {
        let cell = |cell: &String| match (is_stressed, cell.is_empty()) {
            (true, false) => format!("**{}**", escape(cell)),
            _ => escape(cell),
        };
        let _ = writeln!(out, "{}", row(&mut cells.iter().map(cell)));
    }
    out.push('\n');
}

/// A text that cannot be taken for markup, for a link or for somebody's name.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let after = rest.peek().copied().unwrap_or(' ');
        let is_markup = match character {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' | '#' | '@' | '$' => true,
            '_' => !(before.is_alphanumeric() && after.is_alphanumeric()),
            ':' => after == '/',
            '.' => before == 'w',
            _ => false,
        };
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            _ => {
                escaped.extend(is_markup.then_some('\\'));
                escaped.push(visible(character));
            }
        }
        before = character;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_markup() {
        for (text, expected) in [
            ("a|b\nc", "a\\|b\u{fffd}c"),
            ("<img src=x>", "&lt;img src=x&gt;"),
            ("[x](javascript:1)", "\\[x\\](javascript:1)"),
            ("http://evil www.evil @all", "http\\://evil www\\.evil \\@all"),
            ("upstream_failed _x_", "upstream_failed \\_x\\_"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }
}
