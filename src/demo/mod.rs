//! The demonstration, all in one process: a simulated inference server, tenants who use it, the sidecar between
//! them, and a story that shows what the sidecar sees. [`Demo::start`], then [`Demo::run`].
//!
//! Reading order: `story` is the table of what happens when, `world` what it happens to, `scoreboard` what the
//! sidecar measured of it, `screen` the words.
//!
//! Absent: printing (lines are handed to whoever runs it) and anything that the sidecar does only here.

mod scoreboard;
mod screen;
mod story;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Uri;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval_at};

use self::scoreboard::Scoreboard;
use self::screen::Places;
use self::story::{Act, Change};
use self::world::{LARGE, SMALL, TENANTS, World};
use crate::app::{App, Runtimes, SetLogLevel, Shell, reachable};
use crate::clock::Clock;
use crate::config::{Config, File};
use crate::sim::traffic::Driver;

/// The demonstration's tenants, who send to `target`, for another server than its own.
pub fn clients(target: Uri) -> Arc<Driver> {
    world::clients(target)
}

/// How to demonstrate.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where clients connect; unless given 127.0.0.1:8080, or a free port where that is taken.
    pub listen: Option<SocketAddr>,
    /// Where /metrics is; unless given 127.0.0.1:9464, or a free port where that is taken.
    pub admin: Option<SocketAddr>,
    /// How long; until told to end where nothing.
    pub duration: Option<Duration>,
    /// Multiplies how many requests are sent.
    pub pace: f64,
}

const LISTEN: u16 = 8080;
const ADMIN: u16 = 9464;

/// A demonstration whose sidecar and server are up.
#[derive(Debug)]
pub struct Demo {
    /// The sidecar.
    app: App,
    world: World,
    board: Arc<Scoreboard>,
    clock: Clock,
    places: Places,
    /// What clients are set to.
    target: Uri,
    plan: Plan,
}

impl Demo {
    /// Starts the sidecar on `runtimes` and the simulated server on the runtime that this is called in; nothing
    /// is sent yet.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn start(plan: Plan, runtimes: &Runtimes, set_log_level: SetLogLevel) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let world = World::start(plan.pace).await.context("could not start the simulated server")?;
        let (listen, listen_taken) = choose(plan.listen, LISTEN).await;
        let (admin, admin_taken) = choose(plan.admin, ADMIN).await;
        let config = configure(listen, admin, world.address)?;
        let again = config.clone();
        let shell = Shell { load: Box::new(move || Ok(again.clone())), file: None, set_log_level };
        let board = Arc::new(Scoreboard::new([SMALL, LARGE], clock));
        let app = App::start(config, runtimes, shell, Some(Arc::clone(&board) as _)).await?;
        let places = Places {
            data: reachable(app.data),
            admin: reachable(app.admin),
            server: world.address,
            taken: [listen_taken, admin_taken],
        };
        let target = format!("http://{}", places.data).parse()?;
        Ok(Self { app, world, board, clock, places, target, plan })
    }

    /// Where clients connect.
    pub fn data(&self) -> SocketAddr {
        self.places.data
    }

    /// Where /metrics is.
    pub fn admin(&self) -> SocketAddr {
        self.places.admin
    }

    /// Sends traffic and tells the story, line by line, until `end`, until its time is over or until somebody
    /// asks for an end over the admin port; then ends everything in order.
    ///
    /// # Errors
    /// What `tell` says: then, too, everything has ended.
    pub async fn run(
        mut self,
        end: impl Future<Output = ()>,
        mut tell: impl FnMut(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let told = self.perform(end, &mut tell).await;
        self.world.stop_sending().await;
        self.app.stop().await;
        self.world.stop_serving().await;
        told
    }

    async fn perform(
        &mut self,
        end: impl Future<Output = ()>,
        tell: &mut impl FnMut(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        tell(&screen::welcome(&self.places))?;
        tell(&screen::heads())?;
        self.world.send(&self.target, self.plan.pace);
        let mut end = pin!(end);
        let mut over = pin!(tokio::time::sleep(self.plan.duration.unwrap_or(FOREVER)));
        let mut beats = interval_at(self.clock.instant(self.clock.now()) + story::BEAT, story::BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay); // a stopped process goes on where it was
        for time in (1..).map(|beat: u32| story::BEAT.saturating_mul(beat)) {
            tokio::select! {
                biased;
                () = &mut end => break,
                () = &mut over => break,
                () = self.app.drain_asked() => break,
                _ = beats.tick() => {}
            }
            self.lines(time).iter().try_for_each(|line| tell(line))?;
            if let Some(act) = story::act_at(time) {
                tell(&screen::act(time, act))?;
                self.change(time, act).map_or(Ok(()), |text| tell(&text))?;
                tell(&screen::heads())?;
            }
        }
        Ok(())
    }

    fn lines(&self, time: Duration) -> Vec<String> {
        let scores = self.board.scores();
        let lines = scores
            .iter()
            .map(|(model, score)| screen::line(time, model.as_str(), score, self.world.open(model.as_str())));
        lines.chain(screen::waiting(self.app.oldest_awaiting())).collect()
    }

    /// Does what an act does; what there is to be said of it beyond its own text.
    fn change(&mut self, time: Duration, act: &Act) -> Option<String> {
        match act.change {
            Change::GoWrong => {
                self.world.go_wrong(&self.target);
                return Some(screen::outcomes(&self.places));
            }
            Change::Slow => self.world.slow(),
            Change::Hang => self.world.hang(&self.target),
            Change::Look => return Some(screen::clues(time, &self.places, self.app.oldest_awaiting())),
            Change::Heal => {
                self.world.heal();
                return Some(screen::again(time));
            }
        }
        None
    }
}

const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600); // nobody watches longer

