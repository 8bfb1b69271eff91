//! Service level objectives: which exchange falls under which, and whether it kept it.

use std::time::Duration;

use super::model::Glob;
use crate::clock::Moment;
use crate::exchange::{DialectId, Goal, Goals, ModelNames, Name, Outcome, Verdict};

/// How many objectives there may be: what has been told of each is a bit.
pub const SLOS: usize = 64;

/// An objective: so large a share of the exchanges that fall under it keeps all that it asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    /// The label.
    pub name: Name,
    /// What falls under it.
    pub matching: Matching,
    /// The share in millionths.
    pub objective: u32,
    /// Over how long.
    pub window: Duration,
    /// What is asked for.
    pub asks: Asks,
}

/// What falls under an objective. What is not given, anything does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matching {
    /// The API.
    pub dialect: Option<Glob>,
    /// Who asks.
    pub tenant: Option<Glob>,
    /// The model's label.
    pub model: Option<Glob>,
    /// The inference server.
    pub upstream: Option<Glob>,
}

/// What is asked of an exchange; all that is given must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks {
    /// The longest time to the first token of a stream.
    pub ttft: Option<Duration>,
    /// The longest time for a further token of a stream, on average.
    pub tpot: Option<Duration>,
    /// The longest time to the end.
    pub duration: Option<Duration>,
    /// That it is completed.
    pub success: bool,
}

/// The configured objectives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slos(pub Vec<Slo>);

/// Whose exchange, as far as objectives ask.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// The API.
    pub dialect: DialectId,
    /// Who asks.
    pub tenant: &'a Name,
    /// The model's label, where it has one.
    pub model: Option<&'a Name>,
    /// The inference server.
    pub upstream: &'a Name,
}

/// How an exchange went, as far as objectives ask.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// t0.
    pub started: Moment,
    /// A stream was asked for.
    pub asked_stream: bool,
    /// The answer was a 2xx stream.
    pub streamed: bool,
    /// The answer's body was read.
    pub observed: bool,
    /// The answer's head.
    pub head: Option<Moment>,
    /// The first token.
    pub first_token: Option<Moment>,
    /// The time for each further token.
    pub tpot: Option<Duration>,
    /// The end.
    pub ended: Moment,
    /// The status that the client got.
    pub code: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Slos {
    /// What an exchange falls under, with the objectives' places.
    fn of<'s>(&'s self, party: Party<'s>) -> impl Iterator<Item = (u8, &'s Slo)> {
        let is_generation = party.dialect != DialectId::UNKNOWN;
        (0..).zip(&self.0).filter(move |(_, slo)| is_generation && slo.matching.matches(&party))
    }

    /// What a running exchange of this model can be judged by.
    pub fn goals(&self, party: Party<'_>, model: ModelNames) -> Goals {
        let goal = |(place, slo): (u8, &Slo)| {
            let Asks { ttft, tpot, duration, success } = slo.asks;
            let is_ttft_alone = ttft.is_some() && tpot.is_none() && duration.is_none() && !success;
            Goal { place, slo: slo.name.clone(), ttft, duration, is_ttft_alone }
        };
        Goals { goals: self.of(party).map(goal).collect(), model }
    }

    /// What an exchange that has ended is to each objective that it falls under.
    pub fn verdicts(&self, party: Party<'_>, course: &Course) -> Vec<(u8, Name, Verdict)> {
        self.of(party).map(|(place, slo)| (place, slo.name.clone(), slo.asks.verdict(course))).collect()
    }
}

impl Matching {
    fn matches(&self, party: &Party<'_>) -> bool {
        let is = |glob: &Option<Glob>, text: Option<&str>| {
            glob.as_ref().is_none_or(|glob| glob.matches(text.unwrap_or_default()))
        };
        is(&self.dialect, Some(party.dialect.0))
            && is(&self.tenant, Some(party.tenant.as_str()))
            && is(&self.model, party.model.map(Name::as_str))
            && is(&self.upstream, Some(party.upstream.as_str()))
    }

