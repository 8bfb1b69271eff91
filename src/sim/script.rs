//! From a request to the plan of its answer: what will be said, how fast, and what will go wrong.

use std::time::Duration;

use http::StatusCode;

use super::api::{Finish, Refusal, Reply, Usage, Wish};
use super::chance::Chance;
use super::fault::Fault;
use super::settings::{Overrides, Profile, Settings, UsagePolicy};

const TOKENS_LIMIT: u32 = 1 << 17; // the longest context windows; bounds the memory of a whole answer
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600); // no test waits longer; keeps sums of times in range

/// The plan of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) reply: Reply,
    pub(crate) stream: bool,
    pub(crate) pace: Pace,
    pub(crate) fault: Option<Fault>,
    pub(crate) comments: Option<Duration>,
}

/// The speed of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// From the request to the first event.
    pub(crate) first: Duration,
    /// From the first event, the role's, to the first token.
    pub(crate) role_delay: Duration,
    pub(crate) tokens_per_chunk: u32,
    tokens_per_second: f64,
    jitter: f64,
    chance: Chance,
}

impl Pace {
    /// How long the next `tokens` take.
    pub(crate) fn decode(&mut self, tokens: u32) -> Duration {
        let seconds = f64::from(tokens) / self.tokens_per_second;
        match Duration::try_from_secs_f64(seconds) {
            Ok(mean) => self.chance.around(mean.min(LONGEST_WAIT), self.jitter),
            Err(_) => Duration::ZERO, // a speed of zero or none at all: as fast as it can
        }
    }
}

impl Script {
    /// Plans the answer to the `sequence`th request.
    pub(crate) fn draft(
        settings: &Settings,
        overrides: &Overrides,
        wish: Wish,
        sequence: u64,
        created: u64,
    ) -> Result<Self, Refusal> {
        let profile = profile(settings, wish.model.as_deref())?;
        let mut chance = Chance::of(settings.seed, sequence);
        let (id, seed) = (format!("{:016x}", chance.bits()), chance.bits());
        let mishap = profile.mishap.or(settings.mishap).filter(|mishap| chance.happens(mishap.share));
        let fault = overrides.fault.unwrap_or_else(|| mishap.map(|mishap| mishap.fault));
        if wish.include_usage && fault == Some(Fault::RefuseUsage) {
            let message = "Unrecognized request argument supplied: stream_options";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message).about("stream_options"));
        }
        let natural = overrides.tokens.unwrap_or(profile.output_tokens).min(TOKENS_LIMIT);
        let tokens = wish.max_tokens.map_or(natural, |limit| limit.min(natural));
        let cut_short = tokens > 0 && wish.max_tokens.is_some_and(|limit| limit <= natural);
        let pace = pace(profile, overrides, wish.prompt_tokens, chance);
        let reply = Reply {
            id,
            created,
            usage: usage(overrides.usage.unwrap_or(settings.usage), &wish),
            model: wish.model.unwrap_or_else(|| profile.name.clone()),
            prompt_tokens: wish.prompt_tokens,
            choices: wish.choices.max(1),
            tokens,
            reasoning: overrides.reasoning.min(tokens),
            finish: if cut_short { Finish::Length } else { Finish::Stop },
            seed,
            lead: Vec::new(),
        };
        let comments = overrides.comments.or(settings.comments).filter(|every| !every.is_zero());
        Ok(Self { reply, stream: wish.stream, pace, fault, comments })
    }
}

fn profile<'a>(settings: &'a Settings, name: Option<&str>) -> Result<&'a Profile, Refusal> {
    let named = settings.models.iter().find(|model| Some(model.name.as_str()) == name);
    let stand_in = || settings.models.first().filter(|_| !settings.strict || name.is_none());
    named.or_else(stand_in).ok_or_else(|| {
        let aliases = settings.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        let name = name.unwrap_or_default();
        let message = format!("The model `{name}` does not exist. Valid aliases: {aliases}.");
        Refusal::new(StatusCode::NOT_FOUND, message).about("model")
    })
}