/// The address that was asked for, else the default one, else one with a free port; and the default port where
/// it was taken.
async fn choose(asked: Option<SocketAddr>, default: u16) -> (SocketAddr, Option<u16>) {
    let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match asked {
        Some(asked) => (asked, None),
        // The port is free again at once: nobody has connected.
        None => match TcpListener::bind(on(default)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => (on(0), Some(default)),
            _ => (on(default), None),
        },
    }
}

/// The sidecar's configuration.
fn configure(listen: SocketAddr, admin: SocketAddr, server: SocketAddr) -> anyhow::Result<Config> {
    let tenants = TENANTS.map(|tenant| tenant.name).join(", ");
    let text = format!(
        "\
drain_timeout: 1s # nobody minds a cut stream here
upstreams:
  - {{name: simulated, url: 'http://{server}'}}
tenants:
  known: [{tenants}]
models:
  - name: {SMALL}
    price: {{currency: USD, input: 0.15, output: 0.15}}
    architecture: {{model: llama-3.1-8b}}
    hardware: {{device: a100-40gb, count: 1, price_per_hour: 1.80}}
    alternatives: [{LARGE}]
  - name: {LARGE}
    price: {{currency: USD, input: 0.90, output: 0.90}}
    architecture: {{model: llama-3.1-70b}}
    hardware: {{device: a100-40gb, count: 4, price_per_hour: 1.80}}
    alternatives: [{SMALL}]
slos:
  - {{name: small, match: {{model: {SMALL}}}, objective: 99%, ttft: 300ms}}
  - {{name: large, match: {{model: {LARGE}}}, objective: 99%, ttft: 1s, success: true}}
limits:
  - {{tenant: '*', tokens_per_minute: 40000, action: observe}}
budgets:
  - {{tenant: '*', period: day, amount: 1, currency: USD}}
  - {{tenant: '*', period: week, amount: 5, currency: USD}}
  - {{tenant: '*', period: month, amount: 20, currency: USD}}
"
    );
    let mut file = File::parse(&text)?.without_request_log();
    file.override_with(None, Some(listen.into()), Some(admin.into()));
    Ok(file.resolve(&[], &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_replaced_unless_it_was_asked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).await.unwrap();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        assert_eq!(choose(None, taken.port()).await, (free, Some(taken.port())));
        assert_eq!(choose(Some(taken), LISTEN).await, (taken, None));
        drop(holder);
        assert_eq!(choose(None, taken.port()).await, (taken, None));
    }

    #[test]
    fn the_configuration_knows_all_names_and_logs_no_requests() {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = configure(at(1), at(2), at(3)).unwrap();
        assert_eq!((config.listen, config.admin), (at(1), at(2)));
        assert_eq!(config.request_log.path, None);
        assert_eq!(config.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), [SMALL, LARGE]);
        assert_eq!(config.tenants.known.len(), TENANTS.len());
    }
}
