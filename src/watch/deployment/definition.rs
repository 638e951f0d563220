//! Compares a run's deployment with its worker pool's definition. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run_spec::worker_config::{Source, find_provider_config};
use crate::run_spec::{Parts, Run};

/// The deployment from which a run was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployed {
    /// `deploymentId` from the registration's part of the worker configuration; from the complete configuration if the
    /// Go start-worker cached it without its parts.
    pub deployment_id: Option<String>,
    /// The launch config from which the machine was created.
    pub launch_config_id: Option<String>,
}

impl Deployed {
    pub fn of(run: &Run) -> Self {
        let deployment_id = match &run.parts {
            Parts::Apart(layers) => layers
                .iter()
                .filter(|(source, _)| *source == Source::Provider)
                .find_map(|(_, layer)| text(layer.get("deploymentId")?)),
            Parts::Whole(whole) => whole.get("deploymentId").and_then(text),
        };
        let launch_config_id = run.launch_config_id.clone().filter(|id| !id.is_empty());
        Self { deployment_id: deployment_id.map(str::to_owned), launch_config_id }
    }

    /// The known values with their names.
    pub(super) fn values(&self) -> Vec<(&'static str, String)> {
        let known = [("deploymentId", &self.deployment_id), ("launchConfigId", &self.launch_config_id)];
        known.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// The result of comparing a run's value with a pool's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The definition does not contain the value.
    Unknown,
    /// The value is in use.
    Current,
    /// The value is not in use any more; these are.
    Replaced(BTreeSet<String>),
}

impl Finding {
    /// Looks up `own` among the values in use.
    pub fn of(own: &str, in_use: BTreeSet<&str>) -> Self {
        match (in_use.is_empty(), in_use.contains(own)) {
            (true, _) => Self::Unknown,
            (false, true) => Self::Current,
            (false, false) => Self::Replaced(in_use.into_iter().map(str::to_owned).collect()),
        }
    }
}

/// All values of `deploymentId` in a pool's `config`: its own (static), and those of its launch configs (clouds).
pub fn deployment_ids<'a>(config: &'a Value, implementation: &str) -> BTreeSet<&'a str> {
    let own = config.get("workerConfig");
    let of_launch_configs = launch_configs(config).filter_map(|launch| launch.get("workerConfig"));
    own.into_iter()
        .chain(of_launch_configs)
        .filter_map(|form| find_provider_config(form, implementation)?.get("deploymentId"))
        .filter_map(text)
        .collect()
}

pub fn launch_config_ids(config: &Value) -> BTreeSet<&str> {
    launch_configs(config)
        .filter_map(|launch| launch.get("workerManager")?.get("launchConfigId"))
        .filter_map(text)
        .collect()
}

fn launch_configs(config: &Value) -> impl Iterator<Item = &Value> {
    config.get("launchConfigs").and_then(Value::as_array).into_iter().flatten()
}

