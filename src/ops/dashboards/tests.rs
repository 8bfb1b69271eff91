//! That dashboards name only what there is, and are what Grafana and its linter ask for.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::ops::known::Known;

fn all() -> Vec<Value> {
    let files = write(&Settings::default()).unwrap();
    files.iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).unwrap()
}

#[test]
fn every_series_and_label_in_every_query_is_in_the_catalogue() {
    let known = Known::new();
    for board in all() {
        for panel in list(&board, "/panels").iter().filter(|panel| panel["type"] != "row") {
            for target in list(panel, "/targets") {
                known.check(target["expr"].as_str().unwrap());
            }
            let description = panel["description"].as_str().unwrap();
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            for name in description.split(end).filter(|word| word.starts_with("streamgauge_")) {
                assert!(matchers::row(name).is_some(), "{name} in {description:?}");
            }
        }
        for variable in list(&board, "/templating/list").iter().skip(1) {
            let query = variable["definition"].as_str().unwrap();
            let parts =
                query.trim_start_matches("label_values(").trim_end_matches(')').split_once(", ").unwrap();
            known.check(&format!("sum by ({}) ({})", parts.1, parts.0));
        }
    }
}

#[test]
fn every_panel_is_what_the_linter_asks_for() {
    for board in all() {
        let title = &board["title"];
        let names: Vec<_> =
            list(&board, "/templating/list").iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert!(names.starts_with(&["datasource", "job", "instance"]), "{title}: {names:?}");
        assert_eq!(board["editable"], false);
        for panel in list(&board, "/panels").iter().filter(|panel| panel["type"] != "row") {
            let name = format!("{title}, {}", panel["title"]);
            assert!(panel["title"] != "" && panel["description"].as_str().unwrap().ends_with('.'), "{name}");
            assert_ne!(panel["fieldConfig"]["defaults"]["unit"], "", "{name}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
            for target in list(panel, "/targets") {
                let expr = target["expr"].as_str().unwrap();
                for matcher in ["job=~\"$job\"", "instance=~\"$instance\""] {
                    assert_eq!(expr.matches(matcher).count(), expr.matches("job=~").count(), "{name}");
                    assert!(expr.contains(matcher), "{name}: {expr}");
                }
                assert!(
                    expr.split(" (rate(")
                        .skip(1)
                        .all(|rest| { rest.split("}[").nth(1).unwrap().starts_with("$__rate_interval]") }),
                    "{name}: {expr}"
                );
            }
        }
    }
}

#[test]
fn nothing_overlaps_and_ids_are_unique() {
    let mut uids = BTreeSet::new();
    for board in all() {
        assert!(uids.insert(board["uid"].to_string()));
        let (mut cells, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&board, "/panels") {
            assert!(ids.insert(panel["id"].as_u64().unwrap()));
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24, "{}", panel["title"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{}: {} overlaps", board["title"], panel["title"]);
            }
        }
    }
    assert_eq!(uids.len(), 7);
}
