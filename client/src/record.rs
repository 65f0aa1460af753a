//! Rows as Rust types: the [`Record`] trait, and [`record!`](crate::record!) that writes it.

use lockstep_proto::error::Code;
use lockstep_proto::schema::ColumnDef;
use lockstep_proto::value::{ColumnType, Value};

/// A struct that is a row of a table. Usually written by [`record!`](crate::record!); by hand it is
/// a list of columns and the way to and from their values.
pub trait Record: Sized + Send + Sync + 'static {
    /// The table's name.
    const TABLE: &'static str;

    /// The columns, in the order of the values. The table may have them in another order, and
    /// others with defaults.
    fn columns() -> Vec<ColumnDef>;

    /// Names of the primary key's columns.
    fn key() -> &'static [&'static str];

    /// Names of the partition key's columns: rows with equal ones live together.
    #[must_use]
    fn partition_key() -> &'static [&'static str] {
        Self::key()
    }

    /// The values, in the order of [`Record::columns`].
    fn to_values(&self) -> Vec<Value>;

    /// The record of values in the order of [`Record::columns`].
    ///
    /// # Errors
    /// [`Code::WrongType`] if they are not those of such a record.
    fn from_values(values: Vec<Value>) -> Result<Self, Code>;
}

/// A Rust type that is the type of a column.
pub trait ColumnValue: Sized {
    /// The column's type.
    const TYPE: ColumnType;
    /// Whether the column may be NULL.
    const NULLABLE: bool = false;

    /// As a value.
    fn to_value(&self) -> Value;

    /// From a value; `None` if it is of another type or out of range.
    fn from_value(value: Value) -> Option<Self>;

    /// The definition of a column of this type.
    #[must_use]
    fn column(name: &str) -> ColumnDef {
        let column = ColumnDef::new(name, Self::TYPE);
        if Self::NULLABLE { column.nullable() } else { column }
    }
}

/// A moment in microseconds since the start of 1970 in UTC: the value of a `timestamp` column.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present, by this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Timestamp(value.0)
    }
}

macro_rules! column_values {
    ($($rust:ty, $column:ident, |$value:ident| $from:expr;)*) => {
        $(impl ColumnValue for $rust {
            const TYPE: ColumnType = ColumnType::$column;

            fn to_value(&self) -> Value {
                self.clone().into()
            }

            fn from_value($value: Value) -> Option<Self> {
                $from
            }
        })*
    };
}

column_values! {
    bool, Bool, |v| v.as_bool();
    i8, I8, |v| v.as_i64()?.try_into().ok();
    i16, I16, |v| v.as_i64()?.try_into().ok();
    i32, I32, |v| v.as_i64()?.try_into().ok();
    i64, I64, |v| v.as_i64();
    u8, U8, |v| v.as_u64()?.try_into().ok();
    u16, U16, |v| v.as_u64()?.try_into().ok();
    u32, U32, |v| v.as_u64()?.try_into().ok();
    u64, U64, |v| v.as_u64();
    f32, F32, |v| match v { Value::F32(number) => Some(number), _ => None };
    f64, F64, |v| v.as_f64();
    String, String, |v| match v { Value::String(text) => Some(text), _ => None };
    Vec<u8>, Bytes, |v| match v { Value::Bytes(bytes) => Some(bytes), _ => None };
    Timestamp, Timestamp, |v| match v { Value::Timestamp(us) => Some(Self(us)), _ => None };
}

impl<T: ColumnValue> ColumnValue for Option<T> {
    const TYPE: ColumnType = T::TYPE;
    const NULLABLE: bool = true;

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            other => T::from_value(other).map(Some),
        }
    }
}

