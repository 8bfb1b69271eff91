//! Streamgauge measures the token stream of LLM inference servers without touching it: a transparent reverse
//! proxy that stamps times, counts tokens and exports them to Prometheus.
//!
//! # The life of one exchange
//!
//! 1. [`proxy::listener`] accepts a connection and reads a request's head; the clock starts.
//! 2. [`proxy`] finds its upstream, its [dialect](dialect::find) and its [tenant](account::tenant), and begins a
//!    recording: an entry in the table of [open exchanges](live), a place in the channel to the accounts plane.
//! 3. The request's body passes a tap on its way up; an [`observe::Observer`] skims it for the model, whether a
//!    stream is asked for, how long the prompt is.
//! 4. The answer's body passes another tap on its way down. [`wire`] cuts it into events, the dialect says what
//!    each means, the observer says when: first byte, first token, first answer, last token, the worst gap.
//! 5. However it ends (the last byte, a client that leaves, an upstream that breaks, our own shutdown), the
//!    recording is finished or dropped, and hands over one note: exactly one, by ownership.
//! 6. The [`pipeline`] takes it on the other runtime; [`account::settle`] says what it means and makes an
//!    [`exchange::Exchange`].
//! 7. The [`sinks`] are told: [metrics](sinks::metrics), the [request log](sinks::request_log), the
//!    [usage ledger](sinks::ledger).
//! 8. Prometheus scrapes the [admin port](admin); who is on call looks at the [status](status) there.
//!
//! # Reading order
//!
//! [`exchange`], [`wire`], [`dialect`], [`observe`], [`account`], [`proxy`], [`pipeline`], [`counting`], [`sinks`],
//! [`status`], [`admin`], [`app`]; beside them [`config`], [`jwks`], [`ops`], [`replay`], [`sim`] and [`demo`]. Arrows point downwards only; a test holds the layers.
//!
//! # Glossary
//!
//! - **exchange**: a request and its answer. **downstream**: towards the client. **upstream**: the inference server.
//! - **dialect**: what the bytes of one API mean. **framing**: how they are cut into **events**. **signal**: what an
//!   event tells. **delta**: a piece of generated output.
//! - **tap**: a body that passes every frame on and lets it be seen. **observer**: the state machine behind it;
//!   **observation**: what it saw. **settle**: to say what that means. **sink**: where it goes.
//! - **count**: a number of tokens and where it came from. **usage**: what an upstream reports of tokens.
//! - **outcome**: how an exchange ended; **blame**: whose doing that was.

pub mod account;
pub mod admin;
pub mod admission;
pub mod app;
pub mod budgets;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counting;
pub mod demo;
pub mod dialect;
pub mod exchange;
pub mod jwks;
pub mod live;
pub mod observe;
pub mod ops;
pub mod pipeline;
pub mod proxy;
pub mod replay;
pub mod sim;
pub mod sinks;
pub mod status;
pub mod vitals;
pub mod wire;
