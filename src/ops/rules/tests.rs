//! That rules name only what there is, and that both formats hold the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::account::slo::{Asks, Matching, Slo};
use crate::exchange::Name;
use crate::ops::known::Known;

fn settings() -> Settings {
    Settings {
        job: "streamgauge".to_owned(),
        runbooks: "https://runbooks.example/".to_owned(),
        dashboards: "https://grafana.example/d".to_owned(),
        rehearsal: 1,
    }
}

fn slo(name: &str, objective: u32) -> Slo {
    let time = Some(Duration::from_millis(25));
    Slo {
        name: Name::from(name),
        matching: Matching::default(),
        objective,
        window: Duration::from_secs(30 * 86_400),
        asks: Asks { ttft: time, tpot: time, duration: time, success: true },
    }
}

fn promises(slos: Vec<Slo>, tenant_on_histograms: bool) -> Promises {
    Promises { slos: Slos(slos), tenant_on_histograms, limit_store_shared: false }
}

fn all() -> Rules {
    let slos = [900_000, 950_000, 990_000, 999_000, 300_000];
    let slos = slos.map(|objective| slo(&format!("of {objective} \"\\"), objective)).to_vec();
    Rules::new(&promises(slos, true), &settings())
}

#[test]
fn every_series_and_label_in_every_query_is_in_the_catalogue() {
    let rules = all();
    let mut known = Known::new();
    let mut seen = 0;
    for rule in rules.groups.iter().flat_map(|group| &group.rules) {
        match rule {
            Rule::Record(record) => {
                let mut labels = known.check(&record.expr);
                labels.extend(record.labels.iter().map(|(name, _)| (*name).to_owned()));
                known.0.insert(record.name.clone(), labels);
            }
            Rule::Alert(alert) => {
                let labels = known.check(&alert.expr);
                for text in [&alert.summary, &alert.description] {
                    for used in text.split("$labels.").skip(1) {
                        let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                        let label = used.split(end).next().unwrap();
                        assert!(labels.contains(label), "{}: {label} in {text:?}", alert.name);
                        seen += 1;
                    }
                    for query in text.split("printf \"").skip(1) {
                        known.check(&query.split('"').next().unwrap().replace("%q", "\"\""));
                    }
                    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                    for named in text.split(end).filter(|word| word.starts_with("streamgauge_")) {
                        let is_part = text.contains(&format!(":{named}:"));
                        assert!(is_part || known.0.contains_key(named), "{}: {named}", alert.name);
                    }
                }
            }
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn a_name_that_is_not_there_is_found() {
    let check = |expr: &str| {
        let expr = expr.to_owned();
        std::panic::catch_unwind(move || Known::new().check(&expr)).is_ok()
    };
    assert!(check("sum by (upstream) (rate(streamgauge_requests_total{outcome=\"a{b=\"}[5m]))"));
    assert!(!check("sum by (upstreams) (rate(streamgauge_requests_total[5m]))"));
    assert!(!check("rate(streamgauge_requests_total{outcom=\"x\"}[5m])"));
    assert!(!check("rate(streamgauge_request_total[5m])"));
    assert!(!check("streamgauge_time_to_first_token_seconds > 1"));
}

#[test]
fn every_alert_is_there_and_is_of_use() {
    let mut names = BTreeMap::new();
    for group in all().groups {
        for rule in group.rules {
            let Rule::Alert(alert) = rule else { continue };
            assert!(alert.summary.contains("{{ $"), "{}: which one?", alert.name);
            assert!(alert.description.ends_with('.') && !alert.summary.ends_with('.'), "{}", alert.name);
            names.insert(alert.name, alert.severity);
        }
    }
    let pages: Vec<&str> =
        names.iter().filter(|(_, severity)| **severity == Severity::Page).map(|(name, _)| *name).collect();
    let want = [
        "Down",
        "Hung",
        "SLOBurnFast",
        "SLOThreshold",
        "TrafficAbsent",
        "TruncatedStreams",
        "UpstreamErrors",
    ];
    assert_eq!(pages, want.map(|name| format!("Streamgauge{name}")));
    assert_eq!(names.len(), 24, "{names:?}");
}

#[test]
fn both_formats_hold_the_same_groups() {
    let rules = all();
    let plain = write(&rules, &settings(), &Format::Prometheus).unwrap();
    let format = Format::PrometheusRule {
        name: "llm".to_owned(),
        namespace: Some("serving".to_owned()),
        labels: [("release".to_owned(), "prometheus".to_owned())].into(),
    };
    let resource = write(&rules, &settings(), &format).unwrap();
    let read = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
    let (plain, resource) = (read(&plain), read(&resource));
    assert_eq!(resource["spec"], plain);
    assert_eq!(resource["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(resource["kind"], "PrometheusRule");
    assert_eq!(
        resource["metadata"],
        serde_json::json!({"name": "llm", "namespace": "serving", "labels": {"release": "prometheus"}})
    );
    let down =
        plain["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let down = down.into_iter().find(|rule| rule["alert"] == "StreamgaugeDown").unwrap();
    assert_eq!(down["annotations"]["runbook_url"], "https://runbooks.example/StreamgaugeDown.md");
    assert_eq!(down["annotations"]["dashboard_url"], "https://grafana.example/d/streamgauge-sidecar");
    assert_eq!(down["expr"], "up{job=\"streamgauge\"} == 0\nor absent(up{job=\"streamgauge\"})");
    assert_eq!((&down["for"], &down["labels"]), (&"2m".into(), &serde_json::json!({"severity": "page"})));
}

#[test]
fn a_rehearsal_shortens_every_window_and_says_so() {
    let windows = |by: u32| {
        let settings = Settings { rehearsal: by, ..settings() };
        let rules = Rules::new(&promises(vec![slo("chat", 990_000)], false), &settings);
        let text = write(&rules, &settings, &Format::Prometheus).unwrap();
        let mut found = BTreeSet::new();
        for before in ["[", " offset ", "\n    for: ", "\n    keep_firing_for: "] {
            for rest in text.replace("[]", "").split(before).skip(1) {
                found.insert(rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap().to_owned());
            }
        }
        (text, found)
    };
    let want = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    let (usual, found) = windows(1);
    assert_eq!(found, want("1m 2m 5m 10m 15m 30m 1h 2h 6h 1d 3d 7d 30d"));
    assert!(usual.starts_with("# Generated by") && !usual.contains("REHEARSAL"), "{usual}");
    let (short, found) = windows(60);
    assert_eq!(found, want("1s 2s 5s 10s 15s 30s 1m 2m 6m 24m 1h12m 2h48m 12h"));
    assert!(short.contains("# A REHEARSAL: every window") && short.contains("divided by 60"), "{short}");
    assert_eq!(short.matches("interval: 5s").count(), 1, "slices of five minutes");
    assert_eq!(short.matches("interval: 1s").count(), 5, "all other groups");
}

#[test]
fn the_speed_of_some_tenants_needs_their_histograms() {
    let some = Slo {
        matching: Matching { tenant: Some(crate::account::model::Glob::new("ide*")), ..Matching::default() },
        ..slo("ide", 990_000)
    };
    let slos = vec![some];
    let has_speed = |rules: &Rules| rules.groups.iter().any(|group| group.name == "streamgauge-speed");
    let without = Rules::new(&promises(slos.clone(), false), &settings());
    assert!(!has_speed(&without) && without.notes[0].contains("tenant_on_histograms"), "{:?}", without.notes);
    let with = Rules::new(&promises(slos, true), &settings());
    assert!(has_speed(&with) && with.notes.is_empty(), "{:?}", with.notes);
    let text = write(&with, &settings(), &Format::Prometheus).unwrap();
    assert!(text.contains("_bucket{le=\"0.025\",tenant=~\"ide.*\"}[5m]"), "{text}");
}

#[test]
fn what_replicas_share_of_budgets_is_not_added_up() {
    for (limit_store_shared, want) in [(false, "sum by"), (true, "max by")] {
        let rules = Rules::new(&Promises { limit_store_shared, ..Promises::default() }, &settings());
        let text = write(&rules, &settings(), &Format::Prometheus).unwrap();
        let spent = format!("{want} (tenant, currency, period) (streamgauge_budget_spent)");
        assert_eq!(text.matches(&spent).count(), 1, "{want}");
    }
}

#[test]
fn without_objectives_there_are_the_general_alerts() {
    let rules = Rules::new(&Promises::default(), &settings());
    let names: Vec<&str> = rules.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["streamgauge-requests", "streamgauge-usage", "streamgauge-sidecar"]);
    assert!(rules.notes.is_empty());
}
