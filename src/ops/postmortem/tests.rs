//! The whole way: from counters as they were scraped to the page, with names that somebody chose to do harm.

use std::collections::BTreeMap;

use super::chart::Lines;
use super::class::Class;
use super::detect::{Objective, Verdicts, incidents};
use super::findings::{Findings, Main, baseline, objective_of};
use super::growth::Scrapes;
use super::measures::Measures;
use super::{Series, Span, document, html, markdown};

const EVIL: &str = "<script>alert('x')</script>|`[a](http://e.example)\u{202e}\n";
const BEGIN: f64 = 1_795_500_000.0;

fn series(labels: &[(&str, &str)], points: Vec<(f64, f64)>) -> Series {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Series { labels, points }
}

/// A counter that grows by what a second brings, scraped each second.
fn counter(labels: &[(&str, &str)], by: impl Fn(u32) -> f64) -> Series {
    let mut value = 0.0;
    let point = |second: u32| {
        value += by(second);
        (BEGIN + f64::from(second), value)
    };
    series(labels, (0..300).map(point).collect())
}

/// Two minutes of usual traffic, one in which every other request of a tenant is late, and two more.
fn findings() -> Findings {
    let is_bad = |second: u32| (120..180).contains(&second);
    let labels = [("slo", EVIL), ("tenant", EVIL), ("model", "m"), ("instance", "a"), ("job", "j")];
    let judged = counter(&labels, |second| if is_bad(second) { 20.0 } else { 10.0 });
    let bad = counter(&labels, |second| if is_bad(second) { 10.0 } else { 0.0 });
    let scrapes = Scrapes::of(&[series(&labels[3..], judged.points.clone())]);
    let verdicts = Verdicts::of(&scrapes, &[judged], &[bad]);
    let objective = Objective { name: EVIL.into(), share: 0.99, ttft: Some(0.3), ..Objective::default() };
    let objectives = vec![objective];
    let data = Span { begin: BEGIN, end: BEGIN + 299.0 };
    let mut all = incidents(&verdicts, &objectives, data, scrapes.interval);
    let span = baseline(&all[0], &all, data, scrapes.interval).unwrap();
    let incident = all.remove(0);
    let measures = |span: Span, requests: f64, late: f64| {
        let mut measures = Measures::new(span);
        let end = |labels: &[(&str, &str)], value: f64| series(labels, vec![(span.end, value)]);
        let band = |le| [("input_band", "le_1k"), ("le", le)];
        measures.take(
            "ttft",
            vec![end(&band("0.3"), requests - late), end(&band("3"), requests), end(&band("+Inf"), requests)],
        );
        measures
            .take("ttft_sum", vec![end(&[("input_band", "le_1k")], 0.1 * (requests - late) + 2.0 * late)]);
        let ended = [("tenant", EVIL), ("model", "m"), ("outcome", "completed"), ("code", "200")];
        measures.take("requests", vec![end(&ended, requests)]);
        measures.take("started", vec![end(&[], requests)]);
        measures.take("cost", vec![end(&[("tenant", EVIL), ("model", "m"), ("currency", "USD")], 1.5)]);
        measures
    };
    let before = measures(span, 1200.0, 0.0);
    let during = measures(incident.span, 1200.0, 600.0);
    let chosen = objective_of(&incident, &objectives);
    let chart = Lines {
        title: "Tokens per minute".into(),
        unit: "tokens/min".into(),
        caption: "By tenant.".into(),
        empty: "None.".into(),
        lines: vec![(EVIL.into(), vec![(BEGIN, 1.0), (BEGIN + 10.0, 2.0)])],
        span: data,
        step: 10.0,
        incident: Some(incident.span),
        alerts: vec![],
        threshold: None,
    };
    Findings {
        asked: data,
        data,
        interval: scrapes.interval,
        instances: scrapes.instances(),
        objectives,
        totals: verdicts.within(data),
        main: Some(Main::new(incident, chosen, 10.0, Some(before), during)),
        charts: vec![chart],
        made: BEGIN + 400.0,
        ..Findings::default()
    }
}

#[test]
fn an_incident_is_told_from_counters_to_page() {
    let findings = findings();
    let main = findings.main.as_ref().unwrap();
    assert_eq!((main.incident.span.begin - BEGIN, main.incident.span.end - BEGIN), (119.0, 179.0));
    assert_eq!(main.judged(), (1200.0, 600.0));
    assert_eq!(main.judgement.class, Class::Queue);
    let page = markdown::page(&document::of(&findings));
    for part in [
        "2026-11-24 06:01:59 to 06:02:59 UTC",
        "- Requests that missed it: **600** (of 1,200 judged: 50 %)",
        "| begin | 2026-11-24 06:01:59.000 | 2026-11-24 06:02:00.000 |",
        "1.50 USD",
        "**queue**: 100 % of the bad requests",
        "In 30 days, at the 10 requests a second",
        "allows 259,200 bad ones. This spent 0.231 % of them",
        "### Action items",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn names_are_text_and_never_markup() {
    let document = document::of(&findings());
    let page = html::page(&document);
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
    let allowed = page.replace("http-equiv", "");
    for word in ["<script", "http:", "https:", "\u{202e}", "url(", "@import", "src="] {
        assert!(!allowed.replace("(http://e.example)", "").contains(word), "{word}");
    }
    let text = markdown::page(&document);
    for word in ["<script", "](http:", "\u{202e}", " http://"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    for line in text.lines().filter(|line| line.starts_with("| ") && line.contains("script")) {
        let bars = line.replace("\\|", "").matches('|').count();
        assert!([4, 5, 6, 7, 8, 10].contains(&bars), "a name ends no cell: {line}");
    }
}

#[test]
fn elements_are_closed_in_their_order() {
    let page = html::page(&document::of(&findings()));
    let mut open: Vec<String> = Vec::new();
    for part in page.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name: String =
            tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        match name.as_str() {
            "" | "meta" => {}
            _ if tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop().as_deref(), Some(name.as_str()), "{tag}"),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let ids: Vec<&str> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let mut times = BTreeMap::new();
    ids.iter().for_each(|id| *times.entry(id).or_insert(0) += 1);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[test]
fn a_quiet_time_has_its_own_page() {
    let findings = Findings { main: None, ..findings() };
    let document = document::of(&findings);
    assert!(!document.is_breach && document.title == "Nothing was breached");
    let page = markdown::page(&document);
    assert!(page.contains("But over the whole time more was bad than is allowed"), "{page}");
    assert!(html::page(&document).contains("Post-mortem: no incident"));
}
