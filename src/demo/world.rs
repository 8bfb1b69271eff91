//! The simulated world around the sidecar: an inference server with two models, three tenants who use it, and
//! what can befall them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::sim::traffic::{Driver, TenantLoad, Traffic};
use crate::sim::{Profile, Settings, Sim, UsagePolicy};

pub(super) const SMALL: &str = "llama-3.1-8b";
pub(super) const LARGE: &str = "llama-3.1-70b";
const STRAY: &str = "qwen-2.5-0.5b"; // nobody configured it

const CONCURRENCY: usize = 512; // the highest pace with the slow model needs half of it

/// Who sends requests.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) name: &'static str,
    /// In a few words.
    pub(super) does: &'static str,
    load: fn(&'static str) -> TenantLoad,
}

pub(super) const TENANTS: [Tenant; 3] = [
    Tenant { name: SEARCH, does: "many short chats with the 8B", load: search },
    Tenant { name: SUPPORT, does: "chats with the 70B", load: support },
    Tenant { name: BATCH, does: "long prompts and whole answers, from both", load: batch },
];

const SEARCH: &str = "search";
const SUPPORT: &str = "support";
const BATCH: &str = "batch";

fn search(name: &'static str) -> TenantLoad {
    let models = vec![(SMALL.to_owned(), 1.0)];
    TenantLoad { prompt_tokens: (10, 120), output_tokens: (15, 80), ..TenantLoad::chat(name, 2.5, models) }
}

fn support(name: &'static str) -> TenantLoad {
    let models = vec![(LARGE.to_owned(), 1.0)];
    TenantLoad { output_tokens: (20, 120), ..TenantLoad::chat(name, 1.0, models) }
}

fn batch(name: &'static str) -> TenantLoad {
    let models = vec![(SMALL.to_owned(), 2.0), (LARGE.to_owned(), 1.0)];
    TenantLoad { stream_share: 0.0, output_tokens: (60, 240), ..TenantLoad::batch(name, 0.4, models) }
}

/// All tenants, who send to `target`.
pub(super) fn clients(target: Uri) -> Arc<Driver> {
    let tenants = TENANTS.iter().map(|tenant| (tenant.load)(tenant.name)).collect();
    Driver::new(Traffic { target, tenants, concurrency: CONCURRENCY, requests: None, seed: 1 })
}

/// The world.
#[derive(Debug)]
pub(super) struct World {
    /// Where the simulated server listens.
    pub(super) address: SocketAddr,
    sim: Arc<Sim>,
    healthy: Arc<Settings>,
    serving: TaskTracker,
    sending: TaskTracker,
    end_of_serving: CancellationToken,
    end_of_sending: CancellationToken,
    /// Ends the hanging request's client.
    end_of_hanging: CancellationToken,
}

impl World {
    /// A server that serves, for traffic of this pace; nobody asks it yet.
    pub(super) async fn start(pace: f64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let sim = Sim::new(settings(pace), Clock::start());
        let end_of_sending = CancellationToken::new();
        let world = Self {
            address: listener.local_addr()?,
            healthy: sim.settings(),
            sim,
            serving: TaskTracker::new(),
            sending: TaskTracker::new(),
            end_of_serving: CancellationToken::new(),
            end_of_hanging: end_of_sending.child_token(),
            end_of_sending,
        };
        world.serving.spawn(Arc::clone(&world.sim).serve(listener, world.end_of_serving.clone()));
        Ok(world)
    }

    /// Lets all tenants send, to `target`; `pace` multiplies how much.
    pub(super) fn send(&self, target: &Uri, pace: f64) {
        let driver = clients(target.clone());
        driver.set_pace(pace);
        self.sending.spawn(driver.run(self.end_of_sending.clone()));
    }

    /// The large model gets slow: five times the time to the first token, half the speed.
    pub(super) fn slow(&self) {
        self.sim.update(|settings| {
            if let Some(model) = settings.model_mut(LARGE) {
                model.ttft = model.ttft.saturating_mul(5);
                model.tokens_per_second /= 2.0;
            }
        });
    }

