//! A provider's limit on tokens per minute: for each payer an exact sliding window, not one of slots. Tokens are
//! charged when a request arrives, for all that it may cost, and corrected to what it did cost before its answer
//! ends; they stay in the window for a minute from the arrival. Knows nothing of HTTP but two kinds of header names.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::api::Wish;
use crate::clock::{Clock, Moment};

const MINUTE: Duration = Duration::from_secs(60);
const DEFAULT_OUTPUT: u32 = 16; // charged for each choice of a request that sets no maximum, as OpenAI's completions do
const PAYERS_LIMIT: usize = 1024; // a load test has fewer; those that come beyond share one window

/// Who pays for a request: the digest of its key, since a key is a secret, or of its tenant's name.
type Payer = [u8; 32];

/// Where a payer is told by, the first that is there.
const PAYER_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-tenant-id"),
];

/// The windows of all payers.
#[derive(Debug, Default)]
pub(super) struct RateLimiter(Mutex<BTreeMap<Payer, Window>>);

/// Tokens charged to a payer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    payer: Payer,
    number: u64,
}

impl RateLimiter {
    /// Charges a request to whom its headers name.
    pub(super) fn charge(
        &self,
        headers: &HeaderMap,
        tokens: u64,
        limit: u64,
        clock: &Clock,
    ) -> Result<Charge, Denial> {
        let mut windows = self.0.lock();
        let now = clock.now();
        let payer = known(&mut windows, payer(headers), now);
        let number = windows.entry(payer).or_default().charge(tokens, limit, now)?;
        Ok(Charge { payer, number })
    }

    /// Corrects a charge to what was used.
    pub(super) fn settle(&self, charge: Charge, tokens: u64, clock: &Clock) {
        let mut windows = self.0.lock();
        if let Some(window) = windows.get_mut(&charge.payer) {
            window.settle(charge.number, tokens, clock.now());
        }
    }

    /// How the payer of a charge stands now.
    pub(super) fn standing(&self, charge: Charge, limit: u64, clock: &Clock) -> Standing {
        let mut windows = self.0.lock();
        windows.entry(charge.payer).or_default().standing(limit, clock.now())
    }
}

/// The payer, where it has a window or may have one; else the payer that all share who come too late.
fn known(windows: &mut BTreeMap<Payer, Window>, payer: Payer, now: Moment) -> Payer {
    if windows.len() < PAYERS_LIMIT || windows.contains_key(&payer) {
        return payer;
    }
    windows.retain(|_, window| !window.is_empty(now));
    if windows.len() < PAYERS_LIMIT { payer } else { Payer::default() }
}

fn payer(headers: &HeaderMap) -> Payer {
    let told = PAYER_HEADERS.iter().find_map(|name| headers.get(name));
    told.map_or_else(Payer::default, |value| Sha256::digest(value.as_bytes()).into())
}

