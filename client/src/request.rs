//! Operations as futures: built first, sent when they are polled.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use lockstep_proto::change::Action;
use lockstep_proto::error::Code;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpKind, OpResult};

use crate::error::{Error, Result};
use crate::operation::{Change, Condition, Subject, read_result};
use crate::row::{Binding, TableRow, key_text};
use crate::table::{How, Item, Place, run};

/// Makes the caller's value of an operation's result.
pub(crate) type ReadResult<T> = fn(&Binding, &[Value], OpResult<'_>) -> Result<T>;

/// An operation that gives a `T`. Nothing happens until it is awaited (or put into a batch).
#[must_use = "nothing happens until it is awaited"]
pub struct Request<T> {
    read: ReadResult<T>,
    stage: Stage<T>,
}

enum Stage<T> {
    Built(Box<(Item, Place)>),
    Running(Pin<Box<dyn Future<Output = Result<T>> + Send>>),
    Over,
}

impl<T> Request<T> {
    pub(crate) fn new(item: Item, place: Place, read: ReadResult<T>) -> Self {
        Self { read, stage: Stage::Built(Box::new((item, place))) }
    }

    /// The operation, taken out for a batch.
    pub(crate) fn into_item(self) -> Option<Item> {
        match self.stage {
            Stage::Built(built) => Some(built.0),
            Stage::Running(_) | Stage::Over => None,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Item)) {
        if let Stage::Built(built) = &mut self.stage {
            change(&mut built.0);
        }
    }

    fn reading<U>(self, read: ReadResult<U>) -> Request<U> {
        let stage = match self.stage {
            Stage::Built(built) => Stage::Built(built),
            Stage::Running(_) | Stage::Over => Stage::Over,
        };
        Request { read, stage }
    }
}

impl<T: Send + 'static> Future for Request<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let this = &mut *self;
        if matches!(this.stage, Stage::Built(_))
            && let Stage::Built(built) = std::mem::replace(&mut this.stage, Stage::Over)
        {
            let (item, place) = *built;
            this.stage = Stage::Running(Box::pin(carry_out(item, place, this.read)));
        }
        let Stage::Running(running) = &mut this.stage else {
            panic!("a request was polled after it was done");
        };
        let result = std::task::ready!(running.as_mut().poll(cx));
        this.stage = Stage::Over;
        Poll::Ready(result)
    }
}

async fn carry_out<T>(item: Item, place: Place, read: ReadResult<T>) -> Result<T> {
    let items = std::slice::from_ref(&item);
    let ran = match place {
        Place::In(tx) => tx.run(items).await?,
        Place::Alone(from) => {
            let reads = item.operation.kind == OpKind::Read;
            let how = if reads { How::Read(from) } else { How::Commit };
            run(item.table.shared(), items, how).await?
        }
        Place::Past(from, at) => {
            if item.operation.kind != OpKind::Read {
                let why = "a snapshot cannot be written to";
                return Err(Error::new(Code::Malformed, why).on_table(item.table.name()));
            }
            run(item.table.shared(), items, How::ReadAt(from, at)).await?
        }
    };
    let (binding, key) = &ran.subjects[0];
    let result = ran.results.first().unwrap_or(OpResult::Absent);
    read(binding, key, result).map_err(|error| error.on_table(item.table.name()))
}

/// A write that returns nothing.
pub(crate) fn read_nothing(_binding: &Binding, key: &[Value], result: OpResult<'_>) -> Result<()> {
    match result {
        OpResult::Failed(code) => Err(Error::from(code).on_key(|| key_text(key))),
        OpResult::Done | OpResult::Row(_) | OpResult::Absent => Ok(()),
    }
}

/// A write that returns its row.
fn read_row<R: TableRow>(binding: &Binding, key: &[Value], result: OpResult<'_>) -> Result<R> {
    let missing = || Error::new(Code::Malformed, "the row is missing in the answer");
    read_result(binding, key, result)?.ok_or_else(missing)
}

macro_rules! write_requests {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])*
        #[must_use = "nothing happens until it is awaited"]
        pub struct $name<R> {
            request: Request<()>,
            row: PhantomData<fn() -> R>,
        }

        impl<R: TableRow> $name<R> {
            pub(crate) fn new(request: Request<()>) -> Self {
                Self { request, row: PhantomData }
            }

            /// Also returns the row as it is afterwards (before, if it is deleted).
            pub fn returning(mut self) -> Request<R> {
                self.request.change(|item| {
                    item.operation = item.operation.clone().returning();
                });
                self.request.reading(read_row)
            }
        }

        impl<R> Future for $name<R> {
            type Output = Result<()>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
                Pin::new(&mut self.request).poll(cx)
            }
        }

        impl<R> Batchable for $name<R> {}

        impl<R> sealed::IntoItem for $name<R> {
            fn into_item(self) -> Option<sealed::Sealed> {
                self.request.into_item().map(sealed::Sealed)
            }
        })*
    };
}

write_requests! {
    /// A whole row to be written.
    Write;
    /// Changes of a row, and the conditions under which they happen. All changes see the row as it
    /// was before.
    Patch;
    /// The end of a row, and the conditions under which it happens.
    Delete;
}

impl<R> Patch<R> {
    /// Sets a column.
    pub fn set(
        self,
        column: impl Into<std::borrow::Cow<'static, str>>,
        value: impl Into<Value>,
    ) -> Self {
        self.changing(Change { column: column.into(), action: Action::Set(value.into()) })
    }

    /// Adds a number to a column.
    pub fn add(
        self,
        column: impl Into<std::borrow::Cow<'static, str>>,
        number: impl Into<Value>,
    ) -> Self {
        self.changing(Change { column: column.into(), action: Action::Add(number.into()) })
    }

    /// Only if the condition holds; of several, all must.
    pub fn when(mut self, condition: Condition) -> Self {
        self.request.change(|item| add_condition(item, condition));
        self
    }

    fn changing(mut self, change: Change) -> Self {
        self.request.change(|item| {
            if let Subject::Patch { changes, .. } = &mut item.operation.subject {
                changes.push(change);
            }
        });
        self
    }
}

impl<R> Delete<R> {
    /// Only if the condition holds; of several, all must.
    pub fn when(mut self, condition: Condition) -> Self {
        self.request.change(|item| add_condition(item, condition));
        self
    }
}

fn add_condition(item: &mut Item, condition: Condition) {
    if let Subject::Patch { conditions, .. } = &mut item.operation.subject {
        conditions.push(condition);
    }
}

/// An operation that can be put into a [`crate::Batch`]: whatever the methods of a
/// [`crate::Table`] give.
pub trait Batchable: sealed::IntoItem {}

impl<T> Batchable for Request<T> {}

impl<T> sealed::IntoItem for Request<T> {
    fn into_item(self) -> Option<sealed::Sealed> {
        Request::into_item(self).map(sealed::Sealed)
    }
}

pub(crate) mod sealed {
    //! Keeps the trait from being implemented or called elsewhere.

    use super::Item;

    /// An operation, opaque.
    pub struct Sealed(pub(crate) Item);

    /// What a batch takes.
    pub trait IntoItem {
        #[doc(hidden)]
        fn into_item(self) -> Option<Sealed>;
    }
}