    /// Sends one request, to `target`, that never gets a token.
    pub(super) fn hang(&mut self, target: &Uri) {
        self.end_of_hanging = self.end_of_sending.child_token();
        self.send_one(target, meets("hang", support(SUPPORT)), self.end_of_hanging.clone());
    }

    /// Sends five requests, to `target`: refused, failed, an error in a 200, a stream that breaks off, and one to a model
    /// that nobody configured.
    pub(super) fn go_wrong(&self, target: &Uri) {
        let stream = || TenantLoad { stream_share: 1.0, ..batch(BATCH) };
        let faults = ["status=429", "status=503", "error-event", "cut"].map(|fault| meets(fault, stream()));
        let stray = TenantLoad { models: vec![(STRAY.to_owned(), 1.0)], ..stream() };
        for load in faults.into_iter().chain([stray]) {
            self.send_one(target, load, self.end_of_sending.clone());
        }
    }

    /// Sends one request of such a load at once, until `end`.
    fn send_one(&self, target: &Uri, load: TenantLoad, end: CancellationToken) {
        let traffic = Traffic {
            target: target.clone(),
            tenants: vec![TenantLoad { requests_per_second: 1000.0, hang_up_share: 0.0, ..load }],
            concurrency: 1,
            requests: Some(1),
            seed: 1,
        };
        self.sending.spawn(Driver::new(traffic).run(end));
    }

    /// The server is as it was, and the hanging request's client gives up.
    pub(super) fn heal(&self) {
        self.sim.update(|settings| settings.clone_from(&self.healthy));
        self.end_of_hanging.cancel();
    }

    /// Answers that the server works on for this model.
    pub(super) fn open(&self, model: &str) -> u64 {
        self.sim.open(model)
    }

    /// Ends all clients.
    pub(super) async fn stop_sending(&self) {
        self.end_of_sending.cancel();
        self.sending.close();
        self.sending.wait().await;
    }

    /// Ends the server.
    pub(super) async fn stop_serving(&self) {
        self.end_of_serving.cancel();
        self.serving.close();
        self.serving.wait().await;
    }
}

fn meets(fault: &'static str, load: TenantLoad) -> TenantLoad {
    let header = (HeaderName::from_static("x-sim-fault"), HeaderValue::from_static(fault));
    TenantLoad { headers: HeaderMap::from_iter([header]), ..load }
}

fn settings(pace: f64) -> Settings {
    // An answer is as long as the tenants ask for; this is for who asks without max_tokens.
    let models = [Profile::llama_8b(), Profile::llama_70b(), Profile::new(STRAY)]
        .map(|model| Profile { output_tokens: 240, ..model });
    // A provider's limit that is told with each answer and kept by all, of which the largest tenant uses a third.
    let tokens_per_minute = Some((200_000.0 * pace.max(1.0)) as u64);
    Settings { usage: UsagePolicy::On, tokens_per_minute, ..Settings::with_models(models) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_models_of_the_demonstration_are_the_simulated_ones() {
        let names: Vec<_> = settings(1.0).models.into_iter().map(|model| model.name).collect();
        assert_eq!(names, [SMALL, LARGE, STRAY]);
    }

    #[tokio::test]
    async fn what_befalls_the_large_model_leaves_the_small_one_alone_and_is_undone() {
        let world = World::start(1.0).await.unwrap();
        let before = world.sim.settings();
        world.slow();
        let slow = world.sim.settings();
        assert_eq!(slow.models[0], before.models[0]);
        assert_eq!(slow.models[1].ttft, Duration::from_millis(1750));
        assert_eq!(slow.models[1].tokens_per_second, before.models[1].tokens_per_second / 2.0);
        world.heal();
        assert_eq!(world.sim.settings(), before);
        world.stop_serving().await;
    }
}
