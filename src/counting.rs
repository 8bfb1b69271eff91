//! Counts text on a thread of its own, at a low priority and behind a bounded queue: traffic never waits for it, and
//! where it cannot keep up counts are estimates.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::account::model::{Models, TokenizerName};
use crate::account::settle::Counts;
use crate::account::tokenize::{Counted, Tokenizer, prompt};
use crate::dialect::prompt::{Piece, answer_pieces};
use crate::observe::{Kept, Output};

/// How many exchanges may wait to be counted. The tokens of one more are estimated.
const QUEUE: usize = 256;

/// The longest first event of a stream that is counted without waiting, in bytes of text: some 0.1 ms.
const FIRST_EVENT: usize = 1024;

/// The tokenizers that are in use: those that the configuration names from its reading on, those of models that are
/// known by name when they are first needed.
#[derive(Debug, Default)]
pub struct Tokenizers(Mutex<HashMap<TokenizerName, Arc<Tokenizer>>>);

impl Tokenizers {
    /// Loads what the models name; a file that no model names any more is dropped.
    ///
    /// # Errors
    /// A file cannot be read, or is no tokenizer.
    pub fn load(&self, models: &Models) -> anyhow::Result<()> {
        let mut named = Vec::new();
        for name in models.iter().filter_map(|model| model.tokenizer.clone()) {
            let tokenizer = match &name {
                TokenizerName::File(path) => read(path)?,
                TokenizerName::Encoding(encoding) => Tokenizer::of_encoding(*encoding),
            };
            named.push((name, Arc::new(tokenizer)));
        }
        let mut loaded = self.0.lock();
        loaded.retain(|name, _| matches!(name, TokenizerName::Encoding(_)));
        loaded.extend(named);
        Ok(())
    }

    /// How many tokens the prompt of a request with this body is; none where nothing counts it.
    pub fn count_prompt(&self, name: &TokenizerName, body: &[u8]) -> Option<u64> {
        let tokenizer = self.get(name)?;
        let count = || prompt::count(&tokenizer, name.is_openai(), &serde_json::from_slice(body).ok()?);
        catch_unwind(AssertUnwindSafe(count)).ok().flatten().map(|counted| counted.tokens)
    }

    fn loaded(&self, name: &TokenizerName) -> Option<Arc<Tokenizer>> {
        self.0.lock().get(name).map(Arc::clone)
    }

    fn get(&self, name: &TokenizerName) -> Option<Arc<Tokenizer>> {
        if let Some(tokenizer) = self.loaded(name) {
            return Some(tokenizer);
        }
        let TokenizerName::Encoding(encoding) = name else { return None };
        let tokenizer = Arc::new(Tokenizer::of_encoding(*encoding)); // takes 0.1 s: without the lock
        self.0.lock().insert(name.clone(), Arc::clone(&tokenizer));
        Some(tokenizer)
    }
}

fn read(path: &Path) -> anyhow::Result<Tokenizer> {
    let json =
        std::fs::read(path).with_context(|| format!("could not read the tokenizer {}", path.display()))?;
    Tokenizer::from_json(&json).with_context(|| path.display().to_string())
}

/// An exchange whose text is to be counted; `T` is what goes with it and comes back.
#[derive(Debug)]
struct Job<T> {
    name: TokenizerName,
    kept: Kept,
    rest: T,
}

/// Where text is handed in.
#[derive(Debug)]
pub struct Counting<T> {
    tokenizers: Arc<Tokenizers>,
    jobs: SyncSender<Job<T>>,
    hurries: Arc<AtomicBool>,
}

impl<T: Send + 'static> Counting<T> {
    /// Starts the thread; what it counted goes to `done`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(tokenizers: Arc<Tokenizers>, done: UnboundedSender<(Counts, T)>) -> std::io::Result<Self> {
        let (jobs, work) = sync_channel(QUEUE);
        let hurries = Arc::<AtomicBool>::default();
        let told = Arc::clone(&hurries);
        let shared = Arc::clone(&tokenizers);
        let run = move || run(&work, &shared, &told, &done);
        std::thread::Builder::new().name("counting".to_owned()).spawn(run)?;
        Ok(Self { tokenizers, jobs, hurries })
    }

    /// From now on what waits is handed back uncounted.
    pub fn hurry(&self) {
        self.hurries.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to hurry.
    pub fn is_hurrying(&self) -> bool {
        self.hurries.load(Ordering::Relaxed)
    }

    /// The tokens of an exchange's first event, at once: it is short. None where it is not, or where its tokenizer would
    /// have to be loaded first.
    pub fn first_event(&self, name: &TokenizerName, kept: &Kept) -> Option<Counted> {
        let is_short = kept.first_event().map(str::len).sum::<usize>() <= FIRST_EVENT;
        let tokenizer = self.tokenizers.loaded(name).filter(|_| is_short)?;
        Some(all(&tokenizer, kept.first_event()))
    }

    /// Hands in an exchange; gives back what goes with it where the queue is full.
    pub fn count(&self, name: TokenizerName, kept: Kept, rest: T) -> Result<(), T> {
        self.jobs.try_send(Job { name, kept, rest }).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => {
                job.rest
            }
        })
    }
}

fn run<T>(
    work: &Receiver<Job<T>>,
    tokenizers: &Tokenizers,
    hurries: &AtomicBool,
    done: &UnboundedSender<(Counts, T)>,
) {
    #[cfg(target_os = "linux")] // elsewhere it would be the whole process's
    // Where it is refused, the thread competes with traffic as others do.
    let _ = rustix::process::setpriority_process(None, 10);
    while let Ok(Job { name, kept, rest }) = work.recv() {
        let tokenizer = if hurries.load(Ordering::Relaxed) { None } else { tokenizers.get(&name) };
        let counting = || tokenizer.map(|tokenizer| count(&tokenizer, name.is_openai(), &kept));
        // A text that brings the thread down would take all that wait with it.
        let counts = catch_unwind(AssertUnwindSafe(counting)).ok().flatten();
        if done.send((counts.unwrap_or_default(), rest)).is_err() {
            return;
        }
    }
}

fn count(tokenizer: &Tokenizer, is_openai: bool, kept: &Kept) -> Counts {
    let json = |body: &Vec<u8>| serde_json::from_slice::<Value>(body).ok();
    let input = kept.request.as_ref().and_then(json);
    let input = input.and_then(|body| prompt::count(tokenizer, is_openai, &body));
    let input = input.map(|counted| Counted { exact: counted.exact && kept.knows_prompts, ..counted });
    match &kept.output {
        Some(Output::Parts(parts)) => Counts {
            input,
            output: Some(all(tokenizer, parts.iter().map(|part| part.text.as_str()))),
            first_event: Some(all(tokenizer, kept.first_event())),
        },
        Some(Output::Body(body)) => {
            Counts { input, output: json(body).and_then(|body| whole(tokenizer, &body)), first_event: None }
        }
        None => Counts { input, ..Counts::default() },
    }
}

fn all<'t>(tokenizer: &Tokenizer, texts: impl Iterator<Item = &'t str>) -> Counted {
    texts.fold(Counted::NONE, |all, text| all.plus(tokenizer.count(text)))
}

/// A whole answer; none where no text is found in it.
fn whole(tokenizer: &Tokenizer, body: &Value) -> Option<Counted> {
    let (mut all, mut any) = (Counted::NONE, false);
    answer_pieces(body, &mut |piece| {
        all = all.plus(match piece {
            Piece::Text(text) => {
                any = true;
                tokenizer.count(text)
            }
            _ => Counted { tokens: 0, exact: false },
        });
    });
    any.then_some(all)
}
