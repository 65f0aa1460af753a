//! A small judge of JSON against the schemas in docs/schemas: of JSON Schema it knows what those
//! use, and refuses the rest.
//!
//! It is stricter than the standard: a property that the schema does not name is a complaint, so
//! that nothing is printed which is not documented.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The words of a schema that are understood.
const KEYWORDS: &[&str] = &[
    "$schema",
    "title",
    "description",
    "type",
    "required",
    "properties",
    "items",
    "const",
    "enum",
    "additionalProperties",
];

/// All schemas, by the name that outputs carry.
#[derive(Debug)]
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Reads those of the tree this test was built from.
    ///
    /// # Panics
    /// If one cannot be read, or is not named as its file is.
    #[must_use]
    pub fn of_tree() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&dir).expect("docs/schemas") {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("a file");
            let schema: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let title = schema["title"].as_str().expect("a title").to_owned();
            let file = title.trim_start_matches("lockstep.").replace('/', "-") + ".json";
            assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(file.as_str()));
            all.insert(title, schema);
        }
        Self(all)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The name of the schema an output says it follows, and what is wrong with it.
    #[must_use]
    pub fn judge(&self, output: &Value) -> (String, Vec<String>) {
        let Some(name) = output["schema"].as_str() else {
            return (String::new(), vec![format!("no schema is named in {output}")]);
        };
        let mut complaints = Vec::new();
        match self.0.get(name) {
            None => complaints.push(format!("docs/schemas has no {name}")),
            Some(schema) => judge(schema, output, "", &mut complaints),
        }
        (name.to_owned(), complaints)
    }
}

fn judge(schema: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else {
        return complaints.push(format!("{at}: the schema is no object"));
    };
    for keyword in rules.keys().filter(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
        complaints.push(format!("{at}: {keyword} is not understood"));
    }
    if let Some(wanted) = rules.get("const")
        && wanted != value
    {
        complaints.push(format!("{at}: {value} is not {wanted}"));
    }
    if let Some(all) = rules.get("enum").and_then(Value::as_array)
        && !all.contains(value)
    {
        complaints.push(format!("{at}: {value} is none of {all:?}"));
    }
    if let Some(wanted) = rules.get("type") {
        let one = [wanted.clone()];
        let wanted = wanted.as_array().map_or(&one[..], Vec::as_slice);
        if !wanted.iter().any(|wanted| is_of(wanted, value)) {
            return complaints.push(format!("{at}: {value} is not of type {wanted:?}"));
        }
    }
    if let Some(object) = value.as_object() {
        judge_object(schema, object, at, complaints);
    }
    if let (Some(items), Some(list)) = (rules.get("items"), value.as_array()) {
        for (number, item) in list.iter().enumerate() {
            judge(items, item, &format!("{at}[{number}]"), complaints);
        }
    }
}

fn judge_object(
    schema: &Value,
    object: &serde_json::Map<String, Value>,
    at: &str,
    complaints: &mut Vec<String>,
) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            complaints.push(format!("{at}: {name} is missing"));
        }
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, value) in object {
        match (properties.get(name), schema.get("additionalProperties")) {
            (Some(rule), _) | (None, Some(rule)) => {
                judge(rule, value, &format!("{at}.{name}"), complaints);
            }
            (None, None) => complaints.push(format!("{at}.{name} is not documented")),
        }
    }
}

fn is_of(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(value: &Value) -> Vec<String> {
        let schema = json!({
            "title": "lockstep.x/v1", "type": "object", "required": ["schema", "n"],
            "properties": {
                "schema": {"const": "lockstep.x/v1"},
                "n": {"type": ["integer", "null"]},
                "list": {"type": "array", "items": {"enum": ["a", "b"]}},
            },
        });
        let schemas = Schemas(BTreeMap::from([("lockstep.x/v1".to_owned(), schema)]));
        schemas.judge(value).1
    }

    #[test]
    fn what_is_missing_wrong_or_not_documented_is_named() {
        let well = json!({"schema": "lockstep.x/v1", "n": null, "list": ["a", "b"]});
        assert_eq!(complaints(&well), Vec::<String>::new());
        for (value, complaint) in [
            (json!({}), "no schema is named"),
            (json!({"schema": "lockstep.y/v1"}), "docs/schemas has no lockstep.y/v1"),
            (json!({"schema": "lockstep.x/v1"}), "n is missing"),
            (json!({"schema": "lockstep.x/v1", "n": 1.5}), ".n: 1.5 is not of type"),
            (json!({"schema": "lockstep.x/v1", "n": 1, "list": ["c"]}), ".list[0]: \"c\" is none"),
            (json!({"schema": "lockstep.x/v1", "n": 1, "m": 1}), ".m is not documented"),
        ] {
            let found = complaints(&value);
            assert!(found.len() == 1 && found[0].contains(complaint), "{value}: {found:?}");
        }
    }
}
