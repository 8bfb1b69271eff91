//! The status as a page: one file, nothing fetched from elsewhere, whole without its script. The script asks for the page
//! again every two seconds and puts the new one in the place of the old, so that what a name may contain is escaped in one
//! place: here.

use std::fmt::{self, Display, Write as _};

use super::{Budget, LeftOut, Load, Model, Objective, OpenExchange, State, Status, Tenant, Upstream, Window};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What a browser may do with the page: its own style and script, told by their digests, and asking this port.
pub const POLICY: &str = "default-src 'none'; \
     style-src 'sha256-NmSxBp0EqRdJHzRDDvWL5jaKmlr8YphWjdPicbYMqkg='; \
     script-src 'sha256-g4w6QUe32QLutvYcDfzQ2rA4tGrwqubToR4lQMbA1J8='; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub fn html(status: &Status) -> String {
    let mut out = String::with_capacity(32 << 10);
    // Writing into a text cannot fail.
    let _ = write(&mut out, status);
    out
}

/// A text in HTML. Names are chosen by clients: what would turn a line around or end it is replaced.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\u{061C}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}' => {
                    f.write_char(char::REPLACEMENT_CHARACTER)?;
                }
                c if c.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn write(out: &mut String, status: &Status) -> fmt::Result {
    let oldest = status.load.oldest_awaiting_first_token_seconds;
    let alarm = status.troubles.first().map(|trouble| Text(&trouble.text));
    write!(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>")?;
    match alarm {
        Some(alarm) => write!(out, "{alarm} · streamgauge")?,
        None => write!(out, "streamgauge")?,
    }
    write!(
        out,
        "</title><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <style>{STYLE}</style></head><body>"
    )?;
    header(out, status)?;
    write!(out, "<main>")?;
    troubles(out, status)?;
    vitals(out, status, oldest)?;
    upstreams(out, &status.upstreams)?;
    open(out, &status.open, &status.left_out)?;
    models(out, status)?;
    tenants(out, &status.tenants, &status.left_out)?;
    objectives(out, &status.slos)?;
    writeln!(
        out,
        "</main><footer>As JSON: <a href=\"/api/v1/status\">/api/v1/status</a> · <a href=\"/metrics\">/metrics</a> · \
         <a href=\"/config\">/config</a> · curl shows what else there is. This is one sidecar; all of them are in \
         Prometheus.</footer><script>{SCRIPT}</script></body></html>"
    )
}

fn header(out: &mut String, status: &Status) -> fmt::Result {
    let (class, word) = if status.ready { ("good", "ready") } else { ("warning", "draining") };
    write!(
        out,
        "<header><h1>streamgauge</h1><span class=\"pill {class}\">{word}</span>\
         <span id=\"stale\" class=\"pill bad\">no answer: what is below is old</span>\
         <span class=\"dim\">{} · up {} · configuration {} of {}</span></header>",
        status.version,
        Span(status.uptime_seconds),
        Text(&status.config),
        Text(status.reload.loaded.get(..19).unwrap_or_default().replace('T', " ").as_str()),
    )
}

fn troubles(out: &mut String, status: &Status) -> fmt::Result {
    write!(out, "<ul>")?;
    for trouble in &status.troubles {
        let class = trouble.gravity.class();
        write!(out, "<li class=\"{class}\">{}", Text(&trouble.text))?;
        if let Some(runbook) = trouble.runbook {
            write!(out, " <span>→ runbook {runbook}</span>")?;
        }
        write!(out, "</li>")?;
    }
    if status.troubles.is_empty() {
        write!(out, "<li class=\"good\">Nothing is wrong as far as this sidecar sees.</li>")?;
    }
    write!(out, "</ul>")
}

fn vitals(out: &mut String, status: &Status, oldest: Option<f64>) -> fmt::Result {
    let requests: u64 = status.models.iter().map(|model| model.requests).sum();
    let failed: u64 = status.models.iter().map(|model| model.failed).sum();
    let tokens: u64 = status.models.iter().filter_map(|model| model.tokens_last_minute).sum();
    let oldest = oldest.map_or_else(|| "–".to_owned(), |oldest| Span(oldest).to_string());
    let window = status.window_seconds;
    write!(
        out,
        "<dl><div><dt>oldest waiting for its first token</dt><dd>{oldest}</dd></div>\
         <div><dt>waiting for a first token</dt><dd>{} <small>of {} in flight</small></dd></div>\
         <div><dt>failed, last {window:.0} s</dt><dd>{} <small>of {} requests</small></dd></div>\
         <div><dt>tokens, last minute</dt><dd>{}</dd></div></dl>",
        Grouped(status.load.awaiting_first_token),
        Grouped(status.load.in_flight),
        Grouped(failed),
        Grouped(requests),
        Grouped(tokens),
    )
}

/// A column: its head, and whether it has numbers.
type Column = (&'static str, bool);

/// A cell: its HTML, and its class where it stands out.
struct Cell(String, &'static str);

const SHORT: usize = 40; // most names are; they stay on one line

impl Cell {
    fn text(text: &str) -> Self {
        // A browser may break others anywhere.
        let class = if text.len() <= SHORT { "s" } else { "" };
        Self(Text(text).to_string(), class)
    }

    fn of(value: impl Display) -> Self {
        Self(value.to_string(), "")
    }

    fn known<T>(value: Option<T>, show: impl FnOnce(T) -> Self) -> Self {
        value.map_or_else(|| Self(String::new(), ""), show)
    }

    fn alarming(self, class: Option<&'static str>) -> Self {
        Self(self.0, class.unwrap_or(self.1))
    }
}

fn table(
    out: &mut String,
    title: impl Display,
    columns: &[Column],
    none: &str,
    rows: impl Iterator<Item = Vec<Cell>>,
) -> fmt::Result {
    let mut rows = rows.peekable();
    write!(out, "<h2>{title}</h2><div class=\"frame\">")?;
    if rows.peek().is_none() {
        return write!(out, "<p class=\"none\">{none}</p></div>");
    }
    write!(out, "<table><thead><tr>")?;
    for (head, is_number) in columns {
        write!(out, "<th{}>{head}</th>", if *is_number { " class=\"n\"" } else { "" })?;
    }
    write!(out, "</tr></thead><tbody>")?;
    for row in rows {
        write!(out, "<tr>")?;
        for ((head, is_number), Cell(html, class)) in columns.iter().zip(row) {
            let number = if *is_number { "n " } else { "" };
            write!(out, "<td data-label=\"{head}\" class=\"{number}{class}\">{html}</td>")?;
        }
        write!(out, "</tr>")?;
    }
    write!(out, "</tbody></table></div>")
}

fn upstreams(out: &mut String, all: &[Upstream]) -> fmt::Result {
    let columns = [
        ("upstream", false),
        ("where", false),
        ("in flight", true),
        ("awaiting first token", true),
        ("oldest", true),
        ("last ended", false),
    ];
    let row = |upstream: &Upstream| {
        let [in_flight, awaiting, oldest] = load_cells(&upstream.load);
        let last = Cell::known(upstream.last.as_ref(), |last| {
            let code = last.code.map(|code| format!(" {code}")).unwrap_or_default();
            Cell(format!("{}{code}, {} ago", last.outcome, Span(last.seconds_ago)), "")
        });
        let url = Cell::known(upstream.url.as_deref(), |url| Cell(code(url), ""));
        vec![Cell::text(&upstream.name), url, in_flight, awaiting, oldest, last]
    };
    table(out, "Upstreams", &columns, "None.", all.iter().map(row))
}

fn load_cells(load: &Load) -> [Cell; 3] {
    let oldest = load.oldest_awaiting_first_token_seconds;
    [
        Cell::of(Grouped(load.in_flight)),
        Cell::of(Grouped(load.awaiting_first_token)),
        Cell::known(oldest, |oldest| Cell::of(Span(oldest)).alarming(slow(oldest))),
    ]
}

/// How a wait for a first token looks.
fn slow(seconds: f64) -> Option<&'static str> {
    (seconds >= super::trouble::LONG_WAIT).then_some("bad")
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", Text(text))
}

fn open(out: &mut String, all: &[OpenExchange], left_out: &LeftOut) -> fmt::Result {
    let columns = [
        ("age", true),
        ("state", false),
        ("tenant", false),
        ("model", false),
        ("upstream", false),
        ("TTFT", true),
        ("last token", true),
        ("token events", true),
        ("status", true),
        ("request id", false),
    ];
    let row = |open: &OpenExchange| {
        let is_waiting = open.state == State::AwaitingFirstToken;
        let model = open.model_requested.as_ref().or(open.model.as_ref());
        let stalls = |since: f64| (since >= super::trouble::LONG_STALL).then_some("warning");
        vec![
            Cell::of(Span(open.age_seconds)).alarming(slow(open.age_seconds).filter(|_| is_waiting)),
            Cell::of(open.state.words()),
            Cell::text(&open.tenant),
            Cell::known(model, |model| Cell::text(model)),
            Cell::text(&open.upstream),
            Cell::known(open.ttft_seconds, |ttft| Cell::of(Span(ttft))),
            Cell::known(open.since_last_token_seconds, |since| {
                // Looks come every 250 ms.
                let ago = if since < 0.5 { "just now".to_owned() } else { format!("{} ago", Span(since)) };
                Cell(ago, stalls(since).unwrap_or_default())
            }),
            Cell::known(Some(open.chunks).filter(|n| *n > 0), |n| Cell::of(Grouped(n))),
            Cell::known(open.code, Cell::of),
            Cell(code(&open.request_id), ""),
        ]
    };
    let title = Title(
        "Open exchanges",
        "those that wait for their first token first, the oldest on top",
        left_out.open,
    );
    table(out, title, &columns, "None is open.", all.iter().map(row))
}

/// A table's title, with a word of explanation and how many rows are not there.
struct Title(&'static str, &'static str, usize);

impl Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(title, words, left_out) = self;
        write!(f, "{title} <small>{words}")?;
        if *left_out > 0 {
            write!(f, "; {} more are not shown", Grouped(*left_out as u64))?;
        }
        write!(f, "</small>")
    }
}