    /// Whether exchanges of this tenant and model can fall under it.
    pub fn can_have(&self, tenant: &Name, model: &Name) -> bool {
        let is =
            |glob: &Option<Glob>, name: &Name| glob.as_ref().is_none_or(|glob| glob.matches(name.as_str()));
        is(&self.tenant, tenant) && is(&self.model, model)
    }
}

impl Asks {
    /// The kinds of time that it bounds.
    pub fn thresholds(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let each = [("ttft", self.ttft), ("tpot", self.tpot), ("duration", self.duration)];
        each.into_iter().filter_map(|(kind, threshold)| Some((kind, threshold?)))
    }

    fn verdict(&self, course: &Course) -> Verdict {
        let since_start = |at: Moment| at.since(course.started);
        let is_stream = course.asked_stream || course.streamed;
        let waited = course.first_token.or(match course.head {
            // Whoever asked for a stream and gets something else has waited for a token until then.
            Some(head) if !(course.streamed && course.observed) => Some(head),
            _ => Some(course.ended),
        });
        let is_over = |at: Option<Moment>, limit: Option<Duration>| {
            at.zip(limit).is_some_and(|(at, limit)| since_start(at) > limit)
        };
        if (is_stream && is_over(waited, self.ttft)) || is_over(Some(course.ended), self.duration) {
            return Verdict::Bad;
        }
        let asks_more = self.tpot.is_some() || self.duration.is_some() || self.success;
        if self.ttft.is_some() && !asks_more && course.first_token.is_some() {
            return Verdict::Good;
        }
        self.at_end(course, is_stream)
    }