/// Declares structs that are rows of tables.
///
/// Fields marked `#[key]` are the primary key, in their order; with `#[key(partition)]` on some of
/// them, those alone are the partition key. `Option` fields are nullable columns. The name after
/// `in` is the table's; without it the table is called like the struct.
///
/// ```
/// lockstep_client::record! {
///     /// An account of the bank.
///     #[derive(Clone, Debug, PartialEq)]
///     pub struct Account in "accounts" {
///         #[key]
///         pub id: u64,
///         pub balance: i64,
///         pub note: Option<String>,
///     }
/// }
///
/// lockstep_client::record! {
///     struct Booking { #[key(partition)] account: u64, #[key] number: u32, amount: i64 }
/// }
///
/// use lockstep_client::Record;
/// assert_eq!((Account::TABLE, Account::key()), ("accounts", &["id"][..]));
/// assert_eq!(Booking::TABLE, "Booking");
/// assert_eq!(Booking::key(), &["account", "number"]);
/// assert_eq!(Booking::partition_key(), &["account"]);
/// let account = Account { id: 1, balance: -5, note: None };
/// assert_eq!(Account::from_values(account.to_values()).unwrap(), account);
/// # let _ = Booking { account: 1, number: 2, amount: 3 };
/// ```
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident in $table:literal { $($fields:tt)* }) => {
        $crate::record!(@field [$(#[$meta])* $vis struct $name] [$table] [] [] [] $($fields)*);
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::record!(
            @field [$(#[$meta])* $vis struct $name] [stringify!($name)] [] [] [] $($fields)*
        );
    };
    (@field $head:tt $table:tt [$($done:tt)*] [$($key:tt)*] [$($partition:tt)*]
        $(#[doc = $doc:expr])* #[key(partition)] $vis:vis $field:ident : $ty:ty
        $(, $($rest:tt)*)?
    ) => {
        $crate::record!(
            @field $head $table
            [$($done)* { $(#[doc = $doc])* $vis $field $ty }]
            [$($key)* $field] [$($partition)* $field] $($($rest)*)?
        );
    };
    (@field $head:tt $table:tt [$($done:tt)*] [$($key:tt)*] $partition:tt
        $(#[doc = $doc:expr])* #[key] $vis:vis $field:ident : $ty:ty
        $(, $($rest:tt)*)?
    ) => {
        $crate::record!(
            @field $head $table
            [$($done)* { $(#[doc = $doc])* $vis $field $ty }]
            [$($key)* $field] $partition $($($rest)*)?
        );
    };
    (@field $head:tt $table:tt [$($done:tt)*] $key:tt $partition:tt
        $(#[$meta:meta])* $vis:vis $field:ident : $ty:ty
        $(, $($rest:tt)*)?
    ) => {
        $crate::record!(
            @field $head $table
            [$($done)* { $(#[$meta])* $vis $field $ty }]
            $key $partition $($($rest)*)?
        );
    };
    (@field [$(#[$meta:meta])* $vis:vis struct $name:ident] [$table:expr]
        [$({ $(#[$field_meta:meta])* $field_vis:vis $field:ident $ty:ty })*]
        [$($key:ident)*] [$($partition:ident)*]
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $ty,)*
        }

        impl $crate::Record for $name {
            const TABLE: &'static str = $table;

            fn columns() -> ::std::vec::Vec<$crate::ColumnDef> {
                ::std::vec![
                    $(<$ty as $crate::ColumnValue>::column(stringify!($field)),)*
                ]
            }

            fn key() -> &'static [&'static str] {
                &[$(stringify!($key)),*]
            }

            fn partition_key() -> &'static [&'static str] {
                let partition: &'static [&'static str] = &[$(stringify!($partition)),*];
                if partition.is_empty() { Self::key() } else { partition }
            }

            fn to_values(&self) -> ::std::vec::Vec<$crate::Value> {
                ::std::vec![$($crate::ColumnValue::to_value(&self.$field),)*]
            }

            fn from_values(
                values: ::std::vec::Vec<$crate::Value>,
            ) -> ::std::result::Result<Self, $crate::Code> {
                let mut values = values.into_iter();
                let record = Self {
                    $($field: values
                        .next()
                        .and_then($crate::ColumnValue::from_value)
                        .ok_or($crate::Code::WrongType)?,)*
                };
                ::std::result::Result::Ok(record)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Every kind of column.
        #[derive(Clone, Debug, PartialEq)]
        struct Wide in "wide" {
            /// The key.
            #[key]
            id: i16,
            flag: bool,
            small: u8,
            ratio: f64,
            /// Half as wide.
            part: f32,
            text: String,
            raw: Vec<u8>,
            at: Timestamp,
            maybe: Option<u32>,
        }
    }

    #[test]
    fn a_record_survives_the_way_through_values() {
        let wide = Wide {
            id: -3,
            flag: true,
            small: 255,
            ratio: 0.5,
            part: 1.5,
            text: "x".into(),
            raw: vec![0, 1],
            at: Timestamp(5),
            maybe: None,
        };
        let values = wide.to_values();
        assert_eq!(Wide::from_values(values.clone()), Ok(wide));
        assert_eq!(Wide::columns().len(), values.len());
        let nullable: Vec<bool> = Wide::columns().iter().map(|column| column.nullable).collect();
        assert_eq!(nullable.iter().position(|nullable| *nullable), Some(8));
        let mut wrong = values;
        wrong[2] = Value::UInt(256);
        assert_eq!(Wide::from_values(wrong), Err(Code::WrongType));
    }
}