fn models(out: &mut String, status: &Status) -> fmt::Result {
    let columns = [
        ("model", false),
        ("requests", true),
        ("failed", true),
        ("not completed", false),
        ("TTFT p50", true),
        ("TTFT p95", true),
        ("tokens/s p50", true),
        ("tokens", true),
    ];
    let row = |model: &Model| {
        let others = model.outcomes.iter().filter(|(label, _)| **label != "completed");
        let others: Vec<_> = others.map(|(label, n)| format!("{n} {label}")).collect();
        vec![
            Cell::text(&model.model),
            Cell::of(Grouped(model.requests)),
            Cell::of(Grouped(model.failed)).alarming((model.failed > 0).then_some("bad")),
            Cell::of(others.join(", ")),
            Cell::known(model.ttft_p50_seconds, |time| Cell::of(Span(time))),
            Cell::known(model.ttft_p95_seconds, |time| Cell::of(Span(time))),
            Cell::known(model.tokens_per_second_p50, Cell::of),
            Cell::known(model.tokens_last_minute, |tokens| Cell::of(Grouped(tokens))),
        ]
    };
    let title = Title("Models", "requests that ended in the last minute", status.left_out.models);
    table(out, title, &columns, "No request in the last minute.", status.models.iter().map(row))
}

fn tenants(out: &mut String, all: &[Tenant], left_out: &LeftOut) -> fmt::Result {
    let columns = [
        ("tenant", false),
        ("in flight", true),
        ("awaiting first token", true),
        ("oldest", true),
        ("tokens, last minute", true),
        ("tokens per minute, of its limit", false),
        ("spent, of its budget", false),
    ];
    let row = |tenant: &Tenant| {
        let [in_flight, awaiting, oldest] = load_cells(&tenant.load);
        let tokens = Cell::known(tenant.tokens_last_minute, |tokens| Cell::of(Grouped(tokens)));
        let limits: Vec<_> = tenant.limits.iter().map(window).collect();
        let budgets: Vec<_> = tenant.budgets.iter().map(budget).collect();
        let (limits, budgets) = (bars(&limits), bars(&budgets));
        vec![
            Cell::text(&tenant.tenant),
            in_flight,
            awaiting,
            oldest,
            tokens,
            Cell(limits, ""),
            Cell(budgets, ""),
        ]
    };
    let title = Title("Tenants", "those nearest to a limit first", left_out.tenants);
    table(out, title, &columns, "None yet.", all.iter().map(row))
}

