//! Futures that go on beside each other within one: no executor of ours, and none that is asked
//! for.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

type Member<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// Several futures, all of which are polled when one is woken: they are few.
pub(super) struct Crew<'a, E>(Vec<Member<'a, E>>);

impl<'a, E> Crew<'a, E> {
    pub fn new() -> Crew<'a, E> {
        Crew(Vec::new())
    }

    pub fn add(&mut self, member: impl Future<Output = Result<(), E>> + Send + 'a) {
        self.0.push(Box::pin(member));
    }

    /// Ready when all have ended, or one has failed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        let mut at = 0;
        while let Some(member) = self.0.get_mut(at) {
            match member.as_mut().poll(context) {
                Poll::Ready(Ok(())) => drop(self.0.swap_remove(at)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => at += 1,
            }
        }
        match self.0.is_empty() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Goes on until `until` is over, though members are not, or one has failed. `after` is called
    /// each time that all have had their turn.
    pub async fn work<T>(
        mut self,
        until: impl Future<Output = Result<T, E>>,
        mut after: impl FnMut(),
    ) -> Result<T, E> {
        let mut until = pin!(until);
        let mut has_members = true;
        poll_fn(|context| {
            if has_members {
                match self.poll(context) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) => has_members = false,
                    Poll::Pending => {}
                }
            }
            after();
            until.as_mut().poll(context)
        })
        .await
    }
}

/// What both give; the first error, without waiting for the other.
pub(super) async fn both<A, B, E>(
    one: impl Future<Output = Result<A, E>>,
    other: impl Future<Output = Result<B, E>>,
) -> Result<(A, B), E> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(found) = one.as_mut().poll(context)?
        {
            first = Some(found);
        }
        if second.is_none()
            && let Poll::Ready(found) = other.as_mut().poll(context)?
        {
            second = Some(found);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready(Ok((first, second))),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// Lets all others have their turn first.
pub(super) async fn turn_of_others() {
    let mut is_over = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What comes of `work`, unless `over` is first.
pub(super) async fn unless<T>(
    over: impl Future<Output = ()>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let (mut over, mut work) = (pin!(over), pin!(work));
    poll_fn(|context| match over.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(context).map(Some),
    })
    .await
}
