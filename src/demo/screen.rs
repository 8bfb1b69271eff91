//! The words and columns of the demonstration. Text in, text out.

use std::net::SocketAddr;
use std::time::Duration;

use super::scoreboard::{Score, WINDOW};
use super::story::{self, Act, Change};
use super::world::{LARGE, SMALL, TENANTS};

/// Where everything is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) data: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) server: SocketAddr,
    /// The default ports that were taken.
    pub(super) taken: [Option<u16>; 2],
}

/// The first screen.
pub(super) fn welcome(places: &Places) -> String {
    let Places { data, admin, server, taken } = places;
    let tenants: String =
        TENANTS.iter().map(|tenant| format!("    {:<8} {}\n", tenant.name, tenant.does)).collect();
    let [data_note, admin_note] =
        taken.map(|port| port.map(|port| format!("   (port {port} is taken)")).unwrap_or_default());
    format!(
        "\
streamgauge demo: everything in this one process, nothing leaves this machine.

  simulated clients  -->  streamgauge  -->  simulated inference server
  (three tenants)         (the sidecar)     ({SMALL} and {LARGE})

  Clients talk to the sidecar as if it were the inference server. It passes every byte on unchanged,
  measures the tokens as they stream by, and offers what it measured to Prometheus.

  Tenants:
{tenants}
  Clients' base URL   http://{data}/v1{data_note}
  Metrics             http://{admin}/metrics{admin_note}
  Status              http://{admin}/   (for a browser: who hangs, what is wrong)
  Simulated server    http://{server}/v1   (behind the sidecar)

  Try it from a second terminal; an answer through the sidecar, and what it measured:
{}
{}

  Below, a line for each model every {} s, over the last {} s. At {} the 70B gets into trouble.
    TTFT       time to the first token: p50 is the median, p95 what 95 of 100 requests stay below
    tokens/s   how fast one answer streams once it has begun (median)
    in flight  requests that the simulated server works on right now
  Ctrl-C ends it.
",
        stream(*data, SMALL),
        grep(*admin, "time_to_first_token_seconds_count"),
        story::BEAT.as_secs(),
        WINDOW.as_secs(),
        story::next(Change::Slow, Duration::ZERO).map(clock).unwrap_or_default(),
    )
}

/// The heads of the columns.
pub(super) fn heads() -> String {
    columns(["time", "model", "req/min", "TTFT p50", "TTFT p95", "tokens/s", "tokens/min", "in flight"])
}

/// A model's line.
pub(super) fn line(time: Duration, model: &str, score: &Score, in_flight: u64) -> String {
    let millis = |time: Option<Duration>| {
        time.map_or_else(unknown, |time| format!("{} ms", thousands(time.as_millis() as f64)))
    };
    let number = |value: Option<f64>| value.map_or_else(unknown, thousands);
    columns([
        &clock(time),
        model,
        &number(score.requests_per_minute),
        &millis(score.ttft_p50),
        &millis(score.ttft_p95),
        &number(score.tps_p50),
        &number(score.tokens_per_minute),
        &in_flight.to_string(),
    ])
}

const NOTABLE: Duration = Duration::from_secs(5); // no request of the slow model waits so long

/// What is said of the client that waits longest for a first token, where it is worth saying.
pub(super) fn waiting(oldest: Option<Duration>) -> Option<String> {
    let oldest = oldest.filter(|oldest| *oldest >= NOTABLE)?;
    Some(format!("        oldest waiting for a first token: {:.1} s", oldest.as_secs_f64()))
}

/// What is said when something happens.
pub(super) fn act(time: Duration, act: &Act) -> String {
    let title = format!("--- {} {} ", clock(time), act.title);
    format!("\n{title:-<WIDTH$}\n{}\n", indented(act.text))
}

/// How to see what became of the requests that go wrong.
pub(super) fn outcomes(places: &Places) -> String {
    format!("{}\n", grep(places.admin, "'streamgauge_requests_total.*batch'"))
}

/// What the sidecar sees, and how to see it oneself: things to copy.
pub(super) fn clues(time: Duration, places: &Places, oldest: Option<Duration>) -> String {
    let oldest = oldest.map_or_else(
        || "Right now nobody waits.".to_owned(),
        |oldest| format!("Right now: oldest waiting {:.1} s.", oldest.as_secs_f64()),
    );
    let until = story::next(Change::Heal, time).map(clock).unwrap_or_default();
    format!(
        "    {oldest} See for yourself, until {until}:

    1. Stream an answer from the slow model through the sidecar:
{}
    2. Find the hanging request: open http://{}/ in a browser, or
  curl -s http://{}/api/v1/status | jq -c '.troubles[], .open[0]'
    3. In the metrics all you see is that one hangs:
{}
    4. In a Prometheus that scrapes {}, the slow model, then the hanging request:
  histogram_quantile(0.95, sum by (model, le) (rate(streamgauge_time_to_first_token_seconds_bucket[1m])))
  max(streamgauge_oldest_awaiting_first_token_seconds)
",
        stream(places.data, LARGE),
        places.admin,
        places.admin,
        grep(places.admin, "awaiting_first_token"),
        places.admin,
    )
}

