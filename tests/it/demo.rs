//! The demonstration's core, over real sockets on free ports, in real time: what is asserted comes sooner or
//! later, never at a certain moment.

use std::net::SocketAddr;
use std::time::Duration;

use streamgauge::app::Runtimes;
use streamgauge::demo::{Demo, Plan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG_ENOUGH: Duration = Duration::from_secs(8);

async fn start(duration: Option<Duration>) -> Demo {
    let here = tokio::runtime::Handle::current();
    let free = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let plan = Plan { listen: free, admin: free, duration, pace: 5.0 };
    let runtimes = Runtimes { data: vec![here.clone()], accounts: here };
    Demo::start(plan, &runtimes, Box::new(|_| Ok(()))).await.unwrap()
}

async fn page(admin: SocketAddr) -> String {
    let mut connection = TcpStream::connect(admin).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).await.unwrap();
    page
}

/// The sum of a metric's samples that have all these parts.
fn sum(page: &str, name: &str, parts: &[&str]) -> f64 {
    let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.split_once(' '));
    let wanted = samples.filter(|(labels, _)| parts.iter().all(|part| labels.contains(part)));
    wanted.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn both_models_have_live_histograms_and_every_page_adds_up() {
    let demo = start(None).await;
    let (admin, data) = (demo.admin(), demo.data());
    let mut told = String::new();
    let until_measured = async {
        let measured = async {
            loop {
                let page = page(admin).await;
                let of = |name: &str| sum(&page, &format!("streamgauge_{name}"), &["simulated"]);
                let open = of("requests_in_flight");
                assert_eq!(of("requests_started_total"), of("requests_ended_total") + open, "{page}");
                let has = |name: &str, model: &str| {
                    sum(&page, &format!("streamgauge_{name}_count"), &[&format!("\"{model}\"")]) > 0.0
                };
                let all = ["llama-3.1-8b", "llama-3.1-70b"].into_iter().all(|model| {
                    has("time_to_first_token_seconds", model) && has("output_tokens_per_second", model)
                });
                if all {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG_ENOUGH, measured).await.expect("a model has no histogram");
    };
    demo.run(until_measured, |text| {
        told.push_str(text);
        Ok(())
    })
    .await
    .unwrap();
    for part in [format!("http://{data}/v1"), format!("http://{admin}/metrics"), "TTFT p95".to_owned()] {
        assert!(told.contains(&part), "{part} is not in:\n{told}");
    }
    assert!(TcpStream::connect(admin).await.is_err(), "the sidecar has ended");
}

#[tokio::test]
async fn it_ends_by_itself_when_its_time_is_over() {
    let demo = start(Some(Duration::from_millis(300))).await;
    let ended = demo.run(std::future::pending(), |_| Ok(()));
    tokio::time::timeout(LONG_ENOUGH, ended).await.expect("it goes on").unwrap();
}

#[tokio::test]
async fn it_ends_when_nobody_listens_any_more() {
    let demo = start(None).await;
    let ended = demo.run(std::future::pending(), |_| Err(std::io::ErrorKind::BrokenPipe.into()));
    let ended = tokio::time::timeout(LONG_ENOUGH, ended).await.expect("it goes on");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