fn window(window: &Window) -> String {
    let of_model = if window.model == "*" { String::new() } else { format!(" {}", Text(&window.model)) };
    let words = format!("{} of {}{of_model}", Grouped(window.used), Grouped(window.tokens_per_minute));
    bar(window.share_used(), &words)
}

fn budget(budget: &Budget) -> String {
    let Budget { currency, period, amount, spent } = budget;
    let share = if *amount > 0.0 { spent / amount } else { 1.0 };
    bar(share, &format!("{spent:.2} of {amount} {} a {}", Text(currency), Text(period)))
}

fn bars(all: &[String]) -> String {
    if all.is_empty() { String::new() } else { format!("<span class=\"bars\">{}</span>", all.concat()) }
}

fn bar(share: f64, words: &str) -> String {
    format!(
        "<span class=\"bar\"><meter min=\"0\" max=\"1\" low=\"0.7\" high=\"0.9\" optimum=\"0\" value=\"{:.3}\"></meter>\
         {words}</span>",
        share.min(1.0)
    )
}

fn objectives(out: &mut String, all: &[Objective]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let columns = [
        ("objective", false),
        ("asks for", false),
        ("of requests", true),
        ("kept", true),
        ("missed", true),
        ("share kept", true),
    ];
    let row = |slo: &Objective| {
        let asks: Vec<_> =
            slo.threshold_seconds.iter().map(|(kind, time)| format!("{kind} {}", Span(*time))).collect();
        let (good, bad) = (slo.good_since_start, slo.bad_since_start);
        let share = (good + bad > 0).then(|| good as f64 / (good + bad) as f64);
        let missed = share.filter(|share| *share < slo.objective).map(|_| "warning");
        vec![
            Cell::text(&slo.slo),
            Cell::of(if asks.is_empty() { "success".to_owned() } else { asks.join(", ") }),
            Cell::of(format_args!("{} %", slo.objective * 100.0)),
            Cell::of(Grouped(good)),
            Cell::of(Grouped(bad)),
            Cell::known(share, |share| Cell::of(format_args!("{:.2} %", share * 100.0)).alarming(missed)),
        ]
    };
    let title =
        Title("Objectives", "since this sidecar started, not over their window: Prometheus has that", 0);
    table(out, title, &columns, "", all.iter().map(row))
}

