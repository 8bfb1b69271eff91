//! `size`, as who types it sees it, against a Prometheus that answers what it is told to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

fn size(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    Command::new(program).arg("size").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server that gives these answers, one a connection, and says what it was asked.
fn server(
    answers: &'static [(&'static str, &'static str)],
) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/prom", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            asked.push(text(&head).lines().next().unwrap().to_owned());
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
        asked
    });
    (url, serving)
}

const ARGS: [&str; 8] =
    ["--model", "llama-3.1-8b", "--price", "0.15", "--compare", "70b", "--compare-price", "0.90"];

#[test]
fn measured_traffic_is_asked_of_prometheus() {
    let (url, serving) = server(&[
        (
            "200 OK",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"model":"llama-3.1-8b"},"value":[1700000000,"9000000.2"]}]}}"#,
        ),
        (
            "200 OK",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"model":"llama-3.1-8b"},"value":[1700000000,"5000000"]}]}}"#,
        ),
    ]);
    let output = size(&[&ARGS[..], &["--prometheus", &url]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let page = text(&output.stdout);
    let row = page.lines().find(|line| line.starts_with("all ")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["all", "9,000,000", "5,000,000", "$2.10", "$12.60"]
    );
    let asked = serving.join().unwrap();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].starts_with("GET /prom/api/v1/query?query=sum%20by%20%28model%29"), "{asked:?}");
    assert!(asked[1].contains("streamgauge_output_tokens_total%5B7d%5D"), "{asked:?}");
}

#[test]
fn a_prometheus_that_does_not_answer_is_told_of() {
    let nothing = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
    let empty = vec![("200 OK", nothing), ("200 OK", nothing)].leak();
    let refused = vec![("400 Bad Request", r#"{"status":"error","error":"query is too long"}"#)].leak();
    let elsewhere = vec![("404 Not Found", "<html>no such page</html>")].leak();
    for (answers, part) in [
        (&*empty, "does it scrape a sidecar?"),
        (&*refused, "400 Bad Request: query is too long"),
        (&*elsewhere, "is it the URL of its web page?"),
    ] {
        let (url, serving) = server(answers);
        let output = size(&[&ARGS[..], &["--prometheus", &url]].concat());
        let problem = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(problem.starts_with(&format!("streamgauge: --prometheus {url}: ")), "{problem}");
        assert!(problem.contains(part) && problem.lines().count() == 1, "{problem}");
        serving.join().unwrap();
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, part) in [
        (format!("http://{nobody}/"), "could not connect to 127.0.0.1:"),
        (
            "http://me:secret@127.0.0.1/".to_owned(),
            "--prometheus: a URL cannot have a user here; write it like",
        ),
        (
            "https://prometheus.example/".to_owned(),
            "only http:// is spoken; write it like http://127.0.0.1:9090",
        ),
    ] {
        let output = size(&["--params", "8b", "--prometheus", &url]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let problem = text(&output.stderr);
        assert!(problem.contains(part) && !problem.contains("secret"), "{problem}");
    }
}

#[test]
fn usage_is_another_exit_code() {
    assert_eq!(size(&[]).status.code(), Some(2));
    assert_eq!(size(&["--params", "8b", "--gpu", "abacus"]).status.code(), Some(2));
    assert_eq!(size(&["--model", "nothing.json"]).status.code(), Some(1));
    assert_eq!(size(&["--params", "8b"]).status.code(), Some(0));
}
