//! What an operation does to a row: its conditions, its assignments, its refusals.
//!
//! Invariant: the outcome depends on the definition, the operation and the current row alone; an
//! operation that is refused changes nothing; whatever is put is a valid row of the table.

use lockstep_proto::change::{ActionRef, AssignmentRef, ChangeReader, ConditionRef};
use lockstep_proto::error::Code;
use lockstep_proto::key::key_column;
use lockstep_proto::row::{RowView, Slot, check_row, replace_vars, set_fixed};
use lockstep_proto::schema::{TableDef, check_catalog_row};
use lockstep_proto::value::{ColumnType, ValueRef};
use lockstep_proto::wire::op::{Op, OpKind};

/// What becomes of the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect<'a> {
    /// It stays as it is: the operation reads.
    Keep,
    /// It is this from now on.
    Put(&'a [u8]),
    /// It is gone from now on.
    Delete,
}

/// Evaluates an operation on the current row of its key. The caller has checked the schema version
/// and the key. A new row lies in the operation's own body where that is possible, else in
/// `scratch`, whose contents are lost.
///
/// # Errors
/// Why the operation is refused: [`Code::DuplicateKey`], [`Code::NotFound`],
/// [`Code::ConditionFailed`], [`Code::OutOfRange`], [`Code::NullViolation`], [`Code::WrongType`],
/// [`Code::KeyImmutable`], [`Code::NoSuchColumn`], [`Code::RowTooLarge`], [`Code::Malformed`], or
/// [`Code::BadSchema`] for a row of the catalog that is no definition.
#[inline]
pub fn evaluate<'a>(
    def: &TableDef,
    op: &Op<'a>,
    current: Option<&'a [u8]>,
    scratch: &'a mut Vec<u8>,
) -> Result<Effect<'a>, Code> {
    let effect = match op.kind {
        OpKind::Read => return read(op),
        OpKind::Insert if current.is_some() => {
            check_row(def, op.body)?;
            return Err(Code::DuplicateKey);
        }
        OpKind::Insert | OpKind::Upsert => {
            check_row(def, op.body)?;
            Effect::Put(op.body)
        }
        OpKind::Update => update(def, op, current, scratch)?,
        OpKind::Delete => delete(def, op, current)?,
    };
    match effect {
        Effect::Put(row) if def.is_catalog() => check_catalog_row(op.key, row)?,
        Effect::Put(_) | Effect::Keep | Effect::Delete => {}
    }
    Ok(effect)
}

fn read<'a>(op: &Op<'_>) -> Result<Effect<'a>, Code> {
    if op.body.is_empty() { Ok(Effect::Keep) } else { Err(Code::Malformed) }
}

fn delete<'a>(def: &TableDef, op: &Op<'_>, current: Option<&[u8]>) -> Result<Effect<'a>, Code> {
    let current = current.ok_or(Code::NotFound)?;
    if !op.body.is_empty() {
        let mut changes = ChangeReader::new(op.body)?;
        check_conditions(def, op.key, current, &mut changes)?;
        changes.finish()?;
    }
    Ok(Effect::Delete)
}

fn update<'a>(
    def: &TableDef,
    op: &Op<'a>,
    current: Option<&[u8]>,
    scratch: &'a mut Vec<u8>,
) -> Result<Effect<'a>, Code> {
    let current = current.ok_or(Code::NotFound)?;
    let mut changes = ChangeReader::new(op.body)?;
    check_conditions(def, op.key, current, &mut changes)?;
    changes.start_assignments()?;
    scratch.clear();
    scratch.extend_from_slice(current);
    let mut vars = Vec::new();
    while let Some(assignment) = changes.next_assignment()? {
        match def.layout().slot(assignment.column)? {
            Slot::Key(_) => return Err(Code::KeyImmutable),
            Slot::Fixed(_) => assign_fixed(def, scratch, &assignment)?,
            Slot::Var(index) => {
                let ActionRef::Set(value) = assignment.action else { return Err(Code::WrongType) };
                vars.resize(def.layout().var_count(), None);
                vars[usize::from(index)] = Some(value);
            }
        }
    }
    changes.finish()?;
    if !vars.is_empty() {
        let fixed_done = std::mem::take(scratch);
        replace_vars(def, &fixed_done, &vars, scratch)?;
    }
    Ok(Effect::Put(scratch))
}

/// All conditions are read whether or not an earlier one fails, so that a malformed body is always
/// refused as such.
fn check_conditions(
    def: &TableDef,
    key: &[u8],
    row: &[u8],
    changes: &mut ChangeReader<'_>,
) -> Result<(), Code> {
    let view = RowView::of_checked(def, row);
    let mut all_hold = true;
    while let Some(condition) = changes.next_condition()? {
        all_hold &= holds(def, key, &view, &condition)?;
    }
    if all_hold { Ok(()) } else { Err(Code::ConditionFailed) }
}

fn holds(
    def: &TableDef,
    key: &[u8],
    view: &RowView<'_>,
    condition: &ConditionRef<'_>,
) -> Result<bool, Code> {
    match def.layout().slot(condition.column)? {
        Slot::Key(component) => condition.holds(key_column(def, key, component)?.as_ref()),
        Slot::Fixed(_) | Slot::Var(_) => condition.holds(view.column(condition.column)?),
    }
}

#[inline]
fn assign_fixed(
    def: &TableDef,
    row: &mut [u8],
    assignment: &AssignmentRef<'_>,
) -> Result<(), Code> {
    let value = match assignment.action {
        ActionRef::Set(value) => value,
        ActionRef::Add(amount) => {
            let ty = def.column(assignment.column)?.ty;
            let before = RowView::of_checked(def, row).column(assignment.column)?;
            add(ty, before, amount)?
        }
    };
    set_fixed(def, row, assignment.column, value)
}

/// The sum in a column of this type. Adding to NULL is refused rather than lost.
#[inline]
fn add<'a>(
    ty: ColumnType,
    before: ValueRef<'_>,
    amount: ValueRef<'_>,
) -> Result<ValueRef<'a>, Code> {
    if before.is_null() || amount.is_null() {
        return Err(Code::NullViolation);
    }
    if let (Some(a), Some(b)) = (before.integer(), amount.integer()) {
        let sum = a + b;
        return match sum {
            _ if !ty.holds(sum) => Err(Code::OutOfRange),
            _ if ty.is_signed() => Ok(ValueRef::Int(sum as i64)),
            _ => Ok(ValueRef::UInt(sum as u64)),
        };
    }
    match (before, amount) {
        (ValueRef::Timestamp(a), _) => {
            let micros = amount.integer().ok_or(Code::WrongType)?;
            let sum = i64::try_from(i128::from(a) + micros).map_err(|_| Code::OutOfRange)?;
            Ok(ValueRef::Timestamp(sum))
        }
        (ValueRef::F32(a), _) => {
            let ValueRef::F32(b) = amount.fit(ColumnType::F32)? else {
                return Err(Code::WrongType);
            };
            Ok(ValueRef::F32(a + b))
        }
        (ValueRef::F64(a), _) => Ok(ValueRef::F64(a + amount.float().ok_or(Code::WrongType)?)),
        _ => Err(Code::WrongType),
    }
}
