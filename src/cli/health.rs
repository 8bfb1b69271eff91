//! `streamgauge health`: does a sidecar take requests? For whoever can run a program but sends no request of its own: a
//! container engine, a script. Kubernetes asks `/ready` itself.
#![expect(clippy::print_stdout, reason = "a command answers its user")]

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http::Uri;

use super::{address, url};

/// Ask a running sidecar whether it takes requests
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The sidecar's admin port
    #[arg(long, value_name = "URL", default_value = DEFAULT, value_parser = url)]
    admin: Uri,
}

const DEFAULT: &str = "http://127.0.0.1:9464";

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge health
  streamgauge health --admin http://127.0.0.1:19464

Exit code 0 where /ready says yes, 1 where it says no (the sidecar drains) or nothing within 2 s.
The upstream is not asked: a sidecar is ready while its upstream is away.";

const PATIENCE: Duration = Duration::from_secs(2); // an answer takes a millisecond; an engine waits for this command
const ANSWER_LIMIT: u64 = 4096; // a head and a word

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let address = address("--admin", &args.admin, DEFAULT)?;
    let answer = ask(&address).with_context(|| format!("could not ask http://{address}/ready"))?;
    match read(&answer) {
        Some(("200", _)) => println!("ready"),
        Some((status, said)) => bail!("not ready: http://{address}/ready answered {status}: {said}"),
        None => bail!("http://{address}/ready is no HTTP: is this the admin port?"),
    }
    Ok(())
}

/// What the admin port answers, head and all.
fn ask(address: &str) -> anyhow::Result<String> {
    let found = address.to_socket_addrs()?.next().ok_or_else(|| anyhow!("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&found, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status and the first line of the body.
fn read(answer: &str) -> Option<(&str, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split_whitespace().next()?;
    Some((status, body.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_word() {
        for (answer, found) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n", Some(("200", "ready"))),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n", Some(("503", "draining"))),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some(("204", ""))),
            ("HTTP/1.1 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(read(answer), found, "{answer}");
        }
    }
}