fn pace(profile: &Profile, overrides: &Overrides, prompt_tokens: u32, mut chance: Chance) -> Pace {
    let jitter = overrides.jitter.unwrap_or(profile.jitter);
    let ttft = overrides.ttft.unwrap_or_else(|| {
        let speed = profile.prefill_tokens_per_second.unwrap_or(f64::INFINITY);
        let prefill = Duration::try_from_secs_f64(f64::from(prompt_tokens) / speed).unwrap_or_default();
        profile.ttft.saturating_add(prefill)
    });
    Pace {
        first: chance.around(ttft.min(LONGEST_WAIT), jitter),
        role_delay: overrides.role_delay.min(LONGEST_WAIT),
        tokens_per_chunk: overrides.tokens_per_chunk.unwrap_or(profile.tokens_per_chunk).max(1),
        tokens_per_second: overrides.tokens_per_second.unwrap_or(profile.tokens_per_second),
        jitter,
        chance,
    }
}

fn usage(policy: UsagePolicy, wish: &Wish) -> Usage {
    match policy {
        UsagePolicy::Asked => Usage {
            at_end: wish.include_usage,
            in_each: wish.include_usage && wish.continuous_usage,
            in_whole: true,
        },
        UsagePolicy::On => Usage { at_end: true, in_each: wish.continuous_usage, in_whole: true },
        UsagePolicy::Off => Usage { at_end: false, in_each: false, in_whole: false },
        UsagePolicy::Continuous => Usage { at_end: true, in_each: true, in_whole: true },
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Mishap;
    use super::*;

    fn draft(settings: &Settings, overrides: &Overrides, max_tokens: Option<u32>, sequence: u64) -> Script {
        let wish = Wish { max_tokens, choices: 1, ..Wish::default() };
        Script::draft(settings, overrides, wish, sequence, 0).unwrap()
    }

    #[test]
    fn the_shorter_of_limit_and_length_is_generated() {
        let settings = Settings::default();
        let overrides = Overrides { tokens: Some(24), ..Overrides::default() };
        for (limit, tokens, finish) in [
            (None, 24, Finish::Stop),
            (Some(30), 24, Finish::Stop),
            (Some(24), 24, Finish::Length),
            (Some(5), 5, Finish::Length),
            (Some(0), 0, Finish::Stop),
        ] {
            let reply = draft(&settings, &overrides, limit, 0).reply;
            assert_eq!((reply.tokens, reply.finish), (tokens, finish), "{limit:?}");
        }
    }

    #[test]
    fn a_mishap_strikes_its_share_and_the_models_own_comes_first() {
        let mishap = Some(Mishap { fault: Fault::Hang, share: 0.25 });
        let mut settings = Settings { mishap, ..Settings::default() };
        let struck =
            (0..4000).filter(|at| draft(&settings, &Overrides::default(), None, *at).fault.is_some()).count();
        assert!((900..1100).contains(&struck), "{struck}");
        settings.models[0].mishap = Some(Mishap { fault: Fault::NoDone, share: 1.0 });
        assert_eq!(draft(&settings, &Overrides::default(), None, 0).fault, Some(Fault::NoDone));
        let spared = Overrides { fault: Some(None), ..Overrides::default() };
        assert_eq!(draft(&settings, &spared, None, 0).fault, None);
    }

    #[test]
    fn nonsense_speeds_and_waits_are_survived() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE] {
            let overrides = Overrides {
                tokens_per_second: Some(value),
                jitter: Some(value),
                ttft: Some(Duration::MAX),
                ..Overrides::default()
            };
            let mut script = draft(&Settings::default(), &overrides, None, 0);
            assert!(script.pace.first <= 2 * LONGEST_WAIT && script.pace.decode(1) <= 2 * LONGEST_WAIT);
        }
    }

    #[test]
    fn only_a_strict_server_refuses_unknown_models() {
        let mut settings = Settings::default();
        let wish = || Wish { model: Some("nope".to_owned()), choices: 1, ..Wish::default() };
        let script = Script::draft(&settings, &Overrides::default(), wish(), 0, 0).unwrap();
        assert_eq!(script.reply.model, "nope");
        settings.strict = true;
        let refusal = Script::draft(&settings, &Overrides::default(), wish(), 0, 0).unwrap_err();
        assert_eq!(refusal.message, "The model `nope` does not exist. Valid aliases: sim.");
    }
}