    /// Of an exchange that no time has run out for.
    fn at_end(&self, course: &Course, is_stream: bool) -> Verdict {
        let judges_whole = self.duration.is_some() || self.success;
        match course.outcome {
            Outcome::Rejected | Outcome::Drained | Outcome::ClientGone => Verdict::NotEligible,
            Outcome::UpstreamRefused if course.code != Some(429) => Verdict::NotEligible,
            Outcome::Completed => {
                let is_read = course.streamed && course.observed;
                let is_slow = self.tpot.zip(course.tpot).is_some_and(|(limit, tpot)| tpot > limit);
                if !is_read && !judges_whole {
                    Verdict::NotEligible
                } else if is_read && is_slow {
                    Verdict::Bad
                } else {
                    Verdict::Good
                }
            }
            _ if !is_stream && !judges_whole => Verdict::NotEligible,
            _ => Verdict::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Moment {
        Moment::new(MILLI * millis)
    }

    /// A stream whose first token came after 200 ms, that ended after 2 s.
    fn stream() -> Course {
        Course {
            started: at(0),
            asked_stream: true,
            streamed: true,
            observed: true,
            head: Some(at(100)),
            first_token: Some(at(200)),
            tpot: Some(MILLI * 20),
            ended: at(2_000),
            code: Some(200),
            outcome: Outcome::Completed,
        }
    }

    fn whole() -> Course {
        Course { asked_stream: false, streamed: false, first_token: None, tpot: None, ..stream() }
    }

    fn refused(code: u16, after: u32) -> Course {
        let (head, ended) = (Some(at(after)), at(after + 1));
        Course {
            code: Some(code),
            head,
            ended,
            outcome: Outcome::UpstreamRefused,
            streamed: false,
            first_token: None,
            ..stream()
        }
    }

    const TTFT: Asks =
        Asks { ttft: Some(Duration::from_millis(300)), tpot: None, duration: None, success: false };
    const TPOT: Asks = Asks { tpot: Some(Duration::from_millis(25)), ..TTFT };
    const ALL: Asks = Asks { duration: Some(Duration::from_secs(5)), success: true, ..TPOT };
    const SUCCESS: Asks = Asks { ttft: None, success: true, ..TTFT };

    #[test]
    fn each_course_has_its_verdict() {
        use Verdict::{Bad, Good, NotEligible};
        let ended = |outcome, course: Course| Course { outcome, ..course };
        let without_token = Course { first_token: None, tpot: None, ..stream() };
        let late = Course { first_token: Some(at(301)), ..stream() };
        for (what, course, want) in [
            ("in time", stream(), [Good, Good, Good, Good]),
            ("at the limit", Course { first_token: Some(at(300)), ..stream() }, [Good, Good, Good, Good]),
            ("late", late, [Bad, Bad, Bad, Good]),
            ("slow", Course { tpot: Some(MILLI * 26), ..stream() }, [Good, Bad, Bad, Good]),
            ("one token", Course { tpot: None, ..stream() }, [Good, Good, Good, Good]),
            ("long", Course { ended: at(5_001), ..stream() }, [Good, Good, Bad, Good]),
            ("cut", ended(Outcome::Truncated, stream()), [Good, Bad, Bad, Bad]),
            (
                "cut before a token",
                Course { ended: at(250), ..ended(Outcome::Truncated, without_token) },
                [Bad; 4],
            ),
            ("hung until it was cut", ended(Outcome::Drained, without_token), [Bad, Bad, Bad, NotEligible]),
            ("left late", ended(Outcome::ClientGone, without_token), [Bad, Bad, Bad, NotEligible]),
            (
                "left early",
                Course { ended: at(299), ..ended(Outcome::ClientGone, without_token) },
                [NotEligible; 4],
            ),
            (
                "left in mid-stream",
                ended(Outcome::ClientGone, stream()),
                [Good, NotEligible, NotEligible, NotEligible],
            ),
            ("left after a late token", ended(Outcome::ClientGone, late), [Bad, Bad, Bad, NotEligible]),
            ("whole", whole(), [NotEligible, NotEligible, Good, Good]),
            ("whole, failed", ended(Outcome::UpstreamFailed, whole()), [NotEligible, NotEligible, Bad, Bad]),
            (
                "whole, though a stream was asked for",
                Course { asked_stream: true, ..whole() },
                [NotEligible, NotEligible, Good, Good],
            ),
            (
                "the same, late",
                Course { asked_stream: true, head: Some(at(400)), ..whole() },
                [Bad, Bad, Bad, Good],
            ),
            ("400", refused(400, 10), [NotEligible; 4]),
            ("429", refused(429, 10), [Bad; 4]),
            ("400, late", refused(400, 400), [Bad, Bad, Bad, NotEligible]),
            ("503", ended(Outcome::UpstreamFailed, refused(503, 10)), [Bad; 4]),
            ("our own 429", ended(Outcome::Rejected, refused(429, 10)), [NotEligible; 4]),
            ("unread", Course { observed: false, ..without_token }, [NotEligible, NotEligible, Good, Good]),
        ] {
            assert_eq!([TTFT, TPOT, ALL, SUCCESS].map(|asks| asks.verdict(&course)), want, "{what}");
        }
    }

    #[test]
    fn an_exchange_falls_under_all_objectives_that_match_it() {
        let slo = |name: &str, matching| Slo {
            name: Name::from(name),
            matching,
            objective: 990_000,
            window: Duration::from_secs(30 * 86_400),
            asks: TTFT,
        };
        let glob = |text| Some(Glob::new(text));
        let slos = Slos(vec![
            slo("all", Matching::default()),
            slo("chat", Matching { dialect: glob("openai_chat"), ..Matching::default() }),
            slo("gold", Matching { tenant: glob("gold-*"), model: glob("llama*"), ..Matching::default() }),
        ]);
        let (gold, lead, llama, vllm) = ["gold-1", "lead", "llama-8b", "vllm"].map(Name::from).into();
        let names = |dialect, tenant, model| {
            let party = Party { dialect: DialectId(dialect), tenant, model, upstream: &vllm };
            let goals = slos.goals(party, ModelNames::default()).goals;
            goals.iter().map(|goal| (goal.place, goal.slo.to_string())).collect::<Vec<_>>()
        };
        let all = (0, "all".to_owned());
        assert_eq!(names("ollama", &lead, Some(&llama)), vec![all.clone()]);
        assert_eq!(names("openai_chat", &lead, None), [all.clone(), (1, "chat".into())]);
        assert_eq!(names("ollama", &gold, Some(&llama)), [all.clone(), (2, "gold".into())]);
        assert_eq!(names("ollama", &gold, None), [all], "a model that nobody knows yet");
        assert_eq!(names("unknown", &gold, Some(&llama)), []);
    }
}
