//! What happens in the demonstration and when, as a table. The same story is told again every [`ROUND`].

use std::time::Duration;

/// Something that happens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Act {
    /// When, from the round's start; a multiple of [`BEAT`].
    pub(super) at: Duration,
    /// In a few words.
    pub(super) title: &'static str,
    /// In a few more, for somebody who sees it for the first time.
    pub(super) text: &'static str,
    /// What it does to the simulated world.
    pub(super) change: Change,
}

/// What an act does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Five requests are sent that go wrong, each in a way of its own.
    GoWrong,
    /// The large model answers slowly from the next request on.
    Slow,
    /// A request is sent that never gets a token.
    Hang,
    /// Nothing: says what the sidecar sees, and how to see it oneself.
    Look,
    /// The large model is as it was, and who sent the hanging request gives up.
    Heal,
}

/// How often there is something to be said.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// How long the story is.
pub(super) const ROUND: Duration = Duration::from_secs(120);

/// The story, in order.
pub(super) const ACTS: [Act; 5] = [
    Act {
        at: Duration::from_secs(15),
        title: "five requests of batch go wrong",
        text: "One is refused with 429, one fails with 503. Three are \"200 OK\" to whoever counts status codes: an\n\
               answer that carries an error, a stream that breaks off, and one from a model that nobody has\n\
               priced: a hole in the bill. The sidecar tells them apart:",
        change: Change::GoWrong,
    },
    Act {
        at: Duration::from_secs(30),
        title: "the 70B model slows down",
        text: "From now on its first tokens take five times as long and the rest come at half the speed, as on a\n\
               GPU that got too much work. Nothing fails and no error is counted: only the time to the first\n\
               token (TTFT) and tokens/s tell. Watch its next lines; the 8B stays as it was.",
        change: Change::Slow,
    },
    Act {
        at: Duration::from_secs(45),
        title: "one request to the 70B hangs",
        text: "Its client got \"200 OK\" and then nothing. It looks fine to whoever counts status codes, and it is\n\
               in no histogram: those learn of a request when its first token comes, or when it ends.",
        change: Change::Hang,
    },
    Act {
        at: Duration::from_secs(55),
        title: "what the sidecar sees",
        text: "It knows every request that still waits for its first token: whose it is, and since when.",
        change: Change::Look,
    },
    Act {
        at: Duration::from_secs(80),
        title: "the 70B model recovers",
        text: "It is as fast as at the start, and the client of the hanging request gave up: one more in\n\
               streamgauge_client_disconnects_total{phase=\"before_first_token\"}. The lines below forget the slow\n\
               requests within 30 s; Prometheus remembers them.",
        change: Change::Heal,
    },
];

/// What happens at this time since the start.
pub(super) fn act_at(time: Duration) -> Option<&'static Act> {
    let seconds = time.as_secs() % ROUND.as_secs();
    ACTS.iter().find(|act| act.at.as_secs() == seconds)
}

/// When, after `time`, such a thing happens next; never at `time` itself.
pub(super) fn next(change: Change, time: Duration) -> Option<Duration> {
    let act = ACTS.iter().find(|act| act.change == change)?;
    let rounds = time.as_secs() / ROUND.as_secs();
    let this_round = Duration::from_secs(rounds * ROUND.as_secs()) + act.at;
    Some(if this_round > time { this_round } else { this_round + ROUND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_told_in_order_and_again() {
        let told: Vec<_> = (1u32..=48)
            .map(|beat| BEAT * beat)
            .filter_map(|time| Some((time.as_secs(), act_at(time)?.change)))
            .collect();
        let round = [
            (15, Change::GoWrong),
            (30, Change::Slow),
            (45, Change::Hang),
            (55, Change::Look),
            (80, Change::Heal),
        ];
        let again = round.map(|(at, change)| (at + 120, change));
        assert_eq!(told, [round, again].concat());
    }

    #[test]
    fn every_act_falls_on_a_beat_of_its_own_within_the_round() {
        for act in &ACTS {
            assert_eq!(act.at.as_secs() % BEAT.as_secs(), 0, "{}", act.title);
            assert!(act.at < ROUND, "{}", act.title);
            assert_eq!(act_at(act.at), Some(act));
        }
        assert_eq!(ROUND.as_secs() % BEAT.as_secs(), 0);
        assert!(ACTS.is_sorted_by(|one, next| one.at < next.at));
    }

    #[test]
    fn the_next_time_is_in_this_round_or_the_next() {
        let at = Duration::from_secs;
        assert_eq!(next(Change::Heal, at(55)), Some(at(80)));
        assert_eq!(next(Change::Slow, at(80)), Some(at(150)));
        assert_eq!(next(Change::Slow, at(150)), Some(at(270)));
    }
}