/// What is said of the next round.
pub(super) fn again(time: Duration) -> String {
    let next = story::next(Change::Slow, time).map(clock).unwrap_or_default();
    format!("    The story begins again at {next}. Ctrl-C ends it.\n")
}

const WIDTH: usize = 100;

fn stream(data: SocketAddr, model: &str) -> String {
    let body = format!(
        r#"{{"model":"{model}","stream":true,"max_tokens":50,"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    format!("  curl -N http://{data}/v1/chat/completions -d '{body}'")
}

fn grep(admin: SocketAddr, what: &str) -> String {
    format!("  curl -s http://{admin}/metrics | grep {what}")
}

fn columns([time, model, requests, p50, p95, speed, tokens, in_flight]: [&str; 8]) -> String {
    format!("{time:>6}  {model:<14}{requests:>9}{p50:>11}{p95:>11}{speed:>11}{tokens:>13}{in_flight:>12}")
}

/// Minutes and seconds: `1:05`.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

/// A whole number in groups of three digits: `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn unknown() -> String {
    "-".to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Places { data: at(40001), admin: at(9464), server: at(40002), taken: [Some(8080), None] }
    }

    #[test]
    fn lines_stand_under_their_heads() {
        let score = Score {
            requests_per_minute: Some(60.4),
            ttft_p50: Some(Duration::from_millis(1760)),
            ttft_p95: Some(Duration::from_millis(2210)),
            tps_p50: Some(11.9),
            tokens_per_minute: Some(12_345.0),
        };
        let lines = [
            heads(),
            line(Duration::from_secs(65), LARGE, &score, 14),
            line(Duration::from_secs(5), SMALL, &Score::default(), 0),
        ];
        assert_eq!(
            lines.join("\n"),
            "  time  model           req/min   TTFT p50   TTFT p95   tokens/s   tokens/min   in flight\n  \
               1:05  llama-3.1-70b        60   1,760 ms   2,210 ms         12       12,345          14\n  \
               0:05  llama-3.1-8b          -          -          -          -            -           0"
        );
    }

    #[test]
    fn digits_are_grouped() {
        let numbers = [0.0, 999.4, 999.5, 12_345.0, 1_234_567.0];
        assert_eq!(numbers.map(thousands), ["0", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn the_first_screen_says_where_everything_is_and_what_was_taken() {
        let screen = welcome(&places());
        for part in [
            "http://127.0.0.1:40001/v1   (port 8080 is taken)\n",
            "http://127.0.0.1:9464/metrics\n",
            "http://127.0.0.1:9464/   (for a browser",
            "http://127.0.0.1:40002/v1 ",
            "search   many short chats",
            "At 0:30 the 70B",
        ] {
            assert!(screen.contains(part), "{part} is not in:\n{screen}");
        }
    }

    #[test]
    fn only_a_long_wait_is_worth_a_line() {
        assert_eq!(waiting(None), None);
        assert_eq!(waiting(Some(Duration::from_millis(1900))), None);
        let said = waiting(Some(Duration::from_millis(9_400))).unwrap();
        assert!(said.ends_with("first token: 9.4 s"), "{said}");
    }

    #[test]
    fn the_command_that_shows_the_outcomes_can_be_copied() {
        let command = "  curl -s http://127.0.0.1:9464/metrics | grep 'streamgauge_requests_total.*batch'\n";
        assert_eq!(outcomes(&places()), command);
    }

    #[test]
    fn the_clues_can_be_copied() {
        let clues = clues(Duration::from_secs(55), &places(), Some(Duration::from_millis(9_400)));
        for part in [
            "    Right now: oldest waiting 9.4 s. See for yourself, until 1:20:\n",
            "\n  curl -N http://127.0.0.1:40001/v1/chat/completions -d '{\"model\":\"llama-3.1-70b\",",
            "\n  curl -s http://127.0.0.1:9464/api/v1/status | jq -c '.troubles[], .open[0]'\n",
            "\n  curl -s http://127.0.0.1:9464/metrics | grep awaiting_first_token\n",
            "\n  histogram_quantile(0.95, ",
        ] {
            assert!(clues.contains(part), "{part} is not in:\n{clues}");
        }
    }
}
