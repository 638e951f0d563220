//! Tests of merging: a table, and properties of any layers.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

const SECRET: &str = "worker-pool:demo-provider/demo-pool";

fn source(letter: char) -> Source {
    match letter {
        'r' => Source::RunnerFile,
        'p' => Source::Provider,
        's' => Source::Secret(SECRET.to_owned()),
        'c' => Source::Cache,
        _ => Source::Implementation,
    }
}

fn letter(source: &Source) -> char {
    match source {
        Source::RunnerFile => 'r',
        Source::Provider => 'p',
        Source::Secret(_) => 's',
        Source::Cache => 'c',
        Source::Implementation => 'i',
    }
}

fn layer(text: &str) -> Object {
    serde_json::from_str(text).unwrap()
}

/// Each leaf as `path=letter`, in order.
fn sources(merged: &Merged) -> String {
    let leaves = merged.leaves().map(|leaf| format!("{}={}", leaf.path, letter(leaf.source)));
    leaves.collect::<Vec<_>>().join(" ")
}

/// Layers from the runner file, the provider and a secret, the result, and the sources of its leaves.
type Row = (&'static [&'static str], &'static str, &'static str);

const GOOGLE_RUNNER: &str = r#"{"arr":["runner"],"nested":{"a":1,"b":{"from":"runner","x":null},"list":[1]},
    "requiredDiskSpaceMegabytes":1024,"ratio":0.5}"#;
const GOOGLE_POOL: &str = r#"{"arr":["provider"],"idleTimeoutSecs":600,
    "nested":{"b":{"from":"provider"},"c":true,"list":[2]}}"#;
const GOOGLE_SECRET: &str = r#"{"arr":["secret"],"livelogSecret":"tk"}"#;
const GOOGLE_ALL: &str = r#"{"arr":["runner","provider","secret"],"idleTimeoutSecs":600,"livelogSecret":"tk",
    "nested":{"a":1,"b":{"from":"provider","x":null},"c":true,"list":[1,2]},
    "ratio":0.5,"requiredDiskSpaceMegabytes":1024}"#;
const GOOGLE_SOURCES: &str = "arr[0]=r arr[1]=p arr[2]=s idleTimeoutSecs=p livelogSecret=s nested.a=r \
    nested.b.from=p nested.b.x=r nested.c=p nested.list[0]=r nested.list[1]=p ratio=r requiredDiskSpaceMegabytes=r";
const DEVICES: &str =
    r#"{"deviceManagement":{"loopbackAudio":{"enabled":true}},"ssl":{"certificate":"/c","key":"/k"}}"#;
const PRODUCTION: &str = r#"{"deviceManagement":{"loopbackVideo":{"enabled":true}},"ssl":{"key":"/other"}}"#;
const DEVICES_ALL: &str = r#"{"deviceManagement":{"loopbackAudio":{"enabled":true},
    "loopbackVideo":{"enabled":true}},"ssl":{"certificate":"/c","key":"/other"}}"#;
const DEVICES_SOURCES: &str = "deviceManagement.loopbackAudio.enabled=r \
    deviceManagement.loopbackVideo.enabled=p ssl.certificate=r ssl.key=p";

