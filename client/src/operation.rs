//! One operation as the application wrote it, in names and values, until it is encoded by the
//! table definition of the moment. Kept so that a changed table only means encoding it again.

use std::borrow::Cow;

use lockstep_proto::change::{Action, Assignment, Comparison, encode_delete, encode_update};
use lockstep_proto::error::Code;
use lockstep_proto::key::encode_key;
use lockstep_proto::limits::BATCH_OPS_MAX;
use lockstep_proto::row::encode_row;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, OpResult};

use crate::error::{Error, Result};
use crate::row::{Binding, TableRow, key_text};

/// A column, to be compared: `col("balance").ge(5)`.
#[must_use]
pub fn col(name: impl Into<Cow<'static, str>>) -> Column {
    Column(name.into())
}

/// See [`col`].
#[derive(Clone, Debug)]
pub struct Column(Cow<'static, str>);

/// What must hold of a row for a patch or delete to happen; several must all hold. Comparisons
/// with NULL do not hold, but for [`Column::is_null`].
#[derive(Clone, Debug)]
pub struct Condition {
    column: Cow<'static, str>,
    comparison: Comparison,
    value: Value,
}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident = $comparison:ident;)*) => {
        impl Column {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(self, value: impl Into<Value>) -> Condition {
                Condition {
                    column: self.0,
                    comparison: Comparison::$comparison,
                    value: value.into(),
                }
            })*

            /// The column is NULL.
            #[must_use]
            pub fn is_null(self) -> Condition {
                Condition {
                    column: self.0,
                    comparison: Comparison::IsNull,
                    value: Value::Null,
                }
            }

            /// The column is not NULL.
            #[must_use]
            pub fn is_not_null(self) -> Condition {
                Condition {
                    column: self.0,
                    comparison: Comparison::IsNotNull,
                    value: Value::Null,
                }
            }
        }
    };
}

comparisons! {
    /// The column equals the value.
    eq = Eq;
    /// The column has a value, and another one.
    ne = Ne;
    /// The column is less than the value.
    lt = Lt;
    /// The column is less than the value or equals it.
    le = Le;
    /// The column is greater than the value.
    gt = Gt;
    /// The column is greater than the value or equals it.
    ge = Ge;
}

/// A change of one column, by name.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) column: Cow<'static, str>,
    pub(crate) action: Action,
}

/// See the module text.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: OpKind,
    pub(crate) flags: OpFlags,
    pub(crate) subject: Subject,
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// The row with this key.
    Key(Vec<Value>),
    /// A whole row; values in the order of the application's type.
    Row(Vec<Value>),
    /// The row with this key, if the conditions hold, and what to change of it.
    Patch { key: Vec<Value>, conditions: Vec<Condition>, changes: Vec<Change> },
}

impl Operation {
    pub(crate) fn on_key(kind: OpKind, key: Vec<Value>) -> Self {
        Self { kind, flags: OpFlags::default(), subject: Subject::Key(key) }
    }

    pub(crate) fn on_row<R: TableRow>(kind: OpKind, row: &R) -> Self {
        Self { kind, flags: OpFlags::default(), subject: Subject::Row(row.to_row()) }
    }

    /// The same operation, returning the row.
    pub(crate) fn returning(mut self) -> Self {
        self.flags = self.flags.with(OpFlags::RETURNING);
        self
    }

    /// The same read, taking an exclusive lock.
    pub(crate) fn for_update(mut self) -> Self {
        self.flags = self.flags.with(OpFlags::FOR_UPDATE);
        self
    }