/// What a request may cost at most.
pub(super) fn cost(wish: &Wish) -> u64 {
    let each = u64::from(wish.max_tokens.unwrap_or(DEFAULT_OUTPUT));
    u64::from(wish.prompt_tokens).saturating_add(each.saturating_mul(u64::from(wish.choices)))
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denial {
    /// What it would have cost.
    pub(super) asked: u64,
    /// When it would be let through, if nothing else is charged; never where it is over the limit by itself.
    pub(super) wait: Option<Duration>,
    pub(super) standing: Standing,
}

impl Denial {
    /// What providers tell the client.
    pub(super) fn message(&self) -> String {
        let (limit, asked) = (self.standing.limit, self.asked);
        match self.wait {
            Some(wait) => {
                let (used, wait) = (limit.saturating_sub(self.standing.remaining), go_duration(wait));
                format!(
                    "Rate limit reached on tokens per min (TPM): Limit {limit}, Used {used}, Requested {asked}. \
                     Please try again in {wait}."
                )
            }
            None => format!(
                "Request too large on tokens per min (TPM): Limit {limit}, Requested {asked}. \
                 The input or output tokens must be reduced in order to run successfully."
            ),
        }
    }
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    /// Until the window is empty.
    pub(super) reset: Duration,
}

impl Standing {
    /// OpenAI's headers, which most providers have taken over.
    pub(super) fn put_openai(&self, headers: &mut HeaderMap) {
        put(headers, "x-ratelimit-limit-tokens", &self.limit.to_string());
        put(headers, "x-ratelimit-remaining-tokens", &self.remaining.to_string());
        put(headers, "x-ratelimit-reset-tokens", &go_duration(self.reset));
    }

    /// Anthropic's headers, which say when instead of how long; by whole seconds, not too early.
    pub(super) fn put_anthropic(&self, headers: &mut HeaderMap, clock: &Clock) {
        let reset = clock.wall(clock.now()) + self.reset + Duration::from_nanos(999_999_999);
        put(headers, "anthropic-ratelimit-tokens-limit", &self.limit.to_string());
        put(headers, "anthropic-ratelimit-tokens-remaining", &self.remaining.to_string());
        let reset = humantime::format_rfc3339_seconds(reset).to_string();
        put(headers, "anthropic-ratelimit-tokens-reset", &reset);
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A duration as OpenAI writes it, in Go's way: `6m0s`, `8.64s`, `12ms`, `0s`. Rounded up to milliseconds, so that
/// who waits so long does not come too early.
fn go_duration(span: Duration) -> String {
    let millis = span.as_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let fraction = format!(".{rest:03}");
    let fraction = if rest == 0 { "" } else { fraction.trim_end_matches('0') };
    match (seconds / 60, seconds % 60) {
        (0, 0) if rest > 0 => format!("{rest}ms"),
        (0, seconds) => format!("{seconds}{fraction}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}{fraction}s"),
    }
}

/// The charges of the last minute, oldest first. Each is of a token at least, so there are no more of them than
/// tokens used.
#[derive(Debug, Default)]
struct Window {
    charges: VecDeque<Entry>,
    used: u64,
    numbers: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    at: Moment,
    tokens: u64,
}

impl Window {
    /// Charges tokens where they fit; the number is the charge's.
    fn charge(&mut self, tokens: u64, limit: u64, now: Moment) -> Result<u64, Denial> {
        let standing = self.standing(limit, now);
        let tokens = tokens.max(1);
        if tokens > standing.remaining {
            let wait = (tokens <= limit).then(|| self.until_free(limit - tokens, now));
            return Err(Denial { asked: tokens, wait, standing });
        }
        self.numbers += 1;
        self.used = self.used.saturating_add(tokens);
        self.charges.push_back(Entry { number: self.numbers, at: now, tokens });
        Ok(self.numbers)
    }

    /// Corrects a charge that is still in the window.
    fn settle(&mut self, number: u64, tokens: u64, now: Moment) {
        self.expire(now);
        let Ok(index) = self.charges.binary_search_by_key(&number, |charge| charge.number) else { return };
        let Some(charge) = self.charges.get_mut(index) else { return };
        self.used = self.used.saturating_sub(charge.tokens).saturating_add(tokens);
        charge.tokens = tokens;
        if tokens == 0 {
            self.charges.remove(index);
        }
    }

    fn standing(&mut self, limit: u64, now: Moment) -> Standing {
        self.expire(now);
        let reset = self.charges.back().map_or(Duration::ZERO, |last| (last.at + MINUTE).since(now));
        Standing { limit, remaining: limit.saturating_sub(self.used), reset }
    }

    /// How long until no more than `most` tokens are in use.
    fn until_free(&self, most: u64, now: Moment) -> Duration {
        let mut used = self.used;
        for charge in &self.charges {
            used = used.saturating_sub(charge.tokens);
            if used <= most {
                return (charge.at + MINUTE).since(now);
            }
        }
        Duration::ZERO
    }

    fn is_empty(&mut self, now: Moment) -> bool {
        self.expire(now);
        self.charges.is_empty()
    }

    fn expire(&mut self, now: Moment) {
        while let Some(first) = self.charges.pop_front_if(|first| now.since(first.at) >= MINUTE) {
            self.used = self.used.saturating_sub(first.tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    fn wait(denied: Result<u64, Denial>) -> Option<u128> {
        denied.unwrap_err().wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn a_charge_counts_for_exactly_a_minute() {
        let mut window = Window::default();
        window.charge(600, 1000, at(1_500)).unwrap();
        window.charge(400, 1000, at(31_000)).unwrap();
        assert_eq!(wait(window.charge(1, 1000, at(61_499))), Some(1));
        window.charge(600, 1000, at(61_500)).unwrap();
        assert_eq!(wait(window.charge(1, 1000, at(61_500))), Some(29_500));
        assert_eq!(window.standing(1000, at(61_500)).reset, MINUTE);
        window.charge(1000, 1000, at(121_500)).unwrap();
    }

    #[test]
    fn in_no_minute_is_more_used_than_the_limit() {
        let mut window = Window::default();
        let mut let_through: Vec<(u64, u64)> = Vec::new();
        for step in 0..20_000u64 {
            let (now, tokens) = (step * 37, 1 + step * step % 251);
            match window.charge(tokens, 5_000, at(now)) {
                Ok(_) => let_through.push((now, tokens)),
                Err(denial) => {
                    let used: u64 = let_through
                        .iter()
                        .filter(|(then, _)| then + 60_000 > now)
                        .map(|(_, tokens)| tokens)
                        .sum();
                    assert!(used + tokens > 5_000, "refused without need at {now}");
                    assert_eq!(denial.standing.remaining, 5_000 - used);
                }
            }
        }
        for (index, (now, _)) in let_through.iter().enumerate() {
            let minute = let_through[index..].iter().take_while(|(then, _)| *then < now + 60_000);
            assert!(minute.map(|(_, tokens)| tokens).sum::<u64>() <= 5_000, "the minute from {now}");
        }
    }

    #[test]
    fn who_waits_as_long_as_told_gets_through_and_not_before() {
        let mut window = Window::default();
        for (then, tokens) in [(0, 300), (1_000, 300), (2_000, 300)] {
            window.charge(tokens, 1000, at(then)).unwrap();
        }
        assert_eq!(wait(window.charge(100 + 300 + 1, 1000, at(10_000))), Some(51_000));
        assert!(window.charge(401, 1000, at(60_999)).is_err());
        assert!(window.charge(401, 1000, at(61_000)).is_ok());
    }

    #[test]
    fn what_was_not_used_is_given_back_and_keeps_its_time() {
        let mut window = Window::default();
        let first = window.charge(900, 1000, at(0)).unwrap();
        assert!(window.charge(200, 1000, at(5_000)).is_err());
        window.settle(first, 100, at(6_000));
        assert_eq!(window.standing(1000, at(6_000)).remaining, 900);
        window.charge(900, 1000, at(7_000)).unwrap();
        assert_eq!(window.standing(1000, at(60_000)).remaining, 100);
        window.settle(first, 50, at(60_000));
        assert_eq!(window.standing(1000, at(60_000)).remaining, 100, "it has left the window");
    }

    #[test]
    fn more_than_was_charged_may_be_used_and_nothing_too() {
        let mut window = Window::default();
        let (over, none) = (window.charge(10, 1000, at(0)).unwrap(), window.charge(10, 1000, at(1)).unwrap());
        window.settle(over, 1500, at(2));
        window.settle(none, 0, at(2));
        assert_eq!(window.standing(1000, at(2)).remaining, 0);
        assert_eq!(wait(window.charge(1, 1000, at(2))), Some(59_998));
        assert_eq!(window.charges.len(), 1);
        assert!(window.is_empty(at(60_000)) && window.used == 0);
    }

    #[test]
    fn what_is_over_the_limit_by_itself_need_not_wait() {
        let denial = Window::default().charge(1001, 1000, at(0)).unwrap_err();
        assert_eq!((denial.wait, denial.standing.remaining), (None, 1000));
        assert!(denial.message().starts_with("Request too large"), "{}", denial.message());
    }

    #[test]
    fn durations_are_written_as_the_sidecar_and_clients_read_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (12_000_000, "12ms"),
            (999_000_001, "1s"),
            (8_640_000_000, "8.64s"),
            (59_001_000_000, "59.001s"),
            (60_000_000_000, "1m0s"),
            (90_500_000_000, "1m30.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn a_request_costs_its_prompt_and_all_that_it_may_generate() {
        let wish = Wish { prompt_tokens: 10, max_tokens: Some(100), choices: 2, ..Wish::default() };
        assert_eq!(cost(&wish), 210);
        assert_eq!(cost(&Wish { max_tokens: None, choices: 1, ..wish }), 26);
    }

    #[tokio::test(start_paused = true)]
    async fn payers_have_windows_of_their_own_as_long_as_there_is_room() {
        let (limiter, clock) = (RateLimiter::default(), Clock::start());
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            headers.insert("x-tenant-id", HeaderValue::from_static("same"));
            headers
        };
        for payer in 0..PAYERS_LIMIT {
            let headers = of("authorization", &format!("Bearer {payer}"));
            assert!(limiter.charge(&headers, 10, 10, &clock).is_ok());
            assert!(limiter.charge(&headers, 1, 10, &clock).is_err());
        }
        assert!(limiter.charge(&of("x-api-key", "late"), 10, 10, &clock).is_ok());
        assert!(limiter.charge(&of("x-api-key", "later"), 1, 10, &clock).is_err(), "they share one");
        tokio::time::advance(MINUTE).await;
        assert!(limiter.charge(&of("x-api-key", "late"), 10, 10, &clock).is_ok());
        assert!(limiter.charge(&of("x-api-key", "later"), 10, 10, &clock).is_ok());
        assert_eq!(limiter.0.lock().len(), 2, "those that have nothing in their window are forgotten");
    }
}
