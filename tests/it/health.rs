//! `health`, as a container engine runs it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

fn health(admin: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_streamgauge");
    Command::new(program).args(["health", "--admin", admin]).output().unwrap()
}

/// What it says of a server that answers this, and its exit code.
fn told(answer: &'static str) -> (Option<i32>, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 512];
            let length = socket.read(&mut piece).unwrap();
            asked.extend_from_slice(&piece[..length]);
        }
        socket.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    let found = health(&url);
    let asked = server.join().unwrap();
    assert!(asked.starts_with("GET /ready HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&url, "URL");
    (found.status.code(), text(&found.stdout), text(&found.stderr))
}

#[test]
fn who_takes_requests_is_healthy() {
    let (code, out, _) = told("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
    assert_eq!((code, out.as_str()), (Some(0), "ready\n"));
}

#[test]
fn who_drains_is_not_and_neither_is_who_is_something_else() {
    let (code, _, error) = told("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n");
    let want = "streamgauge: not ready: URL/ready answered 503: draining\n";
    assert_eq!((code, error.as_str()), (Some(1), want));
    let (code, _, error) = told("SSH-2.0-OpenSSH_9.2\r\n");
    assert_eq!(
        (code, error.as_str()),
        (Some(1), "streamgauge: URL/ready is no HTTP: is this the admin port?\n")
    );
}

#[test]
fn nobody_there_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let found = health(&format!("http://{address}"));
    let error = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(1));
    assert!(error.starts_with(&format!("streamgauge: could not ask http://{address}/ready: ")), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let found = health("https://127.0.0.1:9464");
    assert!(String::from_utf8_lossy(&found.stderr).contains("write it like http://127.0.0.1:9464"));
}
