//! The document as one HTML file that needs nothing else: no script, no font, no picture from anywhere. Light and dark
//! as the reader's system is, and fit for print. Everything that was not written here is escaped.

use std::fmt::Write as _;

use super::chart::{LINES, Lines, bars};
use super::document::{Block, Card, Document, Section, Table};
use super::text::visible;

const STYLE: &str = include_str!("report.css");

/// The page.
pub fn page(document: &Document) -> String {
    let mut out = String::new();
    let title = escape(&document.title);
    let tone = if document.is_breach { "breach" } else { "quiet" };
    let label = if document.is_breach { "Post-mortem" } else { "Post-mortem: no incident" };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header class=\"{tone}\">\n<p class=\"kind\">{label}</p>\n<h1>{title}</h1>\n<p class=\"when\">{}</p>\n</header>\n<main>\n",
        escape(&document.when)
    );
    cards(&mut out, &document.cards);
    let _ = writeln!(out, "<p class=\"lead\">{}</p>", escape(&document.lead));
    for (place, section) in document.sections.iter().enumerate() {
        write_section(&mut out, section, place);
    }
    let _ = write!(out, "</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n", escape(&document.foot));
    out
}

/// A text that cannot be taken for markup, in an element or in an attribute's quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(visible(other)),
        }
    }
    escaped
}

fn cards(out: &mut String, cards: &[Card]) {
    out.push_str("<dl class=\"cards\">\n");
    for Card { label, value, note } in cards {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
            escape(label),
            escape(value),
            escape(note)
        );
    }
    out.push_str("</dl>\n");
}

fn write_section(out: &mut String, section: &Section, place: usize) {
    let _ = writeln!(out, "<section>\n<h2>{}</h2>", escape(section.title));
    for (at, block) in section.blocks.iter().enumerate() {
        write_block(out, block, &format!("s{place}-{at}"));
    }
    out.push_str("</section>\n");
}

fn write_block(out: &mut String, block: &Block, id: &str) {
    match block {
        Block::Text(text) => {
            let _ = writeln!(out, "<p>{}</p>", escape(text));
        }
        Block::Heading(text) => {
            let _ = writeln!(out, "<h3>{}</h3>", escape(text));
        }
        Block::List(items) => list(out, items),
        Block::Table(table) => write_table(out, table),
        Block::Charts(charts) => {
            out.push_str("<div class=\"charts\">\n");
            for (at, chart) in charts.iter().enumerate() {
                figure(out, chart, &format!("{id}-{at}"));
            }
            out.push_str("</div>\n");
        }
        Block::Bars { title, rows, legend } => {
            let _ = write!(out, "<figure class=\"wide\">{}<p class=\"legend\">", bars(id, title, rows));
            for (class, name) in legend {
                let _ = write!(
                    out,
                    "<span><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"part p{class}\" width=\"10\" height=\"10\"/></svg>{}</span>",
                    escape(name)
                );
            }
            out.push_str("</p></figure>\n");
        }
        Block::Candidate { name, share, part, is_cause, because, against } => {
            let class = if *is_cause { "candidate cause" } else { "candidate" };
            let width = (part.clamp(0.0, 1.0) * 100.0).round();
            let _ = writeln!(
                out,
                "<div class=\"{class}\"><h3>{}<span>{}</span></h3><svg class=\"share\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" \
                 aria-hidden=\"true\"><rect class=\"room\" width=\"100\" height=\"4\"/><rect class=\"fill\" width=\"{width}\" height=\"4\"/></svg>",
                escape(name),
                escape(share)
            );
            for (title, items) in [("For it", because), ("Against it", against)] {
                if !items.is_empty() {
                    let _ = write!(out, "<p class=\"side\">{title}</p>");
                    list(out, items);
                }
            }
            out.push_str("</div>\n");
        }
        Block::Blank(text) => {
            let _ = writeln!(out, "<p class=\"blank\" contenteditable=\"true\">{}</p>", escape(text));
        }
    }
}

fn list(out: &mut String, items: &[String]) {
    out.push_str("<ul>");
    for item in items {
        let _ = write!(out, "<li>{}</li>", escape(item));
    }
    out.push_str("</ul>\n");
}

fn write_table(out: &mut String, table: &Table) {
    let _ = write!(out, "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    let is_number = |column: usize| table.head.get(column).is_some_and(|title| title.starts_with('>'));
    for (column, title) in table.head.iter().enumerate() {
        let class = if is_number(column) { " class=\"number\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(title.trim_start_matches('>')));
    }
    out.push_str("</tr></thead><tbody>");
    for (is_stressed, cells) in &table.rows {
        out.push_str(if *is_stressed { "<tr class=\"stressed\">" } else { "<tr>" });
        for (column, cell) in cells.iter().enumerate() {
            let class = if is_number(column) { " class=\"number\"" } else { "" };
            let edit = if table.is_blank { " contenteditable=\"true\"" } else { "" };
            // On a narrow screen a cell stands below its title.
            let title = table.head.get(column).map(|title| title.trim_start_matches('>')).unwrap_or_default();
            let _ = write!(out, "<td{class}{edit} data-title=\"{}\">{}</td>", escape(title), escape(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>\n");
}

fn figure(out: &mut String, chart: &Lines, id: &str) {
    let _ = write!(
        out,
        "<figure><figcaption><b>{}</b> <span>{}</span></figcaption>",
        escape(&chart.title),
        escape(&chart.unit)
    );
    if chart.is_empty() {
        let _ = write!(out, "<p class=\"none\">{}</p>", escape(&chart.empty));
    } else {
        out.push_str(&chart.svg(id));
        out.push_str("<p class=\"legend\">");
        for (place, (legend, _)) in chart.lines.iter().take(LINES).enumerate() {
            let _ = write!(
                out,
                "<span><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"line l{place}\" d=\"M1 5H21\"/></svg>{}</span>",
                escape(legend)
            );
        }
        if chart.threshold.is_some() {
            out.push_str("<span><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><line class=\"threshold\" x1=\"1\" y1=\"5\" x2=\"21\" y2=\"5\"/></svg>promised</span>");
        }
        out.push_str("</p>");
    }
    let _ = writeln!(out, "<p class=\"caption\">{}</p></figure>", escape(&chart.caption));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_markup() {
        assert_eq!(
            escape("<a b='c' d=\"e\">&\u{202e}\n"),
            "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn the_page_needs_nothing_from_anywhere() {
        for word in ["http", "url(", "@import", "@font-face", "<"] {
            assert!(!STYLE.contains(word), "{word}");
        }
    }
}
