//! What explains an incident: each class of causes with the share of the bad requests that it accounts for, what speaks
//! for it and what against.
//!
//! Requests that failed or were refused say so themselves. Those that were late are shared out by the clock that was
//! over, and by what made it longer than before. A class of half of the bad requests is the cause; where none is, none
//! is named.

use super::Series;
use super::anatomy::{Anatomy, decode};
use super::class::Class;
use super::detect::{Incident, Objective};
use super::measures::Measures;
use super::queries::FAILED;
use super::text::{digits, maybe, name, percent, plural, seconds};

/// A class, and what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which.
    pub class: Class,
    /// The share of the bad requests that it accounts for, 0 to 1.
    pub share: f64,
    /// What speaks for it.
    pub because: Vec<String>,
    /// What speaks against it.
    pub against: Vec<String>,
}

/// The judgement: the cause, and everything that was weighed, the weightiest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The cause.
    pub class: Class,
    /// All classes that were looked at.
    pub candidates: Vec<Candidate>,
}

/// The share of the bad requests that makes a class the cause.
pub const CAUSE: f64 = 0.5;
/// A class that accounts for less is told in a line at most.
pub const TOLD: f64 = 0.05;

/// What is weighed.
#[derive(Debug)]
pub struct Scales<'a> {
    /// When, and whom it hit.
    pub incident: &'a Incident,
    /// What was promised to most of them.
    pub objective: &'a Objective,
    /// The time before, where there is any.
    pub before: Option<&'a Measures>,
    /// The incident.
    pub during: &'a Measures,
    /// What first tokens waited for.
    pub anatomy: &'a Anatomy,
}

/// The bad requests, by what is over: each at most once.
#[derive(Debug, Clone, Copy, Default)]
struct Shares {
    failed: f64,
    refused: f64,
    ours: f64,
    first_token: f64,
    speed: f64,
    answers: f64,
    rest: f64,
}

/// Weighs what explains an incident.
pub fn judge(scales: &Scales<'_>) -> Judgement {
    let shares = scales.shares();
    let mut candidates = scales.failures(&shares);
    candidates.extend(scales.of_first_token(&shares));
    candidates.push(scales.slow_decode(shares.speed));
    candidates.push(scales.long_answers(shares.answers));
    candidates.sort_by(|one, other| other.share.total_cmp(&one.share));
    let class =
        candidates.first().filter(|first| first.share >= CAUSE).map_or(Class::Unknown, |first| first.class);
    candidates.retain(|one| one.class != Class::Unknown || one.share >= TOLD);
    Judgement { class, candidates }
}