/// A non-empty string.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::host::private_file::Access;
    use crate::run_spec::{Object, cache};

    const WORKER: &str = "generic-worker";

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    /// The run in a cache of the Go start-worker.
    fn go_run() -> Run {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(include_bytes!("../../../tests/fixtures/contract/go-cache-google.json")).unwrap();
        cache::read(file.path(), Access::Refuse).unwrap().unwrap().run
    }

    fn run(parts: Parts) -> Run {
        Run { parts, ..go_run() }
    }

    fn finding(own: &str, config: &Value) -> Finding {
        Finding::of(own, deployment_ids(config, WORKER))
    }

    fn launch_finding(own: &str, config: &Value) -> Finding {
        Finding::of(own, launch_config_ids(config))
    }

    fn replaced<'a>(by: impl IntoIterator<Item = &'a str>) -> Finding {
        Finding::Replaced(by.into_iter().map(str::to_owned).collect())
    }

    /// A worker configuration with this `deploymentId`, in one of the two forms.
    fn form(id: &Value, flat: bool) -> Value {
        let inner = json!({"deploymentId": id, "a": 1});
        if flat { inner } else { json!({"genericWorker": {"config": inner, "files": []}}) }
    }

    #[test]
    fn a_run_knows_the_deployment_id_of_its_registration_alone() {
        let layers = |provider: Value| {
            Parts::Apart(vec![
                (Source::Provider, object(provider)),
                (Source::Secret("s".to_owned()), object(json!({"deploymentId": "secret"}))),
            ])
        };
        let known = Deployed::of(&run(layers(json!({"deploymentId": "d1"}))));
        assert_eq!(known, Deployed { deployment_id: Some("d1".to_owned()), launch_config_id: None });
        for other in [json!({}), json!({"deploymentId": 1}), json!({"deploymentId": ""}), json!({"x": "d1"})]
        {
            assert_eq!(Deployed::of(&run(layers(other))), Deployed::default());
        }
        assert_eq!(Deployed::of(&run(Parts::Apart(Vec::new()))), Deployed::default());
    }

    #[test]
    fn a_cache_of_the_go_program_tells_its_deployment_id_at_the_top_level() {
        let whole = |value: Value| Deployed::of(&run(Parts::Whole(object(value)))).deployment_id;
        assert_eq!(whole(json!({"deploymentId": "d1"})).as_deref(), Some("d1"));
        assert_eq!(Deployed::of(&go_run()).deployment_id.as_deref(), Some("d1"));
        assert_eq!(whole(json!({"genericWorker": {"config": {"deploymentId": "d1"}}})), None);
    }

    #[test]
    fn a_run_knows_its_launch_config() {
        let known = |id: &str| {
            let launch_config_id = Some(id.to_owned());
            Deployed::of(&Run { launch_config_id, ..run(Parts::default()) }).launch_config_id
        };
        assert_eq!(known("lc-1").as_deref(), Some("lc-1"));
        assert_eq!(known(""), None);
    }

    #[test]
    fn the_recorded_pool_has_a_new_deployment_after_its_update() {
        let recorded: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/contract/exchanges.json")).unwrap();
        let config = |name: &str| {
            let exchanges = recorded.as_array().unwrap();
            let exchange = exchanges.iter().find(|exchange| exchange["name"] == name).unwrap();
            exchange["response"]["body"]["config"].clone()
        };
        assert_eq!(finding("abc", &config("workerPool GET as root")), Finding::Current);
        assert_eq!(finding("abc", &config("updateWorkerPool deploymentId abc->def")), replaced(["def"]));
    }

    #[test]
    fn a_deployment_that_one_launch_config_still_has_is_current() {
        let launch = |id: &str, flat| json!({"workerConfig": form(&json!(id), flat), "region": "r"});
        let config = json!({"maxCapacity": 1, "launchConfigs": [launch("d2", true), launch("d1", false)]});
        assert_eq!(finding("d1", &config), Finding::Current);
        assert_eq!(finding("d3", &config), replaced(["d1", "d2"]));
        let both = json!({"workerConfig": form(&json!("d1"), true), "launchConfigs": [launch("d2", true)]});
        assert_eq!(finding("d1", &both), Finding::Current);
    }

    #[test]
    fn a_launch_config_that_is_gone_is_replaced_by_those_that_have_ids() {
        let launch = |id: &str| json!({"workerManager": {"launchConfigId": id, "capacityPerInstance": 1}});
        let config = json!({"launchConfigs": [launch("lc-2"), {"workerManager": {}}, {}, launch("lc-3")]});
        assert_eq!(launch_finding("lc-2", &config), Finding::Current);
        assert_eq!(launch_finding("lc-1", &config), replaced(["lc-2", "lc-3"]));
    }

    #[test]
    fn an_empty_or_strange_pool_says_nothing() {
        for config in [
            json!(null),
            json!({}),
            json!([]),
            json!("d2"),
            json!({"deploymentId": "d2"}),
            json!({"workerConfig": null, "launchConfigs": null}),
            json!({"workerConfig": {"genericWorker": {}}, "launchConfigs": []}),
            json!({"workerConfig": {"genericWorker": {"config": {"deploymentId": 2}}}}),
            json!({"workerConfig": {"deploymentId": ""}, "launchConfigs": [{}, null, 1, []]}),
            json!({"workerConfig": {"dockerWorker": {"config": {"deploymentId": "d2"}}}}),
            json!({"launchConfigs": {"workerConfig": {"deploymentId": "d2"}}}),
            json!({"launchConfigs": [{"launchConfigId": "d2", "workerManager": "d2"}]}),
            json!({"launchConfigs": [{"workerManager": {"launchConfigId": null}}]}),
        ] {
            assert_eq!(finding("d1", &config), Finding::Unknown, "{config}");
            assert_eq!(launch_finding("d1", &config), Finding::Unknown, "{config}");
        }
    }

    fn any_id() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => "d[1-4]".prop_map(Value::from),
            1 => prop_oneof![Just(json!("")), Just(json!(null)), Just(json!(1)), Just(json!(["d1"]))],
        ]
    }

    proptest! {
        #[test]
        fn a_deployment_is_replaced_only_where_there_are_others_and_not_it(
            own in "d[1-4]",
            at_the_top in proptest::option::of((any_id(), any::<bool>())),
            launches in proptest::collection::vec((any_id(), any::<bool>(), any_id()), 0..4),
        ) {
            let launch_configs: Vec<_> = launches
                .iter()
                .map(|(id, flat, launch)| {
                    json!({"workerConfig": form(id, *flat), "workerManager": {"launchConfigId": launch}})
                })
                .collect();
            let mut config = json!({"launchConfigs": launch_configs});
            if let Some((id, flat)) = &at_the_top {
                config["workerConfig"] = form(id, *flat);
            }
            let said = |ids: Vec<&Value>| {
                let mut ids: Vec<_> = ids.into_iter().filter_map(Value::as_str).filter(|id| !id.is_empty()).collect();
                ids.sort_unstable();
                ids.dedup();
                if ids.is_empty() {
                    Finding::Unknown
                } else if ids.iter().any(|id| *id == own) {
                    Finding::Current
                } else {
                    replaced(ids)
                }
            };
            let ids = at_the_top.iter().map(|(id, _)| id).chain(launches.iter().map(|(id, ..)| id)).collect();
            prop_assert_eq!(finding(&own, &config), said(ids));
            prop_assert_eq!(launch_finding(&own, &config), said(launches.iter().map(|(.., id)| id).collect()));
        }
    }
}
