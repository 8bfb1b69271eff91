//! `postmortem`, as who types it sees it, against a Prometheus that answers what it is told to. What it finds in a real
//! one is in `tests/real`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

fn postmortem(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    Command::new(program).arg("postmortem").args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a Prometheus says to a request's target: a status line's end and a body.
type Answer = fn(&str) -> (&'static str, String);

/// A server that gives these answers for as long as the test runs.
fn server(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), answer);
        }
    });
    url
}

fn serve(mut stream: TcpStream, answer: Answer) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = text(&head);
    let (status, body) = answer(head.split(' ').nth(1).unwrap());
    let length = body.len();
    // Who asked may have gone.
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}

fn vector(value: f64) -> String {
    format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1795500000,"{value}"]}}]}}}}"#
    )
}

fn nothing() -> String {
    r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.to_owned()
}

/// A sidecar that was scraped each 15 s for an hour.
fn scraped() -> String {
    let values: Vec<_> = (0..240).map(|n| format!("[{},\"1\"]", 1_795_500_000 + n * 15)).collect();
    format!(
        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"instance":"a","job":"j"}},"values":[{}]}}]}}}}"#,
        values.join(",")
    )
}

const SPAN: [&str; 4] = ["--from", "2026-11-24T06:00:00Z", "--to", "2026-11-24T07:00:00Z"];

#[test]
fn faults_of_prometheus_are_told_in_a_line() {
    let quiet: Answer = |_| ("200 OK", nothing());
    let page: Answer = |_| ("200 OK", "<html>".to_owned());
    let refused: Answer = |_| {
        (
            "422 Unprocessable Entity",
            r#"{"status":"error","error":"query processing would load too many samples"}"#.to_owned(),
        )
    };
    let many: Answer = |target| match target {
        _ if target.contains("query=count") && target.contains("slo_requests") => ("200 OK", vector(1e6)),
        _ if target.contains("query=streamgauge_build_info") => ("200 OK", scraped()),
        _ if target.contains("objective_ratio") => ("200 OK", vector(0.99)),
        _ => ("200 OK", nothing()),
    };
    let few: Answer = |target| match target.contains("query=streamgauge_build_info") {
        true => {
            let values = r#"[[1795500000,"1"],[1795500060,"1"]]"#;
            let series = format!(r#"{{"metric":{{"instance":"a"}},"values":{values}}}"#);
            ("200 OK", format!(r#"{{"data":{{"result":[{series}]}}}}"#))
        }
        false => ("200 OK", nothing()),
    };
    for (answer, part) in [
        (quiet, "it has no streamgauge_build_info of that time; does it scrape a sidecar"),
        (page, "is it the URL of its web page?"),
        (refused, "422 Unprocessable Entity: query processing would load too many samples"),
        (many, "streamgauge_slo_requests_total has 1000000 series"),
        (few, "2 scrapes of that time, one each 60 s: too few to tell anything"),
    ] {
        let url = server(answer);
        let output = postmortem(&[&["--prometheus", &url], &SPAN[..]].concat());
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with(&format!("streamgauge: --prometheus {url}/: ")), "{said}");
        assert!(last.contains(part), "{said}");
        assert!(said.starts_with("streamgauge: asking for "), "how far it came: {said}");
    }
}

#[test]
fn a_time_without_an_incident_is_a_report_too() {
    let quiet: Answer = |target| match target.contains("query=streamgauge_build_info") {
        true => ("200 OK", scraped()),
        false => ("200 OK", nothing()),
    };
    let url = server(quiet);
    let output = postmortem(&[&["--prometheus", &url], &SPAN[..]].concat());
    let (page, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(page.starts_with("# Nothing was breached\n"), "{page}");
    assert!(
        page.contains("No objective (`slos`) is configured")
            || page.contains("No objective (\\`slos\\`) is configured")
    );
    assert!(said.contains("nothing was breached from 2026-11-24 06:00:00 to 07:00:00 UTC"), "{said}");
}

#[test]
fn what_is_typed_wrong_is_told_with_what_would_be_right() {
    let url = ["--prometheus", "http://127.0.0.1:9"];
    for (words, code, part) in [
        (&["--from", "-1h", "--to", "-2h"][..], 1, "--from is not before --to"),
        (&["--from", "-60d"], 1, "at most 31 are looked at"),
        (&["--from", "-1h", "--log", "/nowhere/x.jsonl"], 1, "--log /nowhere/x.jsonl: could not open it"),
        (&["--from", "-1h"], 1, "could not connect to 127.0.0.1:9"),
        (&["--from", "soon"], 2, "write it like 2026-11-24T06:00:00Z"),
        (&["--from", "-1h", "--out", "report.pdf"], 2, "report.html or report.md"),
        (&[], 2, "--from <T>"),
    ] {
        let output = postmortem(&[&url[..], words].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let output = postmortem(&["--prometheus", "http://me:secret@127.0.0.1/", "--from", "-1h"]);
    assert!(!text(&output.stderr).contains("secret"), "{output:?}");
    let output = postmortem(&["--prometheus", "https://prometheus.example/", "--from", "-1h"]);
    assert!(text(&output.stderr).contains("only http:// is spoken"), "{output:?}");
}

#[test]
fn the_help_has_examples() {
    let help = text(&postmortem(&["--help"]).stdout);
    for part in ["EXAMPLES:", "--from -2h", "zcat", "exit code is 0"] {
        assert!(help.contains(part), "{part}");
    }
}