impl Scales<'_> {
    fn bad(&self) -> f64 {
        let own = self.incident.hit().filter(|hit| hit.party.slo == self.objective.name);
        own.map(|hit| hit.bad).sum::<f64>().max(1.0)
    }

    /// Whether a series of requests is of those that were hit. What was never accepted may have no model.
    fn is_hit(&self, series: &Series) -> bool {
        self.incident.hit().any(|hit| {
            hit.party.tenant == series.label("tenant")
                && [hit.party.model.as_str(), "unknown"].contains(&series.label("model"))
        })
    }

    fn ended(&self, takes: impl Fn(&Series) -> bool) -> f64 {
        self.during.ended(|series| self.is_hit(series) && takes(series))
    }

    fn shares(&self) -> Shares {
        let bad = self.bad();
        let failed = self.ended(|series| FAILED.contains(&series.label("outcome")));
        let refused = self
            .ended(|series| series.label("outcome") == "upstream_refused" && series.label("code") == "429");
        let ours = self.ended(|series| series.label("outcome") == "sidecar_failed");
        let late = self.objective.ttft.and_then(|bound| self.during.ttft().above(bound)).unwrap_or_default();
        let tpot = self.during.histogram("tpot", |_| true);
        let slow = self.objective.tpot.and_then(|bound| tpot.above(bound)).unwrap_or_default();
        let rest = (bad - failed - refused - ours - late - slow).max(0.0);
        let mut shares = Shares { failed, refused, ours, first_token: late, speed: slow, answers: 0.0, rest };
        if self.objective.duration.is_some() {
            self.share_out_duration(&mut shares);
        }
        // Histograms and outcomes are of all of a model's requests, or seen a scrape later: no more than all are bad.
        let all = failed + refused + ours + late + slow + rest;
        let whole = all.max(bad);
        let part = |value: f64| value / whole;
        Shares {
            failed: part(shares.failed),
            refused: part(shares.refused),
            ours: part(shares.ours),
            first_token: part(shares.first_token),
            speed: part(shares.speed),
            answers: part(shares.answers),
            rest: part(shares.rest),
        }
    }

    /// What took too long as a whole goes to what made it longer.
    fn share_out_duration(&self, shares: &mut Shares) {
        let Some(before) = self.before else { return };
        let (first, speed, answers) = (self.rise(), self.slower(before), self.longer(before));
        let all = first + speed + answers;
        if all > 0.0 {
            shares.first_token += shares.rest * first / all;
            shares.speed += shares.rest * speed / all;
            shares.answers += shares.rest * answers / all;
            shares.rest = 0.0;
        }
    }

    /// How much later first tokens came.
    fn rise(&self) -> f64 {
        self.anatomy
            .before
            .zip(self.anatomy.during)
            .map_or(0.0, |(before, during)| (during - before).max(0.0))
    }

    /// How much longer an answer took because its tokens came more slowly.
    fn slower(&self, before: &Measures) -> f64 {
        let tokens = self.during.mean("answer_sum", "answer_count").unwrap_or_default();
        let tpot = before.tpot_mean().zip(self.during.tpot_mean());
        tpot.map_or(0.0, |(before, during)| (during - before).max(0.0) * tokens)
    }

    /// How much longer an answer took because it had more tokens.
    fn longer(&self, before: &Measures) -> f64 {
        let mean = |of: &Measures| of.mean("answer_sum", "answer_count");
        let more =
            mean(before).zip(mean(self.during)).map_or(0.0, |(before, during)| (during - before).max(0.0));
        more * before.tpot_mean().unwrap_or_default()
    }

    fn failures(&self, shares: &Shares) -> Vec<Candidate> {
        let bad = self.bad();
        let told = |what: &str, share: f64| {
            vec![format!("{} {what}, of {}", plural(share * bad, "request"), plural(bad, "bad one"))]
        };
        let by_outcome: Vec<String> = FAILED
            .into_iter()
            .map(|outcome| (outcome, self.ended(|series| series.label("outcome") == outcome)))
            .filter(|(_, ended)| *ended > 0.0)
            .map(|(outcome, ended)| format!("{outcome}: {}", digits(ended)))
            .collect();
        let mut errors = told("failed in the upstream", shares.failed);
        errors.extend((!by_outcome.is_empty()).then(|| by_outcome.join(", ")));
        let against = |share: f64, text: &str| if share < TOLD { vec![text.to_owned()] } else { Vec::new() };
        vec![
            Candidate {
                class: Class::UpstreamErrors,
                share: shares.failed,
                because: errors,
                against: against(shares.failed, "next to no bad request failed: they were answered"),
            },
            Candidate {
                class: Class::RateLimited,
                share: shares.refused,
                because: told("were refused with 429 by the upstream", shares.refused),
                against: against(shares.refused, "next to none was refused with 429"),
            },
        ]
    }

    /// What made first tokens late.
    fn of_first_token(&self, shares: &Shares) -> Vec<Candidate> {
        let anatomy = self.anatomy;
        let rise = [anatomy.sidecar, anatomy.held, anatomy.connect, anatomy.prompts, anatomy.rest];
        let all: f64 = rise.iter().map(|part| part.max(0.0)).sum();
        let part = |own: f64| if all > 0.0 { shares.first_token * own.max(0.0) / all } else { 0.0 };
        let added = |what: &str, own: f64| {
            vec![format!(
                "{what} {} of the {} by which first tokens came later",
                seconds(own.max(0.0)),
                seconds(self.rise())
            )]
        };
        let none = |own: f64, text: &str| if part(own) < TOLD { vec![text.to_owned()] } else { Vec::new() };
        let mut found = vec![
            Candidate {
                class: Class::Sidecar,
                share: part(anatomy.sidecar) + shares.ours,
                because: added("it added", anatomy.sidecar),
                against: none(anatomy.sidecar, "it took no longer than before to pass requests on"),
            },
            Candidate {
                class: Class::OurLimit,
                share: part(anatomy.held),
                because: added("it held requests for", anatomy.held),
                against: none(anatomy.held, "it held requests no longer than before"),
            },
            Candidate {
                class: Class::Network,
                share: part(anatomy.connect),
                because: added("connecting added", anatomy.connect),
                against: none(
                    anatomy.connect,
                    "connections were made as fast as before; what happens on those that stay open is not seen apart",
                ),
            },
            self.long_prompts(part(anatomy.prompts)),
        ];
        let unexplained = if all > 0.0 { 0.0 } else { shares.first_token };
        found.extend(self.queue(part(anatomy.rest)));
        found.extend(self.hung(shares.rest));
        if unexplained > 0.0 {
            found.push(Candidate {
                class: Class::Unknown,
                share: unexplained,
                because: vec!["first tokens were late, but no later than before, or there is no time before to compare with".to_owned()],
                against: Vec::new(),
            });
        }
        found
    }

    fn long_prompts(&self, share: f64) -> Candidate {
        let prompt = |of: &Measures| of.mean("prompt_sum", "prompt_count");
        let (before, during) = (self.before.and_then(prompt), prompt(self.during));
        let mut because = vec![changed("tokens of a prompt, mean", before, during, digits)];
        because.push(format!(
            "prompts of these lengths, at the speed of before, account for {} of the {} by which first tokens came later",
            seconds(self.anatomy.prompts.max(0.0)),
            seconds(self.rise())
        ));
        let mut against = Vec::new();
        if share < TOLD {
            against.push("prompts were as long as before".to_owned());
        }
        let bands = |of: &Measures| {
            of.by("ttft_sum", "input_band").into_iter().map(|(band, _)| band).collect::<Vec<_>>()
        };
        let known = self.before.map(bands).unwrap_or_default();
        let new: Vec<_> = bands(self.during).into_iter().filter(|band| !known.contains(band)).collect();
        if share >= TOLD && !new.is_empty() {
            against.push(format!(
                "there were no prompts of {} before: what they took is put down to their length, less what the others waited longer",
                new.join(", ")
            ));
        }
        if share >= TOLD && self.anatomy.rest > 0.2 * self.rise() {
            against
                .push(format!("prompts of the same length took {} longer, too", seconds(self.anatomy.rest)));
        }
        Candidate { class: Class::LongPrompts, share, because, against }
    }

    /// A queue, where there is a sign of one; else something that is not known.
    fn queue(&self, share: f64) -> Vec<Candidate> {
        let before = self.before;
        let of = |name: &str| (before.and_then(|before| before.total(name)), self.during.total(name));
        let rate = (before.and_then(|before| before.rate("started")), self.during.rate("started"));
        let grew = |pair: (Option<f64>, Option<f64>), by: f64| {
            pair.0.zip(pair.1).is_some_and(|(before, during)| during > before * by)
        };
        let spread = |measures: &Measures| {
            let ttft = measures.ttft();
            Some(ttft.quantile(0.9)? / ttft.quantile(0.1).filter(|low| *low > 0.0)?)
        };
        let spreads = (before.and_then(spread), spread(self.during));
        let decodes = (before.and_then(decode), decode(self.during));
        let mut because = vec![
            changed(
                "requests waiting for their first token, mean",
                of("awaiting").0,
                of("awaiting").1,
                digits,
            ),
            format!("prompts of the same length waited {} longer", seconds(self.anatomy.rest)),
        ];
        let mut signs = 0;
        for (is_sign, text) in [
            (grew(rate, 1.15), changed("requests a second", rate.0, rate.1, digits)),
            (grew(decodes, 1.25), changed("a stream decodes for", decodes.0, decodes.1, seconds)),
            (
                grew(spreads, 2.0),
                changed("slowest to quickest first tokens (p90/p10)", spreads.0, spreads.1, digits),
            ),
        ] {
            if is_sign {
                signs += 1;
                because.push(text);
            }
        }
        let mut against = Vec::new();
        if share < TOLD {
            against.push("prompts of the same length waited no longer than before".to_owned());
        } else if !grew(rate, 1.15) {
            against.push(changed("no more requests came a second", rate.0, rate.1, digits));
        }
        if signs == 0 && share >= TOLD {
            against
                .push("they came evenly later, as where the upstream reads prompts more slowly".to_owned());
            because.push("so it may be a slower prefill: no sign of a queue".to_owned());
            return vec![Candidate { class: Class::Unknown, share, because, against }];
        }
        vec![Candidate { class: Class::Queue, share, because, against }]
    }

    /// Bad requests of which no clock tells: they have no first token.
    fn hung(&self, rest: f64) -> Option<Candidate> {
        let oldest = self.during.total("oldest")?;
        let usual = self.anatomy.before.unwrap_or_default().max(self.objective.ttft.unwrap_or_default());
        let hangs = oldest > 10.0 * usual && rest >= TOLD;
        Some(Candidate {
            class: if hangs { Class::Hung } else { Class::Unknown },
            share: rest,
            because: vec![format!("the oldest request waited {} for its first token", seconds(oldest))],
            against: Vec::new(),
        })
    }

    fn slow_decode(&self, share: f64) -> Candidate {
        let tpot = (self.before.and_then(Measures::tpot_mean), self.during.tpot_mean());
        let speed = |tpot: f64| format!("{} ({} tokens/s)", seconds(tpot), digits(1.0 / tpot));
        let mut because = vec![changed("time of an output token, mean", tpot.0, tpot.1, speed)];
        let times = tpot.0.zip(tpot.1).map(|(before, during)| during / before);
        because.extend(
            times
                .filter(|times| *times > 1.1)
                .map(|times| format!("{} times as long as before", digits(times))),
        );
        let mut against = Vec::new();
        if times.is_some_and(|times| times < 1.1) {
            against.push("tokens came as fast as before".to_owned());
        } else if share < TOLD {
            against.push("the objective that was missed does not ask for speed, or kept it".to_owned());
        }
        if share >= TOLD && self.rise() > 0.5 * self.anatomy.before.unwrap_or(f64::INFINITY) {
            against.push(changed(
                "first tokens came later, too",
                self.anatomy.before,
                self.anatomy.during,
                seconds,
            ));
        }
        Candidate { class: Class::SlowDecode, share, because, against }
    }

    fn long_answers(&self, share: f64) -> Candidate {
        let mean = |of: &Measures| of.mean("answer_sum", "answer_count");
        let (before, during) = (self.before.and_then(mean), mean(self.during));
        let against = if share < TOLD {
            vec!["the objective that was missed was not missed by length".to_owned()]
        } else {
            Vec::new()
        };
        let because = vec![changed("tokens of an answer, mean", before, during, digits)];
        Candidate { class: Class::LongAnswers, share, because, against }
    }
}

