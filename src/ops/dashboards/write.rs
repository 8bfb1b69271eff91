//! Dashboards as Grafana's JSON: laid out, with variables, links and annotations that are the same in all.

use serde_json::{Value, json};

use super::PAGES;
use super::matchers::{VARIABLES, Variable, matched, row};
use super::panel::{Kind, Page, Panel, Query};

/// What is the same in all dashboards.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where runbooks are; no link without it.
    pub runbooks: Option<String>,
}

/// The oldest model that has all that is used: Grafana 10.4's.
const SCHEMA: u32 = 39;
/// Cells in a row of Grafana's grid.
const CELLS: u32 = 24;

/// All dashboards: the names of their files, and what is in them.
///
/// # Errors
/// None that a user could bring about; the library's own.
pub fn write(settings: &Settings) -> Result<Vec<(String, String)>, serde_json::Error> {
    let file = |page: &&Page| {
        let name = format!("streamgauge-{}.json", page.board.as_str());
        Ok((name, serde_json::to_string_pretty(&dashboard(page, settings))? + "\n"))
    };
    PAGES.iter().map(file).collect()
}

fn dashboard(page: &Page, settings: &Settings) -> Value {
    let panels = panels(page);
    let mut links = vec![json!({
        "type": "dashboards", "title": "Streamgauge", "tags": ["streamgauge"], "asDropdown": true, "icon": "external link",
        "includeVars": true, "keepTime": true, "targetBlank": false, "tooltip": "", "url": "",
    })];
    links.extend(settings.runbooks.as_ref().map(|url| {
        json!({
            "type": "link", "title": "Runbooks", "url": url, "icon": "doc", "targetBlank": true, "tags": [],
            "asDropdown": false, "includeVars": false, "keepTime": false, "tooltip": "",
        })
    }));
    json!({
        "uid": format!("streamgauge-{}", page.board.as_str()),
        "title": format!("Streamgauge: {}", page.title),
        "description": page.description,
        "tags": ["streamgauge"],
        "schemaVersion": SCHEMA, "version": 1, "id": null, "editable": false, "graphTooltip": 1,
        "refresh": "30s", "timezone": "browser", "weekStart": "", "fiscalYearStartMonth": 0, "liveNow": false,
        "time": {"from": page.from, "to": "now"}, "timepicker": {},
        "links": links,
        "annotations": {"list": annotations()},
        "templating": {"list": variables(&panels)},
        "panels": panels,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn annotations() -> Vec<Value> {
    let built_in = json!({
        "builtIn": 1, "type": "dashboard", "name": "Annotations & Alerts", "enable": true, "hide": true,
        "iconColor": "rgba(0, 211, 255, 1)", "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    });
    let shown = |name: &str, colour: &str, expr: &str, title: &str, text: &str, is_time: bool| {
        json!({
            "name": name, "enable": true, "hide": false, "iconColor": colour, "datasource": source(), "expr": matched(expr),
            "titleFormat": title, "textFormat": text, "useValueForTime": is_time,
        })
    };
    vec![
        built_in,
        shown(
            "Alerts",
            "red",
            "ALERTS{alertname=~\"Streamgauge.+\",alertstate=\"firing\"}",
            "{{alertname}}",
            "{{severity}} {{tenant}} {{model}} {{upstream}} {{instance}}",
            false,
        ),
        shown(
            "Configurations",
            "blue",
            "streamgauge_config_last_reload_success_timestamp_seconds * 1000",
            "configuration loaded",
            "{{instance}}",
            true,
        ),
        shown(
            "Versions",
            "purple",
            "count by (version) (streamgauge_build_info) unless on (version) count by (version) (streamgauge_build_info offset 5m)",
            "version {{version}}",
            "new within five minutes",
            false,
        ),
    ]
}

/// Those that a query uses, and the data source.
fn variables(panels: &[Value]) -> Vec<Value> {
    let text = Value::from(panels.to_vec()).to_string();
    let source_variable = json!({
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "", "hide": 0,
        "current": {}, "multi": false, "includeAll": false, "refresh": 1, "options": [], "skipUrlSync": false,
    });
    let used = VARIABLES.iter().filter(|variable| {
        ["job", "instance"].contains(&variable.label) || text.contains(&format!("${}", variable.label))
    });
    std::iter::once(source_variable).chain(used.map(variable)).collect()
}

fn variable(Variable { label, title, metric, all }: &Variable) -> Value {
    let query = format!("label_values({metric}, {label})");
    json!({
        "type": "query", "name": label, "label": title, "datasource": source(), "definition": query,
        "query": {"query": query, "refId": "variable"}, "refresh": 2, "sort": 1, "multi": true, "includeAll": true,
        "allValue": all, "current": {"selected": true, "text": ["All"], "value": ["$__all"]}, "options": [], "hide": 0,
        "regex": "", "skipUrlSync": false,
    })
}

/// Rows one under the other; in each its panels from left to right, on a new line where there is no room.
fn panels(page: &Page) -> Vec<Value> {
    let mut panels = Vec::new();
    let mut top = 0;
    for row in page.rows {
        panels.push(json!({
            "type": "row", "title": row.title, "id": panels.len() + 1, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": CELLS, "h": 1},
        }));
        top += 1;
        let mut left = 0;
        for one in row.panels {
            if left + one.width > CELLS {
                (left, top) = (0, top + row.height);
            }
            let place = json!({"x": left, "y": top, "w": one.width, "h": row.height});
            panels.push(panel(one, panels.len() + 1, &place));
            left += one.width;
        }
        top += row.height;
    }
    panels
}

fn panel(panel: &Panel, id: usize, place: &Value) -> Value {
    let targets: Vec<Value> =
        panel.queries.iter().zip('A'..='Z').map(|(query, letter)| target(panel, query, letter)).collect();
    let kind = match panel.kind {
        Kind::Stat => "stat",
        Kind::Lines | Kind::Stack => "timeseries",
        Kind::Heatmap => "heatmap",
        Kind::Table => "table",
    };
    json!({
        "type": kind, "id": id, "title": panel.title, "description": panel.description, "gridPos": place,
        "datasource": source(), "targets": targets, "transformations": transformations(panel),
        "fieldConfig": {"defaults": defaults(panel), "overrides": overrides(panel)}, "options": options(panel),
    })
}

fn target(panel: &Panel, query: &Query, letter: char) -> Value {
    let format = match panel.kind {
        Kind::Heatmap => "heatmap",
        Kind::Table => "table",
        Kind::Stat | Kind::Lines | Kind::Stack => "time_series",
    };
    // A number of now is asked for now: over a range the newest one may be an hour old where traffic ended, and a budget's
    // 30 days would be summed at each step.
    let is_instant = matches!(panel.kind, Kind::Stat | Kind::Table);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let has_exemplars = query.expr.split(|c| !is_word(c)).filter_map(row).any(|row| row.exemplars);
    json!({
        "refId": letter.to_string(), "datasource": source(), "editorMode": "code", "expr": matched(query.expr),
        "legendFormat": query.legend, "format": format, "instant": is_instant, "range": !is_instant,
        "exemplar": has_exemplars && matches!(panel.kind, Kind::Lines | Kind::Heatmap),
    })
}

/// A table's queries as columns beside their labels.
fn transformations(panel: &Panel) -> Value {
    if panel.kind != Kind::Table {
        return json!([]);
    }
    let mut names = serde_json::Map::new();
    for (query, letter) in panel.queries.iter().zip('A'..='Z') {
        let name = if panel.queries.len() > 1 { format!("Value #{letter}") } else { "Value".to_owned() };
        names.insert(name, query.legend.into());
    }
    json!([
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": true}, "indexByName": {}, "renameByName": names}},
    ])
}

fn defaults(panel: &Panel) -> Value {
    let steps = if panel.steps.is_empty() { &[(0.0, "text")] } else { panel.steps };
    let step = |(place, (from, colour)): (usize, &(f64, &str))| json!({"color": colour, "value": (place > 0).then_some(*from)});
    let steps: Vec<Value> = steps.iter().enumerate().map(step).collect();
    let mode = if matches!(panel.kind, Kind::Lines | Kind::Stack) { "palette-classic" } else { "thresholds" };
    let mut defaults = json!({
        "unit": panel.unit, "noValue": panel.nothing, "color": {"mode": mode}, "custom": custom(panel),
        "thresholds": {"mode": "absolute", "steps": steps}, "mappings": [],
    });
    if let Some(defaults) = defaults.as_object_mut() {
        if let Some(decimals) = panel.decimals {
            defaults.insert("decimals".to_owned(), decimals.into());
        }
        if matches!(panel.kind, Kind::Lines | Kind::Stack) {
            defaults.insert("min".to_owned(), 0.into());
        }
    }
    defaults
}

fn custom(panel: &Panel) -> Value {
    match panel.kind {
        Kind::Lines => json!({"lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": false}),
        Kind::Stack => json!({
            "lineWidth": 1, "fillOpacity": 40, "showPoints": "never", "spanNulls": false,
            "stacking": {"mode": "normal", "group": "A"},
        }),
        Kind::Table => json!({"align": "auto", "minWidth": 60, "cellOptions": {"type": "auto"}}),
        Kind::Stat | Kind::Heatmap => json!({}),
    }
}

/// How wide a table's columns of labels are, in pixels: as wide as what stands in them, so that the values are seen too.
const COLUMNS: [(&str, u32); 9] = [
    ("code", 60),
    ("currency", 85),
    ("kind", 90),
    ("period", 75),
    ("slo", 90),
    ("tenant", 105),
    ("model", 125),
    ("alternative", 125),
    ("outcome", 135),
];

/// Columns of other units, and narrow ones; what is promised is dashed.
fn overrides(panel: &Panel) -> Vec<Value> {
    let column = |(name, unit, decimals): &(&str, &str, u32)| {
        json!({
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "unit", "value": unit}, {"id": "decimals", "value": decimals},
                {"id": "custom.width", "value": (9 * name.len()).max(85)},
            ],
        })
    };
    let mut overrides: Vec<Value> = panel.columns.iter().map(column).collect();
    let groups_by = |label: &str| panel.queries.iter().any(|query| query.expr.contains(label));
    if panel.kind == Kind::Table {
        // What the panel says where it is empty is not what a cell says.
        overrides.push(json!({
            "matcher": {"id": "byRegexp", "options": "/.*/"},
            "properties": [{"id": "noValue", "value": "–"}],
        }));
        overrides.extend(COLUMNS.iter().filter(|(label, _)| groups_by(label)).map(|(label, width)| {
            json!({
                "matcher": {"id": "byName", "options": label},
                "properties": [{"id": "custom.width", "value": width}],
            })
        }));
    }
    if panel.queries.iter().any(|query| query.legend.starts_with("promised")) {
        overrides.push(json!({
            "matcher": {"id": "byRegexp", "options": "/^promised/"},
            "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}],
        }));
    }
    overrides
}

fn options(panel: &Panel) -> Value {
    match panel.kind {
        Kind::Stat => json!({
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}, "colorMode": "value",
            "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
        }),
        Kind::Lines | Kind::Stack => json!({
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        Kind::Heatmap => json!({
            "calculate": false, "cellGap": 1, "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "color": {"mode": "scheme", "scheme": "Spectral", "steps": 64, "reverse": true, "exponent": 0.5},
            "exemplars": {"color": "rgba(255,255,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": true},
            "tooltip": {"mode": "single", "yHistogram": false}, "rowsFrame": {"layout": "auto"},
        }),
        Kind::Table => {
            json!({"showHeader": true, "cellHeight": "sm", "footer": {"show": false, "reducer": ["sum"], "fields": ""}})
        }
    }
}
