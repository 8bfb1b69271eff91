//! Requests of tenants that a limit holds to: read to their end first, where they are short enough, so that what they
//! ask for is known; sent when there is room for them, or answered here.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, request};

use super::upload::Upload;
use super::upstream::{Answer, SendError, Sending, Upstream};
use super::watch::Watch;
use super::{Proxy, headers, inject};
use crate::account::model::TokenizerName;
use crate::admission::{Asking, Refusal};
use crate::dialect::Dialect;
use crate::exchange::Limited;
use crate::live::{Origin, Stage};

/// How long a request is waited for that is to be read to its end first. Of a slower one is known what has come by then.
const UPLOAD_TIME: Duration = Duration::from_secs(10);

/// A request before it is admitted.
pub(super) struct Applicant {
    pub(super) proxy: Arc<Proxy>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) dialect: &'static dyn Dialect,
    pub(super) upload: Arc<Upload>,
    pub(super) watch: Arc<Watch>,
    pub(super) is_upgrade: bool,
}

impl Applicant {
    /// Sends a request when it may go.
    pub(super) fn send(self, head: request::Parts) -> Sending {
        self.upload.await_whole();
        Box::pin(self.admitted(head))
    }

    async fn admitted(self, head: request::Parts) -> Result<Answer, SendError> {
        let whole = tokio::time::timeout(UPLOAD_TIME, poll_fn(|cx| self.upload.poll_whole(cx))).await;
        let body = match whole {
            Ok(Ok(original)) => {
                let body = original.bytes().clone();
                original.put_back();
                Some(body)
            }
            Ok(Err(_)) => None,
            Err(_) => {
                self.upload.give_up_whole();
                None
            }
        };
        let began = self.proxy.clock.now();
        self.upload.is_looked_at();
        self.watch.reach(Stage::Held);
        // What is in an encoding is no prompt that could be counted; the observer has its length.
        let limited = self.admit(body.filter(|_| headers::is_plain(&head.headers))).await;
        self.upload.was_looked_at();
        let delay = match limited {
            Ok(limited) => {
                let delay = limited.as_ref().and_then(|limited| limited.delay);
                limited.into_iter().for_each(|limited| self.watch.limited(limited));
                delay
            }
            Err(refusal) => {
                self.watch.limited(refusal.limited.clone());
                return Err(Box::new(refusal));
            }
        };
        let Self { proxy, upstream, dialect, upload, watch, is_upgrade } = self;
        watch.add_overhead(proxy.clock.now().since(began).saturating_sub(delay.unwrap_or_default()));
        let sending = if !is_upgrade && inject::may_ask(&upstream, Some(dialect), &head) {
            inject::send(&upstream, head, &upload, proxy.clock)
        } else {
            watch.reach(Stage::Connecting);
            upstream.send(Request::from_parts(head, upload.tap()), is_upgrade, proxy.clock.now())
        };
        sending.await
    }

    async fn admit(&self, body: Option<Bytes>) -> Result<Option<Limited>, Refusal> {
        let (facts, model) = self.watch.asked();
        let config = self.watch.config();
        let tokenizer = config.models.tokenizer(facts.model.as_ref(), None);
        let counted = match body.zip(tokenizer) {
            Some((body, tokenizer)) => self.count(tokenizer, body).await,
            None => None,
        };
        let tokens = self.watch.expected(&facts, model.as_ref(), counted);
        let Origin { number, tenant, .. } = self.watch.origin();
        let asking = Asking { number: *number, tenant, model: model.as_ref(), tokens };
        self.proxy.admission.admit(&config.limits, asking).await
    }

    /// The prompt's tokens.
    async fn count(&self, tokenizer: TokenizerName, body: Bytes) -> Option<u64> {
        // It is never closed.
        let turn = Arc::clone(&self.proxy.counting).acquire_owned().await.ok()?;
        let tokenizers = Arc::clone(&self.proxy.tokenizers);
        let count = move || {
            let _turn = turn; // for as long as it counts: nothing stops it when the client is gone
            tokenizers.count_prompt(&tokenizer, &body)
        };
        tokio::task::spawn_blocking(count).await.ok().flatten()
    }
}