fn changed(what: &str, before: Option<f64>, during: Option<f64>, text: impl Fn(f64) -> String) -> String {
    format!("{what}: {} before, {} in the incident", maybe(before, &text), maybe(during, &text))
}

/// Who an incident hit, in a line.
pub fn whom(incident: &Incident) -> String {
    let mut hit = incident.hit();
    let Some(first) = hit.next() else { return "many tenants, each a little".to_owned() };
    let more = match hit.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} on {}{more}", name(&first.party.tenant), name(&first.party.model))
}

/// A share, where it means something.
pub fn share(share: f64) -> String {
    if share > 0.0 && share < 0.01 {
        "under 1 %".to_owned()
    } else {
        percent((share * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::super::anatomy::{anatomy, tests::measures};
    use super::super::detect::{Hit, Party};
    use super::*;

    fn series(labels: &[(&str, &str)], value: f64) -> Series {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { labels, points: vec![(60.0, value)] }
    }

    fn one(measures: &mut Measures, name: &'static str, value: f64) {
        measures.take(name, vec![series(&[], value)]);
    }

    fn judged(objective: &Objective, bad: f64, before: &Measures, during: &Measures) -> Judgement {
        let party = Party { slo: "chat".into(), tenant: "web".into(), model: "m".into() };
        let incident = Incident {
            span: Span { begin: 0.0, end: 60.0 },
            first_seen: 1.0,
            last_before: 59.0,
            began_before: false,
            goes_on: false,
            parties: vec![Hit { party, judged: 100.0, bad, is_hit: true }],
        };
        let anatomy = anatomy(Some(before), during);
        judge(&Scales { incident: &incident, objective, before: Some(before), during, anatomy: &anatomy })
    }

    fn first_token() -> Objective {
        Objective { name: "chat".into(), share: 0.99, ttft: Some(0.3), ..Objective::default() }
    }

    const USUAL: [(&str, f64, f64); 1] = [("le_1k", 100.0, 0.1)];

    #[test]
    fn more_requests_that_all_wait_are_a_queue() {
        let found = judged(&first_token(), 200.0, &measures(&USUAL), &measures(&[("le_1k", 200.0, 2.0)]));
        assert_eq!((found.class, found.candidates[0].share), (Class::Queue, 1.0));
        assert!(
            found.candidates[0].because.iter().any(|text| text.starts_with("requests a second")),
            "{found:?}"
        );
    }

    #[test]
    fn as_many_that_are_evenly_later_are_not_called_a_queue() {
        let found = judged(&first_token(), 100.0, &measures(&USUAL), &measures(&[("le_1k", 100.0, 2.0)]));
        assert_eq!(found.class, Class::Unknown);
        assert!(found.candidates[0].because.iter().any(|text| text.contains("slower prefill")), "{found:?}");
    }

    #[test]
    fn longer_prompts_are_the_cause_of_what_they_took() {
        let during = measures(&[("le_1k", 50.0, 0.1), ("le_32k", 50.0, 2.0)]);
        assert_eq!(judged(&first_token(), 50.0, &measures(&USUAL), &during).class, Class::LongPrompts);
    }

    #[test]
    fn failures_say_so_themselves() {
        for (outcome, code, class) in [
            ("upstream_failed", "503", Class::UpstreamErrors),
            ("upstream_refused", "429", Class::RateLimited),
        ] {
            let mut during = measures(&USUAL);
            let labels = [("tenant", "web"), ("model", "unknown"), ("outcome", outcome), ("code", code)];
            let others =
                [("tenant", "other"), ("model", "m"), ("outcome", "upstream_failed"), ("code", "500")];
            during.take("requests", vec![series(&labels, 40.0), series(&others, 100.0)]);
            let found = judged(&first_token(), 40.0, &measures(&USUAL), &during);
            assert_eq!((found.class, found.candidates[0].share), (class, 1.0));
        }
    }

    #[test]
    fn an_objective_of_speed_is_missed_by_slow_decoding() {
        let objective = Objective { ttft: None, tpot: Some(0.025), ..first_token() };
        let with = |tpot: f64| {
            let mut measures = measures(&USUAL);
            let below = if tpot <= 0.025 { 100.0 } else { 0.0 };
            measures.take("tpot", vec![series(&[("le", "0.025")], below), series(&[("le", "+Inf")], 100.0)]);
            one(&mut measures, "tpot_sum", tpot * 100.0);
            measures
        };
        let found = judged(&objective, 100.0, &with(0.01), &with(0.1));
        assert_eq!(found.class, Class::SlowDecode);
        assert!(found.candidates[0].because.contains(&"10 times as long as before".to_owned()), "{found:?}");
    }

    #[test]
    fn a_duration_goes_to_what_made_it_longer() {
        let objective = Objective { ttft: None, duration: Some(10.0), ..first_token() };
        let with = |tpot: f64, tokens: f64| {
            let mut measures = measures(&USUAL);
            measures.take("tpot", vec![series(&[("le", "+Inf")], 100.0)]);
            one(&mut measures, "tpot_sum", tpot * 100.0);
            one(&mut measures, "answer_sum", tokens * 100.0);
            one(&mut measures, "answer_count", 100.0);
            measures
        };
        let class = |during: &Measures| judged(&objective, 100.0, &with(0.01, 100.0), during).class;
        assert_eq!(class(&with(0.2, 100.0)), Class::SlowDecode);
        assert_eq!(class(&with(0.01, 2000.0)), Class::LongAnswers);
    }

    #[test]
    fn requests_without_any_token_hang() {
        let (before, mut during) = (measures(&USUAL), measures(&[]));
        one(&mut during, "oldest", 50.0);
        assert_eq!(judged(&first_token(), 100.0, &before, &during).class, Class::Hung);
    }

    #[test]
    fn nothing_is_claimed_where_nothing_changed() {
        let found = judged(&first_token(), 10.0, &measures(&USUAL), &measures(&USUAL));
        assert_eq!(found.class, Class::Unknown);
    }
}