    /// Encodes the operation at the end of `ops`; returns the values of its key.
    pub(crate) fn encode(&self, binding: &Binding, ops: &mut OpList) -> Result<Vec<Value>> {
        if ops.as_ops().len() >= BATCH_OPS_MAX {
            return Err(Error::new(Code::BatchTooLarge, format!("more than {BATCH_OPS_MAX}")));
        }
        let def = &binding.def;
        let (key, body) = match &self.subject {
            Subject::Key(key) => (key.clone(), Vec::new()),
            Subject::Row(values) => {
                let values = binding.to_table(values.clone())?;
                let body = match self.kind {
                    OpKind::Update => encode_update(&[], &whole(binding, &values))?,
                    _ => {
                        encode_row(def, &values).map_err(|code| explain(binding, code, &values))?
                    }
                };
                (binding.key_of(&values), body)
            }
            Subject::Patch { key, conditions, changes } => {
                let conditions = resolve_conditions(binding, conditions)?;
                let body = match self.kind {
                    OpKind::Delete => encode_delete(&conditions)?,
                    _ => encode_update(&conditions, &resolve_changes(binding, changes)?)?,
                };
                (key.clone(), body)
            }
        };
        let bytes = encode_key(def, &key).map_err(|code| key_error(binding, code, &key))?;
        ops.push(&Op {
            kind: self.kind,
            flags: self.flags,
            table: def.id,
            schema: def.version,
            partition: binding.partition(&bytes)?,
            key: &bytes,
            body: &body,
        });
        Ok(key)
    }
}

/// The row an operation came to; `None` if it returned none or there is none.
pub(crate) fn read_result<R: TableRow>(
    binding: &Binding,
    key: &[Value],
    result: OpResult<'_>,
) -> Result<Option<R>> {
    match result {
        OpResult::Row(row) => binding.row_of(key, row).map(Some),
        OpResult::Done | OpResult::Absent => Ok(None),
        OpResult::Failed(code) => Err(Error::from(code).on_key(|| key_text(key))),
    }
}

/// All columns outside the key, set.
fn whole(binding: &Binding, values: &[Value]) -> Vec<Assignment> {
    let columns = binding.def.layout().value_columns().iter();
    columns
        .map(|column| Assignment {
            column: *column,
            action: Action::Set(values[usize::from(*column)].clone()),
        })
        .collect()
}

fn resolve(binding: &Binding, column: &str) -> Result<u16> {
    let unknown = || Error::new(Code::NoSuchColumn, format!("column {column}"));
    binding.def.position(column).ok_or_else(unknown)
}

fn resolve_conditions(
    binding: &Binding,
    conditions: &[Condition],
) -> Result<Vec<lockstep_proto::change::Condition>> {
    let resolve_one = |condition: &Condition| {
        Ok(lockstep_proto::change::Condition {
            column: resolve(binding, &condition.column)?,
            comparison: condition.comparison,
            value: condition.value.clone(),
        })
    };
    conditions.iter().map(resolve_one).collect()
}

fn resolve_changes(binding: &Binding, changes: &[Change]) -> Result<Vec<Assignment>> {
    let resolve_one = |change: &Change| {
        let column = resolve(binding, &change.column)?;
        Ok(Assignment { column, action: change.action.clone() })
    };
    changes.iter().map(resolve_one).collect()
}

/// Finds the column that made a row invalid.
fn explain(binding: &Binding, code: Code, values: &[Value]) -> Error {
    for (column, value) in binding.def.columns().iter().zip(values) {
        let misfit = value.clone().fit(column.ty).is_err() || value.is_null() && !column.nullable;
        if misfit && matches!(code, Code::WrongType | Code::NullViolation) {
            let text = format!("column {} is {}, not {value}", column.name, column.ty);
            return Error::new(code, text);
        }
    }
    Error::from(code)
}

fn key_error(binding: &Binding, code: Code, key: &[Value]) -> Error {
    let columns = binding.def.key().iter();
    let names: Vec<&str> = columns
        .filter_map(|position| Some(binding.def.column(*position).ok()?.name.as_str()))
        .collect();
    let text = format!("the key is ({})", names.join(", "));
    Error::new(code, text).on_key(|| key_text(key))
}
