//! Who asks is told by a header, a key or the path; a key is nowhere shown.

use serde_json::Value;
use streamgauge::sinks::metrics::Format;

use super::harness::Sidecar;

/// Sends a request that is answered by a 204; gives its line of the log and the head that the upstream got.
async fn asked(config: &str, request: &str) -> (Sidecar, Value, String) {
    let (sidecar, mut upstream) = Sidecar::start(config);
    let mut client = sidecar.connect();
    client.write(request).await;
    let mut server = upstream.accept().await;
    let head = server.read_head().await;
    server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.read_head().await;
    let line = sidecar.exchange().await;
    (sidecar, line, head)
}

#[tokio::test(start_paused = true)]
async fn a_key_names_its_tenant_goes_on_as_it_came_and_is_shown_nowhere() {
    let names = std::env::temp_dir().join(format!("streamgauge-keys-{}.yaml", std::process::id()));
    let digest = streamgauge::account::tenant::digest(b"sk-very-secret");
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&names, format!("{hex}: search\n")).unwrap();
    let config = format!(
        "upstream: http://upstream:8000\ntenants: {{identify: [{{api_key: {{names: {}}}}}, {{header: x-team}}]}}\n",
        names.display()
    );
    let request = "GET /v1/models?key=sk-very-secret HTTP/1.1\r\nHost: api\r\nX-Team: ads\r\n\r\n";
    let (sidecar, line, head) = asked(&config, request).await;
    assert_eq!(line["tenant"], "search");
    assert!(head.starts_with("GET /v1/models?key=sk-very-secret HTTP/1.1\r\n"), "{head}");
    let page = String::from_utf8(sidecar.metrics.render(Format::Text004)).unwrap();
    let resolved = sidecar.proxy.routes.load().config.to_yaml();
    let shown = format!("{page}{line}{resolved}{:?}", sidecar.proxy.routes.load().config);
    assert!(!shown.contains("very-secret") && !shown.contains(&hex), "{shown}");
    let unknown =
        "GET /v1/models HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer made-up\r\nX-Team: ads\r\n\r\n";
    assert_eq!(asked(&config, unknown).await.1["tenant"], "ads");
    std::fs::remove_file(&names).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_path_names_its_tenant_and_goes_on_with_or_without_it() {
    let config = |strip: bool| {
        format!(
            "upstreams: [{{name: u, url: http://upstream:8000, match: {{path_prefix: {}}}}}]\n\
             tenants: {{identify: [{{path_prefix: '/t/{{tenant}}/', strip: {strip}}}]}}\n",
            if strip { "/v1" } else { "/t" }
        )
    };
    let request = "GET /t/acme/v1/models?a=1 HTTP/1.1\r\nHost: api\r\n\r\n";
    for (strip, target) in [(false, "/t/acme/v1/models?a=1"), (true, "/v1/models?a=1")] {
        let (_sidecar, line, head) = asked(&config(strip), request).await;
        assert_eq!((&line["tenant"], &line["upstream"]), (&"acme".into(), &"u".into()));
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
    }
}
