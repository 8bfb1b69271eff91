//! `replay` and `explain`, as who types them sees them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn streamgauge(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    Command::new(program).args(words).current_dir(root()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A folder of this test's own that holds a case.
fn copy_of(case: &str, name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("streamgauge-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(root().join("tests/golden").join(case)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn the_whole_corpus_replays() {
    let output = streamgauge(&["replay", "tests/golden"]);
    let text = out(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.lines().last().unwrap().ends_with(" ok, 0 differ"), "{text}");
}

#[test]
fn what_differs_is_told_member_by_member() {
    let folder = copy_of("openai_chat/reasoning_content_first", "differs");
    let path = folder.join("exchange.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"output_tokens\": 4", "\"output_tokens\": 5")).unwrap();
    let output = streamgauge(&["replay", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).ends_with("    - output_tokens: 5\n    + output_tokens: 4\n"), "{output:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_recording_replays_as_the_exchange_that_it_is() {
    let folder = std::env::temp_dir().join(format!("streamgauge-recording-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let asked =
        "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 27\r\n\r\n{\"model\":\"m\",\"stream\":true}";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let token = chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n");
    let end = chunk("data: [DONE]\n\n") + "0\r\n\r\n";
    let mut timing = "{\"t_us\":20,\"sent\":90}\n".to_owned();
    let mut off = 0;
    for (at, part) in [(1_000, head), (250_000, token.as_str()), (300_000, end.as_str())] {
        timing += &format!("{{\"t_us\":{at},\"off\":{off},\"len\":{}}}\n", part.len());
        off += part.len();
    }
    timing += "{\"t_us\":301000,\"eof\":true}\n";
    for name in ["one", "two"] {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        std::fs::write(file("request.http"), asked).unwrap();
        std::fs::write(file("response.http"), format!("{head}{token}{end}")).unwrap();
        std::fs::write(file("timing.jsonl"), &timing).unwrap();
    }
    let output = streamgauge(&["replay", folder.join("one.response.http").to_str().unwrap()]);
    let exchange: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&exchange["dialect"], &exchange["outcome"]), (&"openai_chat".into(), &"completed".into()));
    assert_eq!((&exchange["ttft_seconds"], &exchange["duration_seconds"]), (&0.25.into(), &0.3.into()));
    let output = streamgauge(&["replay", folder.to_str().unwrap()]);
    let text = out(&output);
    assert!(text.contains("one: openai_chat, completed, TTFT 250 ms"), "{text}");
    assert!(text.ends_with("2 exchanges: 0 ok, 0 differ, 2 without exchange.json\n"), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_explanation_reads_as_it_is_kept() {
    for case in ["openai_chat/reasoning_content_first", "openai_chat/cut_mid_event"] {
        let output = streamgauge(&["explain", &format!("tests/golden/{case}")]);
        assert!(output.status.success(), "{output:?}");
        let text = out(&output);
        let path = root().join("tests/golden-explain").join(format!("{}.txt", case.replace('/', "-")));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, kept, "{}: UPDATE=1 writes it anew, for a human to review", path.display());
    }
}

#[test]
fn no_explanation_is_wider_than_a_page_or_shows_text_unasked() {
    let golden = root().join("tests/golden");
    for dialect in std::fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()) {
        if !dialect.is_dir() {
            continue;
        }
        for folder in std::fs::read_dir(&dialect).unwrap().map(|entry| entry.unwrap().path()) {
            let text = streamgauge::replay::explain(&super::case::read(&folder).unwrap(), false);
            let wide: Vec<_> = text.lines().skip(1).filter(|line| line.chars().count() > 100).collect();
            assert!(wide.is_empty(), "{}: {wide:#?}", folder.display());
            assert!(text.contains("outcome") && !text.contains(" B \""), "{}\n{text}", folder.display());
        }
    }
    let case = super::case::read(&golden.join("openai_chat/reasoning_content_first")).unwrap();
    assert!(streamgauge::replay::explain(&case, true).contains("content 2 B \"Hi\""));
}

#[test]
fn a_live_exchange_is_explained_as_it_comes() {
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let program = env!("CARGO_BIN_EXE_streamgauge");
    let words = ["simulate", "--listen", "127.0.0.1:0", "--ttft", "20ms", "--tps", "500"];
    let mut server = Server(Command::new(program).args(words).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let base = line.split_once("base URL ").unwrap().1.split(',').next().unwrap();
    let body = r#"{"model":"sim","stream":true,"max_tokens":4,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}"#;
    let output = streamgauge(&["explain", "--url", &format!("{base}/chat/completions"), "-d", body]);
    let text = out(&output);
    assert!(output.status.success(), "{output:?}");
    for part in ["openai_chat", "TTFT", "terminal mark", "completed", "output tokens N  4 "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = streamgauge(&["explain", "--url", "http://127.0.0.1:1/v1/chat/completions"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not connect to 127.0.0.1:1"));
}