/// Seconds, as precise as somebody reads them.
struct Span(f64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 as u64;
        match self.0 {
            time if time < 1.0 => write!(f, "{:.0} ms", time * 1e3),
            time if time < 99.95 => write!(f, "{time:.1} s"),
            _ if whole < 3_600 => write!(f, "{} min {:02} s", whole / 60, whole % 60),
            _ if whole < 86_400 => write!(f, "{} h {:02} min", whole / 3_600, whole / 60 % 60),
            _ => write!(f, "{} d {:02} h", whole / 86_400, whole / 3_600 % 24),
        }
    }
}

/// A number in groups of three digits.
struct Grouped(u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let of = |three: &[u8]| {
            let bits = three.iter().chain([&0; 2]).take(3).fold(0, |all, byte| all << 8 | usize::from(*byte));
            let digit = |place: usize| {
                if place > three.len() { '=' } else { char::from(DIGITS[bits >> (18 - 6 * place) & 63]) }
            };
            [0, 1, 2, 3].map(digit)
        };
        bytes.chunks(3).flat_map(of).collect()
    }

    #[test]
    fn a_browser_is_told_the_digests_of_style_and_script() {
        for (kind, text) in [("style-src", STYLE), ("script-src", SCRIPT)] {
            let want = format!("{kind} 'sha256-{}'", base64(&Sha256::digest(text)));
            assert!(POLICY.contains(&want), "{want}");
        }
    }

    #[test]
    fn what_would_be_markup_or_turn_a_line_around_is_neither() {
        let shown = Text("<b onx=\"1\">'&\u{202E}\n\u{7}é").to_string();
        assert_eq!(shown, "&lt;b onx=&quot;1&quot;&gt;&#39;&amp;\u{FFFD}\u{FFFD}\u{FFFD}é");
    }

    #[test]
    fn times_and_numbers() {
        let spans = [0.0004, 0.25, 9.44, 75.0, 125.4, 3_725.0, 200_000.0].map(|time| Span(time).to_string());
        assert_eq!(spans, ["0 ms", "250 ms", "9.4 s", "75.0 s", "2 min 05 s", "1 h 02 min", "2 d 07 h"]);
        assert_eq!(
            [0, 999, 1_000, 12_345_678].map(|n| Grouped(n).to_string()),
            ["0", "999", "1,000", "12,345,678"]
        );
    }
}
