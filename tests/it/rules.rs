//! `rules`, as who types it sees it, and the files that are shipped with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    Command::new(program).arg("rules").args(words).current_dir(root()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// The names of all alerts of a rule file.
fn alerts(rules: &Value) -> BTreeSet<String> {
    let groups = rules["groups"].as_array().unwrap().iter();
    let all = groups.flat_map(|group| group["rules"].as_array().unwrap());
    all.filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect()
}

const EXAMPLE: &str = "examples/three-classes.yaml";

#[test]
fn what_is_shipped_is_what_the_example_gives() {
    let given = rules(&["--config", EXAMPLE]);
    assert!(given.status.success(), "{}", text(&given.stderr));
    let file = root().join("deploy/prometheus/rules.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &given.stdout).unwrap();
    }
    let shipped = std::fs::read_to_string(file).unwrap();
    assert!(shipped == text(&given.stdout), "UPDATE=1 cargo test --test it rules writes it anew");
    assert_eq!(
        text(&given.stderr).lines().collect::<Vec<_>>(),
        [
            "streamgauge: objective `assistant` of 95 %: 14.4 times as many bad requests as it allows is nearly all; \
             over 1h its alert fires at 70 %",
            "streamgauge: objective `background` of 90 %: 14.4 times as many bad requests as it allows cannot be \
             reached; over 1h its alert fires at 70 %",
        ]
    );
}

#[test]
fn without_a_file_there_are_the_general_alerts_and_a_hint() {
    let given = rules(&[]);
    assert!(given.status.success());
    assert!(text(&given.stderr).starts_with("streamgauge: no objective is configured"));
    let names = alerts(&yaml(&text(&given.stdout)));
    assert!(names.contains("StreamgaugeHung") && !names.iter().any(|name| name.contains("SLO")), "{names:?}");
}

#[test]
fn for_the_operator_it_is_a_resource() {
    let given = rules(&[
        "--config",
        EXAMPLE,
        "--format",
        "prometheusrule",
        "--namespace",
        "llm",
        "--label",
        "release=kube",
    ]);
    let resource = yaml(&text(&given.stdout));
    let want = serde_json::json!({"name": "streamgauge", "namespace": "llm", "labels": {"release": "kube"}});
    assert_eq!((&resource["kind"], &resource["metadata"]), (&"PrometheusRule".into(), &want));
    assert_eq!(resource["spec"], yaml(&text(&rules(&["--config", EXAMPLE]).stdout)));
}

#[test]
fn what_is_wrong_is_said() {
    let missing = rules(&["--config", "no/such.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("could not read no/such.yaml"), "{}", text(&missing.stderr));
    for (words, want) in [
        (["--label", "release"], "write it like release=prometheus"),
        (["--rehearsal", "0"], "0 is not in 1..=100"),
        (["--format", "nagios"], "[possible values: prometheus, prometheusrule]"),
    ] {
        let given = rules(&words);
        assert_eq!(given.status.code(), Some(2), "{words:?}");
        assert!(text(&given.stderr).contains(want), "{}", text(&given.stderr));
    }
}

#[test]
fn every_alert_has_a_runbook_that_calls_it_as_severe() {
    let folder = root().join("docs/runbooks");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let shipped = yaml(&std::fs::read_to_string(root().join("deploy/prometheus/rules.yaml")).unwrap());
    let groups = shipped["groups"].as_array().unwrap().iter();
    let mut severities = BTreeMap::new();
    for rule in groups.flat_map(|group| group["rules"].as_array().unwrap()) {
        if let Some(alert) = rule["alert"].as_str() {
            severities.insert(alert.to_owned(), rule["labels"]["severity"].as_str().unwrap().to_owned());
        }
    }
    for (alert, severity) in &severities {
        let page = std::fs::read_to_string(folder.join(format!("{alert}.md")));
        let page = page.unwrap_or_else(|error| panic!("{alert} has no runbook: {error}"));
        let how_bad = page.split("## How bad\n\n").nth(1).unwrap();
        assert!(how_bad.starts_with(&format!("**{severity}**")), "{alert} is a {severity}: {how_bad:.40}");
        let row = index.lines().find(|line| line.starts_with(&format!("| [{alert}]"))).unwrap();
        assert_eq!(row.split('|').nth(3).unwrap().trim(), severity, "{alert} in the index");
    }
    let pages = std::fs::read_dir(folder).unwrap().count() - 1; // the index
    assert_eq!(pages, severities.len(), "a runbook of no alert");
    let table = std::fs::read_to_string(root().join("docs/alerting.md")).unwrap();
    for (alert, severity) in &severities {
        assert!(table.contains(&format!("| `{alert}` | {severity} |")), "{alert} in docs/alerting.md");
    }
}

/// What the cases of `deploy/prometheus/tests` say fires, case by case and check by check. promtool holds the rules to it.
fn cases() -> Vec<(String, Vec<BTreeSet<String>>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("deploy/prometheus/tests"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let fires = |check: &Value| -> BTreeSet<String> {
        let samples = check["exp_samples"].as_array().unwrap().iter();
        samples
            .map(|sample| sample["labels"].as_str().unwrap().split('"').nth(1).unwrap().to_owned())
            .collect()
    };
    let mut cases = Vec::new();
    for file in files {
        for case in yaml(&std::fs::read_to_string(file).unwrap())["tests"].as_array().unwrap() {
            let Some(checks) = case["promql_expr_test"].as_array() else { continue }; // of texts
            cases.push((case["name"].as_str().unwrap().to_owned(), checks.iter().map(fires).collect()));
        }
    }
    cases
}

#[test]
fn every_alert_has_a_case_in_which_it_begins_and_ends_and_one_in_which_it_does_not_fire() {
    let shipped = yaml(&std::fs::read_to_string(root().join("deploy/prometheus/rules.yaml")).unwrap());
    let cases = cases();
    for alert in alerts(&shipped) {
        let fires = |fired: &BTreeSet<String>| fired.contains(&alert);
        let begins_and_ends = cases.iter().any(|(_, checks)| {
            let first = checks.iter().position(fires);
            first.is_some_and(|first| first > 0) && !checks.last().is_some_and(fires)
        });
        assert!(begins_and_ends, "{alert} begins and ends in no case");
        let short = alert.trim_start_matches("Streamgauge");
        let of_objectives = ["SLOBurnFast", "SLOBurnSlow", "SLOThreshold", "SpeedSLA"].contains(&short);
        let is_of = |name: &str| of_objectives || name.starts_with(&format!("{short}: "));
        let silent = cases.iter().any(|(name, checks)| is_of(name) && checks.iter().all(BTreeSet::is_empty));
        assert!(silent, "there is no case about {alert} in which nothing fires");
    }
}
