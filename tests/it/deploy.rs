//! What is shipped to deploy it: files that are made by the program are what it makes now, and numbers that belong together
//! do. Foreign programs look at the same files in `tests/stack`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap()
}

/// The file is this text; `UPDATE=1` writes it anew.
fn same(path: &str, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(root().join(path), text).unwrap();
    }
    assert!(read(path) == text, "{path}: UPDATE=1 cargo test --test it deploy writes it anew");
}

fn streamgauge(words: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    let given = Command::new(program).args(words).current_dir(root()).output().unwrap();
    assert!(given.status.success(), "{words:?}: {}", String::from_utf8_lossy(&given.stderr));
    String::from_utf8(given.stdout).unwrap()
}

const LABEL: &str = "release=kube-prometheus-stack";

#[test]
fn rules_are_those_of_the_configuration_beside_them() {
    let given = streamgauge(&[
        "rules",
        "--config=deploy/kubernetes/config.yaml",
        "--format=prometheusrule",
        "--namespace=llm",
        "--label",
        LABEL,
    ]);
    same("deploy/kubernetes/prometheus-rule.yaml", &given);
    let words =
        ["rules", "--config=deploy/compose/sidecar/config.yaml", "--dashboards=http://localhost:3000/d"];
    same("deploy/compose/rules.yaml", &streamgauge(&words));
}

#[test]
fn every_dashboard_has_its_config_map() {
    let mut text = "\
# The dashboards for Grafana in Kubernetes: kubectl apply -n monitoring -k dashboards
# One ConfigMap each, since all in one would be too large for kubectl apply; Grafana's sidecar finds them by their label.
# The list is written by a test: UPDATE=1 cargo test --test it deploy
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
generatorOptions:
  disableNameSuffixHash: true
  labels: {grafana_dashboard: \"1\"}
  annotations: {grafana_folder: Streamgauge}
"
    .to_owned();
    let mut names: Vec<String> = std::fs::read_dir(root().join("dashboards"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    if names.is_empty() {
        text.push_str("configMapGenerator: []\n");
    } else {
        text.push_str("configMapGenerator:\n");
    }
    for name in names {
        let stem = name.trim_end_matches(".json").trim_start_matches("streamgauge-");
        text.push_str(&format!("  - {{name: dashboard-streamgauge-{stem}, files: [{name}]}}\n"));
    }
    same("dashboards/kustomization.yaml", &text);
}

#[test]
fn configurations_are_right_by_the_programs_own_word() {
    for path in ["deploy/kubernetes/config.yaml", "deploy/compose/sidecar/config.yaml"] {
        streamgauge(&["check", path]);
    }
}

fn seconds(text: &str) -> u64 {
    humantime::parse_duration(text).unwrap().as_secs()
}

/// Whoever is killed before it has drained loses streams, and their numbers.
#[test]
fn there_is_time_to_end_in_order() {
    let spec = &yaml("deploy/kubernetes/deployment.yaml")["spec"]["template"]["spec"];
    let config = yaml("deploy/kubernetes/config.yaml");
    let server = &spec["containers"][0];
    let waits = server["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let args = server["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let drains = args.filter_map(|arg| arg.strip_prefix("--shutdown-timeout=")).next().unwrap();
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    let own = |key: &str| seconds(config[key].as_str().unwrap());
    let needed = waits + drains.parse::<u64>().unwrap() + own("drain_timeout") + own("final_scrape_wait");
    assert!(grace >= needed + 5, "{grace} s for {needed} s");
    let interval = &yaml("deploy/kubernetes/pod-monitor.yaml")["spec"]["podMetricsEndpoints"][0]["interval"];
    assert!(own("final_scrape_wait") > seconds(interval.as_str().unwrap()), "no scrape may fall into it");

    let default = seconds("25s");
    let stop = &yaml("deploy/compose/compose.yaml")["services"]["sidecar"]["stop_grace_period"];
    assert!(seconds(stop.as_str().unwrap()) > default);
    let unit = read("deploy/systemd/streamgauge.service");
    let stop = unit.lines().filter_map(|line| line.strip_prefix("TimeoutStopSec=")).next().unwrap();
    assert!(seconds(stop) > default);
    assert!(streamgauge(&["check", "examples/three-classes.yaml"]).contains("drain_timeout: 25s\n"));
}

/// Every image that a file names, with the file.
fn images() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for path in ["deploy/compose/compose.yaml", "deploy/kubernetes/deployment.yaml"] {
        for line in read(path).lines() {
            if let Some(image) = line.trim_start().trim_start_matches("- ").strip_prefix("image: ") {
                found.insert(image.to_owned(), path.into());
            }
        }
    }
    found
}

#[test]
fn what_is_pulled_has_a_version() {
    let images = images();
    assert!(images.len() >= 7, "{images:?}");
    for (image, path) in &images {
        let version = image.rsplit_once(':').map(|(_, version)| version);
        let pinned = version.is_some_and(|version| version.contains(|c: char| c.is_ascii_digit()));
        assert!(pinned || image == "streamgauge", "{}: {image}", path.display());
    }
    let own = format!("{}:{}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    assert!(images.contains_key(&own), "the composition's image is {own}");
    let set = &yaml("deploy/kubernetes/kustomization.yaml")["images"][0];
    assert_eq!((&set["name"], &set["newTag"]), (&"streamgauge".into(), &env!("CARGO_PKG_VERSION").into()));
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).unwrap();
    assert!(read("Dockerfile").contains(&format!("/rust:{channel}-slim")), "the image's Rust is {channel}");
}