const REAL: &[Row] = &[
    (&[GOOGLE_RUNNER, GOOGLE_POOL, GOOGLE_SECRET], GOOGLE_ALL, GOOGLE_SOURCES),
    (&[DEVICES, PRODUCTION], DEVICES_ALL, DEVICES_SOURCES),
    // A pool sets a key of the runner file, and a secret sets it again.
    (
        &[r#"{"idleTimeoutSecs":0}"#, r#"{"idleTimeoutSecs":600}"#, r#"{"idleTimeoutSecs":3600}"#],
        r#"{"idleTimeoutSecs":3600}"#,
        "idleTimeoutSecs=s",
    ),
    // Static hardware: the pool has nothing.
    (
        &[r#"{"numberOfTasksToRun":1,"disableReboots":true,"tasksDir":"/home"}"#, "{}"],
        r#"{"disableReboots":true,"numberOfTasksToRun":1,"tasksDir":"/home"}"#,
        "disableReboots=r numberOfTasksToRun=r tasksDir=r",
    ),
    // workerTypeMetadata from several sources.
    (
        &[
            r#"{"workerTypeMetadata":{"machine-setup":{"maintainer":"a@b"}}}"#,
            r#"{"workerTypeMetadata":{"machine-setup":{"script":"s.ps1"},"image":"i"}}"#,
        ],
        r#"{"workerTypeMetadata":{"image":"i","machine-setup":{"maintainer":"a@b","script":"s.ps1"}}}"#,
        "workerTypeMetadata.image=p workerTypeMetadata.machine-setup.maintainer=r \
         workerTypeMetadata.machine-setup.script=p",
    ),
    // 64-bit integers, floats and large numbers keep their form.
    (
        &[r#"{"big":12345678901234567,"u":18446744073709551615,"i":-9223372036854775808}"#],
        r#"{"big":12345678901234567,"i":-9223372036854775808,"u":18446744073709551615}"#,
        "big=r i=r u=r",
    ),
    (&[r#"{"f":1.0,"e":1e24,"n":1}"#], r#"{"e":1e24,"f":1.0,"n":1}"#, "e=r f=r n=r"),
];

const SMALL: &[Row] = &[
    (&["{}"], "{}", ""),
    (&["{}", "{}", "{}"], "{}", ""),
    (&[r#"{"a":1}"#, "{}"], r#"{"a":1}"#, "a=r"),
    (&["{}", r#"{"a":1}"#], r#"{"a":1}"#, "a=p"),
    (&["{}", "{}", r#"{"a":1}"#], r#"{"a":1}"#, "a=s"),
    (&[r#"{"a":1}"#, r#"{"b":2}"#], r#"{"a":1,"b":2}"#, "a=r b=p"),
    (&[r#"{"b":1}"#, r#"{"a":2}"#], r#"{"a":2,"b":1}"#, "a=p b=r"),
    (&[r#"{"a":1}"#, r#"{"a":1}"#], r#"{"a":1}"#, "a=p"),
    (&[r#"{"a":"x"}"#, r#"{"a":"y"}"#], r#"{"a":"y"}"#, "a=p"),
    (&[r#"{"a":true}"#, r#"{"a":false}"#], r#"{"a":false}"#, "a=p"),
    // null is an ordinary value.
    (&[r#"{"a":1}"#, r#"{"a":null}"#], r#"{"a":null}"#, "a=p"),
    (&[r#"{"a":null}"#, r#"{"a":1}"#], r#"{"a":1}"#, "a=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":null}"#], r#"{"a":null}"#, "a=p"),
    (&[r#"{"a":{"b":1}}"#, r#"{"a":null}"#], r#"{"a":null}"#, "a=p"),
    (&[r#"{"a":{"b":1}}"#, r#"{"a":{"b":null}}"#], r#"{"a":{"b":null}}"#, "a.b=p"),
    (&[r#"{"a":null}"#, r#"{"a":[null]}"#], r#"{"a":[null]}"#, "a[0]=p"),
    // Arrays are concatenated, at any depth, and never merged item by item.
    (&[r#"{"a":[1,2]}"#, r#"{"a":[3]}"#], r#"{"a":[1,2,3]}"#, "a[0]=r a[1]=r a[2]=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":[1]}"#], r#"{"a":[1,1]}"#, "a[0]=r a[1]=p"),
    (&[r#"{"a":[]}"#, r#"{"a":[1]}"#], r#"{"a":[1]}"#, "a[0]=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":[]}"#], r#"{"a":[1]}"#, "a[0]=r"),
    (&[r#"{"a":[]}"#, r#"{"a":[]}"#], r#"{"a":[]}"#, "a=r"),
    (&[r#"{"a":[1]}"#, r#"{"a":[2]}"#, r#"{"a":[3]}"#], r#"{"a":[1,2,3]}"#, "a[0]=r a[1]=p a[2]=s"),
    (&[r#"{"a":[{"x":1}]}"#, r#"{"a":[{"x":2}]}"#], r#"{"a":[{"x":1},{"x":2}]}"#, "a[0].x=r a[1].x=p"),
    (&[r#"{"a":[[1]]}"#, r#"{"a":[[2]]}"#], r#"{"a":[[1],[2]]}"#, "a[0][0]=r a[1][0]=p"),
    (&[r#"{"a":{"b":[1]}}"#, r#"{"a":{"b":[2]}}"#], r#"{"a":{"b":[1,2]}}"#, "a.b[0]=r a.b[1]=p"),
    (&[r#"{"a":[{}]}"#, r#"{"a":[[]]}"#], r#"{"a":[{},[]]}"#, "a[0]=r a[1]=p"),
    // Objects merge key by key, at any depth.
    (&[r#"{"a":{"x":1}}"#, r#"{"a":{"y":2}}"#], r#"{"a":{"x":1,"y":2}}"#, "a.x=r a.y=p"),
    (
        &[r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{"b":{"d":2}}}"#],
        r#"{"a":{"b":{"c":1,"d":2}}}"#,
        "a.b.c=r a.b.d=p",
    ),
    (&[r#"{"a":{}}"#, r#"{"a":{"x":1}}"#], r#"{"a":{"x":1}}"#, "a.x=p"),
    (&[r#"{"a":{"x":1}}"#, r#"{"a":{}}"#], r#"{"a":{"x":1}}"#, "a.x=r"),
    (&[r#"{"a":{}}"#, r#"{"a":{}}"#], r#"{"a":{}}"#, "a=r"),
    // Of two different types, the later value.
    (&[r#"{"a":{"x":1}}"#, r#"{"a":[1]}"#], r#"{"a":[1]}"#, "a[0]=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":{"x":1}}"#], r#"{"a":{"x":1}}"#, "a.x=p"),
    (&[r#"{"a":{"x":1}}"#, r#"{"a":5}"#], r#"{"a":5}"#, "a=p"),
    (&[r#"{"a":5}"#, r#"{"a":{"x":1}}"#], r#"{"a":{"x":1}}"#, "a.x=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":"x"}"#], r#"{"a":"x"}"#, "a=p"),
    (&[r#"{"a":[1]}"#, r#"{"a":{}}"#], r#"{"a":{}}"#, "a=p"),
    (&[r#"{"a":{"x":1}}"#, r#"{"a":5}"#, r#"{"a":{"y":2}}"#], r#"{"a":{"y":2}}"#, "a.y=s"),
    // Numbers in other forms are other values.
    (&[r#"{"a":1}"#, r#"{"a":1.0}"#], r#"{"a":1.0}"#, "a=p"),
    // Odd keys.
    (
        &[r#"{"":1,"a.b":2,"c d":{"[0]":3}}"#],
        r#"{"":1,"a.b":2,"c d":{"[0]":3}}"#,
        r#"""=r "a.b"=r "c d"."[0]"=r"#,
    ),
];

#[test]
fn layers_merge_as_the_table_says() {
    assert!(REAL.len() + SMALL.len() >= 40);
    for (layers, result, expected_sources) in REAL.iter().chain(SMALL) {
        let mut merged = Merged::new();
        for (text, from) in layers.iter().zip(['r', 'p', 's']) {
            merged.merge(layer(text), &source(from));
        }
        // Compared as text, where 1 and 1.0 differ.
        let text = |object: &Object| serde_json::to_string(object).unwrap();
        assert_eq!(text(merged.object()), text(&layer(result)), "{layers:?}");
        assert_eq!(sources(&merged), *expected_sources, "{layers:?}");
    }
}

#[test]
fn an_array_that_has_the_runner_files_items_already_does_not_grow_at_every_boot() {
    let mut merged = Merged::new();
    merged.merge(layer(GOOGLE_ALL), &Source::Cache);
    let runner = r#"{"arr":["runner"],"nested":{"list":[7],"b":{"from":"changed"}},"new":[1]}"#;
    for _ in 0..3 {
        merged.merge_over_whole(layer(r#"{"arr":["runner"],"new":[1]}"#), &Source::RunnerFile);
    }
    merged.merge_over_whole(layer(runner), &Source::RunnerFile);
    assert_eq!(merged.get("arr"), Some(&json!(["runner", "provider", "secret"])));
    assert_eq!(merged.get("new"), Some(&json!([1])));
    let nested = json!({"a": 1, "b": {"from": "changed", "x": null}, "c": true, "list": [1, 2, 7]});
    assert_eq!(merged.get("nested"), Some(&nested));
    let sources = sources(&merged);
    for expected in ["arr[0]=c", "new[0]=r", "nested.b.from=r", "nested.list[0]=c", "nested.list[2]=r"] {
        assert!(sources.contains(expected), "{expected}: {sources}");
    }
}

#[test]
fn the_implementation_sets_and_removes_at_any_depth() {
    let mut merged = Merged::new();
    merged.merge(layer(r#"{"taskcluster":{"kept":1},"shutdown":"x","list":[1]}"#), &Source::Provider);
    merged.set(&["taskcluster", "clientId"], json!("c"));
    merged.set(&["shutdown", "deep", "enabled"], json!(true));
    merged.set(&["list"], json!([2]));
    merged.set(&[], json!("nothing"));
    assert_eq!(merged.get("shutdown"), Some(&json!({"deep": {"enabled": true}})));
    assert_eq!(
        sources(&merged),
        "list[0]=i shutdown.deep.enabled=i taskcluster.clientId=i taskcluster.kept=p"
    );
    assert_eq!(merged.remove(&["taskcluster", "kept"]), Some(json!(1)));
    assert_eq!(merged.remove(&["taskcluster", "kept"]), None);
    assert_eq!(merged.remove(&["list", "0"]), None);
    assert_eq!(merged.remove(&[]), None);
    assert_eq!(merged.remove(&["shutdown"]), Some(json!({"deep": {"enabled": true}})));
    assert_eq!(sources(&merged), "list[0]=i taskcluster.clientId=i");
    merged.remove(&["taskcluster", "clientId"]);
    assert_eq!(sources(&merged), "list[0]=i taskcluster=p");
}

#[test]
fn a_leaf_knows_its_innermost_key() {
    let mut merged = Merged::new();
    merged.merge(layer(r#"{"a":{"privateKeys":["x"]}}"#), &Source::RunnerFile);
    let leaf = merged.leaves().next().unwrap();
    assert_eq!((leaf.path.as_str(), leaf.key), ("a.privateKeys[0]", "privateKeys"));
}

#[test]
fn leaves_can_be_masked_by_their_source() {
    let mut merged = Merged::new();
    merged.merge(layer(r#"{"a":[1],"o":{"k":"v"}}"#), &Source::RunnerFile);
    merged.merge(layer(r#"{"a":[2],"o":{"s":{}}}"#), &source('s'));
    let masked = merged
        .map_leaves(|leaf| if leaf.source.holds_secrets() { json!("masked") } else { leaf.value.clone() });
    assert_eq!(Value::Object(masked), json!({"a": [1, "masked"], "o": {"k": "v", "s": "masked"}}));
}

#[test]
fn debugging_a_configuration_shows_no_value() {
    let mut merged = Merged::new();
    merged.merge(layer(r#"{"key":"password"}"#), &source('s'));
    assert_eq!(format!("{merged:?}"), "Merged(1 keys)");
}

#[test]
fn a_source_is_named_for_people() {
    let names = ['r', 'c', 'p', 's', 'i'].map(|letter| source(letter).to_string());
    let secret = format!("secret {SECRET}");
    assert_eq!(names, ["runner file", "cached run", "provider", &secret, "start-worker"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_u64).prop_map(Value::from),
        "[xy]".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_layer() -> impl Strategy<Value = Object> {
    prop::collection::btree_map("[a-d]", any_value(), 0..4).prop_map(|map| map.into_iter().collect())
}

/// Layers in which each key, and therefore each path, always has the same type of value: if a later layer replaces a
/// value by one of another type, merging cannot be associative.
fn kind_true_layer(depth: u32) -> BoxedStrategy<Object> {
    let numbers = prop::collection::vec(0..9_u64, 0..3).prop_map(|items| json!(items));
    let inner = if depth == 0 {
        Just(json!({})).boxed()
    } else {
        kind_true_layer(depth - 1).prop_map(Value::Object).boxed()
    };
    let maybe = prop::option::of::<BoxedStrategy<Value>>;
    let scalar = prop_oneof![Just(Value::Null), (0..9_u64).prop_map(Value::from)].boxed();
    (maybe(numbers.boxed()), maybe(inner), maybe(scalar))
        .prop_map(|(array, object, scalar)| {
            let entries = [("array", array), ("object", object), ("scalar", scalar)];
            entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
        })
        .boxed()
}

/// A simple implementation without sources, for comparison.
fn plainly(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Object(mut a), Value::Object(b)) => {
            for (key, value) in b {
                let value = match a.remove(&key) {
                    Some(old) => plainly(old, value),
                    None => value,
                };
                a.insert(key, value);
            }
            Value::Object(a)
        }
        (Value::Array(a), Value::Array(b)) => Value::Array([a, b].concat()),
        (_, b) => b,
    }
}

fn merge_all(layers: &[Object]) -> Merged {
    let mut merged = Merged::new();
    for (layer, from) in layers.iter().zip(['r', 'p', 's', 'i']) {
        merged.merge(layer.clone(), &source(from));
    }
    merged
}

fn leaf_count(value: &Value) -> usize {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(leaf_count).sum(),
        Value::Object(object) if !object.is_empty() => object.values().map(leaf_count).sum(),
        _ => 1,
    }
}

/// Returns true if the tree of origins has the shape of the value.
fn fits(value: &Value, origin: &Origin) -> bool {
    match (value, origin) {
        (Value::Object(object), Origin::Object(_, origins)) => {
            object.keys().eq(origins.keys())
                && object.values().zip(origins.values()).all(|(value, origin)| fits(value, origin))
        }
        (Value::Array(items), Origin::Array(_, origins)) => {
            items.len() == origins.len() && items.iter().zip(origins).all(|(item, origin)| fits(item, origin))
        }
        (Value::Object(_) | Value::Array(_), _) | (_, Origin::Object(..) | Origin::Array(..)) => false,
        (_, Origin::Leaf(_)) => true,
    }
}

proptest! {
    #[test]
    fn the_result_is_that_of_the_plain_rule(layers in prop::collection::vec(any_layer(), 0..4)) {
        let expected =
            layers.iter().cloned().map(Value::Object).fold(Value::Object(Map::new()), plainly);
        prop_assert_eq!(Value::Object(merge_all(&layers).object), expected);
    }

    #[test]
    fn every_leaf_has_a_source_that_gave_it(layers in prop::collection::vec(any_layer(), 1..4)) {
        let merged = merge_all(&layers);
        let origin = Origin::Object(Source::RunnerFile, merged.origins.clone());
        let whole = Value::Object(merged.object.clone());
        prop_assert!(fits(&whole, &origin));
        let expected = if merged.object.is_empty() { 0 } else { leaf_count(&whole) };
        prop_assert_eq!(merged.leaves().count(), expected);
        for leaf in merged.leaves() {
            let at = ['r', 'p', 's'].iter().position(|from| *from == letter(leaf.source)).unwrap();
            let layer = Value::Object(layers[at].clone());
            prop_assert!(has_leaf(&layer, leaf.value), "{} is not in its source", leaf.path);
        }
    }

    #[test]
    fn merging_is_associative_where_kinds_do_not_change(
        (a, b, c) in (kind_true_layer(3), kind_true_layer(3), kind_true_layer(3))
    ) {
        let in_turn = merge_all(&[a.clone(), b.clone(), c.clone()]);
        let mut last_two_first = Merged::new();
        last_two_first.merge(b, &Source::Provider);
        last_two_first.merge(c, &source('s'));
        let mut whole = Merged::new();
        whole.merge(a, &Source::RunnerFile);
        whole.merge(last_two_first.object, &Source::Provider);
        prop_assert_eq!(whole.object, in_turn.object);
    }

    #[test]
    fn an_empty_layer_changes_nothing(a in any_layer()) {
        let once = merge_all(std::slice::from_ref(&a));
        let around = merge_all(&[Object::new(), a, Object::new()]);
        prop_assert_eq!(&once.object, &around.object);
        prop_assert_eq!(sources(&once).replace('r', "p"), sources(&around));
    }

    #[test]
    fn arrays_never_grow_over_a_whole_that_was_made_from_the_layer(
        (a, b) in (kind_true_layer(3), kind_true_layer(3))
    ) {
        let whole = merge_all(&[a.clone(), b]).object;
        let mut merged = Merged::new();
        merged.merge(whole.clone(), &Source::Cache);
        merged.merge_over_whole(a.clone(), &Source::RunnerFile);
        prop_assert_eq!(arrays(&merged.object), arrays(&whole));
        let second_boot = merged.object.clone();
        merged.merge_over_whole(a, &Source::RunnerFile);
        prop_assert_eq!(merged.object, second_boot);
    }

    #[test]
    fn setting_and_removing_keep_values_and_sources_together(
        base in any_layer(), path in prop::collection::vec("[a-d]", 0..4), value in any_value()
    ) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut merged = merge_all(&[base]);
        merged.set(&path, value.clone());
        let shape = |merged: &Merged| {
            fits(&Value::Object(merged.object.clone()), &Origin::Object(Source::Cache, merged.origins.clone()))
        };
        prop_assert!(shape(&merged));
        let expected = (!path.is_empty()).then_some(value);
        prop_assert_eq!(merged.remove(&path), expected);
        prop_assert!(shape(&merged));
    }
}

/// The arrays at all depths.
fn arrays(object: &Object) -> Vec<&Value> {
    let inner = object.get("object").and_then(Value::as_object).map(arrays).unwrap_or_default();
    object.get("array").into_iter().chain(inner).collect()
}

fn has_leaf(value: &Value, leaf: &Value) -> bool {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().any(|item| has_leaf(item, leaf)),
        Value::Object(object) if !object.is_empty() => object.values().any(|inner| has_leaf(inner, leaf)),
        value => value == leaf,
    }
}
