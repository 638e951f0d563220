//! Parses the text of a cache. The result is a complete run, or an error that names the key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{CachedRun, Kept, Leaving, NEVER, Problem, Stage, VERSION};
use crate::clock::Date;
use crate::credentials::Credentials;
use crate::run_spec::files::{FileEntry, FileOrigin, ShippedFile};
use crate::run_spec::worker_config::{Merged, Source, kind_in_words, parse_outside_json};
use crate::run_spec::{Object, Parts, Run, WorkerIdentity, WorkerPoolId};

const TEXT: &str = "a string";
const FULL_TEXT: &str = "a string that is not empty";
const OBJECT: &str = "an object";
const ARRAY: &str = "an array";
const TIME: &str = "a time (RFC 3339)";
const POOL: &str = "a worker pool ID with a slash";
const STAGE: &str = "`registered` or `complete`";
const ORIGIN: &str = "`provider` or `secret`";
const SOURCE: &str = "a known source";

pub(super) fn decode(bytes: &[u8]) -> Result<CachedRun, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::Empty);
    }
    let text = str::from_utf8(bytes).map_err(|_| Problem::NotText)?;
    let (value, long_integers) = parse_outside_json(text)
        .map_err(|cause| if cause.is_eof() { Problem::Truncated(cause) } else { Problem::NotJson(cause) })?;
    let mut top = Section::new(value, String::new())?;
    let mut extra = match top.take("Extra") {
        Some(extra) => Some(Section::new(extra, "Extra".to_owned())?),
        None => None,
    };
    // The cache of a machine that leaves has no list of files, so that the Go program starts nothing.
    if extra.as_ref().is_some_and(|extra| extra.object.contains_key("leaving"))
        && top.object.get("Files").is_some_and(Value::is_string)
    {
        top.object.insert("Files".to_owned(), Value::Null);
    }
    let mut cached = take_run(&mut top)?;
    let worker_config = top.object("WorkerConfig")?;
    match &mut extra {
        Some(extra) => take_extra(extra, &mut cached)?,
        // The Go program wrote the cache: the parts are not known separately.
        None => cached.run.parts = Parts::Whole(worker_config),
    }
    cached.kept = Kept { top: top.object, extra: extra.map(|extra| extra.object).unwrap_or_default() };
    cached.warnings = long_integers
        .into_iter()
        .map(|key| format!("{key}: an integer of more than 64 bits, taken as a float that is near it"))
        .collect();
    Ok(cached)
}

/// Reads the Go program's keys, except `WorkerConfig`.
fn take_run(top: &mut Section) -> Result<CachedRun, Problem> {
    let run = Run {
        root_url: top.full_text("RootURL")?.trim_end_matches('/').to_owned(),
        identity: WorkerIdentity {
            provider_id: top.full_text("ProviderID")?,
            worker_pool_id: {
                let pool = top.full_text("WorkerPoolID")?;
                WorkerPoolId::parse(&pool).ok_or_else(|| top.wrong("WorkerPoolID", POOL, "one without"))?
            },
            worker_group: top.full_text("WorkerGroup")?,
            worker_id: top.full_text("WorkerID")?,
        },
        credentials: take_credentials(top)?,
        worker_location: take_location(top)?,
        provider_metadata: top.object_or_null("ProviderMetadata")?,
        worker_config: Merged::new(),
        parts: Parts::default(),
        files: take_files(top)?,
        registration_secret: top.optional_text("RegistrationSecret")?.map(Into::into),
        launch_config_id: None,
    };
    Ok(CachedRun {
        run,
        provider_type: None,
        stage: Stage::Complete,
        leaving: None,
        warnings: Vec::new(),
        kept: Kept::default(),
    })
}

fn take_credentials(top: &mut Section) -> Result<Credentials, Problem> {
    let mut section = top.section("Credentials")?;
    Ok(Credentials {
        client_id: section.full_text("clientId")?,
        access_token: section.full_text("accessToken")?.into(),
        certificate: section.optional_text("certificate")?.map(Into::into),
        expires: match top.full_text("CredentialsExpire")? {
            never if never == NEVER => None,
            // The zero time counts with any number of digits.
            text => {
                top.date("CredentialsExpire", &text)?.time().filter(|time| Some(*time) != NEVER.parse().ok())
            }
        },
        obtained: None,
    })
}

fn take_location(top: &mut Section) -> Result<BTreeMap<String, String>, Problem> {
    let mut location = BTreeMap::new();
    for (key, value) in top.object_or_null("WorkerLocation")? {
        match value {
            Value::String(text) => drop(location.insert(key, text)),
            other => {
                let key = format!("WorkerLocation.{key}");
                return Err(Problem::Wrong { key, expected: TEXT, found: kind_in_words(&other) });
            }
        }
    }
    Ok(location)
}

/// Treats all files as the provider's, because the Go program refuses files from secrets. `Extra` can correct that.
fn take_files(top: &mut Section) -> Result<Vec<ShippedFile>, Problem> {
    let sections = match top.object.get("Files") {
        Some(Value::Null) => {
            top.take("Files");
            return Ok(Vec::new());
        }
        _ => top.sections("Files")?,
    };
    let file = |mut section: Section| {
        let entry = FileEntry {
            description: section.optional_text("description")?.unwrap_or_default(),
            path: section.text("path")?,
            content: section.text("content")?,
            encoding: section.text("encoding")?,
            format: section.text("format")?,
        };
        Ok(ShippedFile { entry, origin: FileOrigin::Provider })
    };
    sections.into_iter().map(file).collect()
}

fn take_extra(extra: &mut Section, cached: &mut CachedRun) -> Result<(), Problem> {
    let version = extra.expect("version", "a number", |value| value.as_u64().ok_or(value))?;
    if version > VERSION {
        return Err(Problem::TooNew);
    }
    cached.stage = match extra.text("stage")?.as_str() {
        "registered" => Stage::Registered,
        "complete" => Stage::Complete,
        _ => return Err(extra.wrong("stage", STAGE, "another string")),
    };
    cached.provider_type = extra.optional_text("providerType")?;
    let run = &mut cached.run;
    run.launch_config_id = extra.optional_text("launchConfigId")?;
    run.credentials.obtained = match extra.optional_text("credentialsObtained")? {
        Some(text) => Some(extra.time("credentialsObtained", &text)?),
        None => None,
    };
    run.parts = if extra.object.contains_key("whole") {
        Parts::Whole(extra.object("whole")?)
    } else {
        Parts::Apart(extra.sections("layers")?.into_iter().map(take_layer).collect::<Result<_, _>>()?)
    };
    let origins = extra.array("fileOrigins")?;
    if origins.len() != run.files.len() {
        return Err(Problem::OriginsDoNotFit { origins: origins.len(), files: run.files.len() });
    }
    for (file, origin) in run.files.iter_mut().zip(origins) {
        file.origin = match origin.as_str() {
            Some("provider") => FileOrigin::Provider,
            Some("secret") => FileOrigin::Secret,
            Some(_) => return Err(extra.wrong("fileOrigins", ORIGIN, "another string")),
            None => return Err(extra.wrong("fileOrigins", ORIGIN, kind_in_words(&origin))),
        };
    }
    // Earlier versions only recorded that the removal had begun.
    let old = extra.object.contains_key("removed").then(|| take_leaving(extra, "removed")).transpose()?;
    let new = extra.object.contains_key("leaving").then(|| take_leaving(extra, "leaving")).transpose()?;
    cached.leaving = new.or(old);
    if cached.leaving.is_some() {
        cached.run.files.clear();
    }
    Ok(())
}

fn take_leaving(extra: &mut Section, key: &str) -> Result<Leaving, Problem> {
    let mut section = extra.section(key)?;
    let at = section.text("at")?;
    let mut leaving = Leaving::new(section.time("at", &at)?, section.text("reason")?);
    for (key, step) in
        [("deregistered", &mut leaving.deregistered), ("shutdownRequested", &mut leaving.shutdown_requested)]
    {
        *step = match section.optional_text(key)? {
            Some(text) => Some(section.time(key, &text)?),
            None => None,
        };
    }
    Ok(leaving)
}

fn take_layer(mut section: Section) -> Result<(Source, Object), Problem> {
    let source = match section.text("source")?.as_str() {
        "runnerFile" => Source::RunnerFile,
        "cache" => Source::Cache,
        "provider" => Source::Provider,
        "secret" => Source::Secret(section.text("name")?),
        "implementation" => Source::Implementation,
        _ => return Err(section.wrong("source", SOURCE, "another string")),
    };
    Ok((source, section.object("config")?))
}

/// An object whose keys are taken one by one, with its path.
struct Section {
    object: Object,
    /// The path to the object; empty at the top.
    at: String,
}

impl Section {
    fn new(value: Value, at: String) -> Result<Self, Problem> {
        match value {
            Value::Object(object) => Ok(Self { object, at }),
            other => {
                let key = if at.is_empty() { "the whole".to_owned() } else { at };
                Err(Problem::Wrong { key, expected: OBJECT, found: kind_in_words(&other) })
            }
        }
    }

    fn way_to(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &'static str) -> Problem {
        Problem::Wrong { key: self.way_to(key), expected, found }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key)
    }

    fn expect<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<T, Problem> {
        let value = self.take(key).ok_or_else(|| Problem::Missing { key: self.way_to(key), expected })?;
        convert(value).map_err(|value| self.wrong(key, expected, kind_in_words(&value)))
    }

    fn text(&mut self, key: &str) -> Result<String, Problem> {
        self.expect(key, TEXT, |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    fn full_text(&mut self, key: &str) -> Result<String, Problem> {
        let text = self.text(key)?;
        if text.is_empty() { Err(self.wrong(key, FULL_TEXT, "an empty one")) } else { Ok(text) }
    }

    /// `None` if the key is missing, `null` or empty.
    fn optional_text(&mut self, key: &str) -> Result<Option<String>, Problem> {
        match self.object.get(key) {
            None | Some(Value::Null) => {
                self.take(key);
                Ok(None)
            }
            Some(_) => self.text(key).map(|text| Some(text).filter(|text| !text.is_empty())),
        }
    }

    fn date(&self, key: &str, text: &str) -> Result<Date, Problem> {
        Date::parse(text).ok_or_else(|| self.wrong(key, TIME, "another string"))
    }

    /// Reads a time in the past. A time beyond all dates becomes the last date.
    fn time(&self, key: &str, text: &str) -> Result<Timestamp, Problem> {
        Ok(self.date(key, text)?.or_last())
    }

    fn object(&mut self, key: &str) -> Result<Object, Problem> {
        self.expect(key, OBJECT, |value| match value {
            Value::Object(object) => Ok(object),
            other => Err(other),
        })
    }

    /// Reads an object. The Go program writes an empty one as `null`.
    fn object_or_null(&mut self, key: &str) -> Result<Object, Problem> {
        match self.object.get(key) {
            Some(Value::Null) => {
                self.take(key);
                Ok(Object::new())
            }
            _ => self.object(key),
        }
    }

    fn array(&mut self, key: &str) -> Result<Vec<Value>, Problem> {
        self.expect(key, ARRAY, |value| match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        })
    }

    fn section(&mut self, key: &str) -> Result<Self, Problem> {
        Ok(Self { object: self.object(key)?, at: self.way_to(key) })
    }

    fn sections(&mut self, key: &str) -> Result<Vec<Self>, Problem> {
        let at = self.way_to(key);
        let items = self.array(key)?.into_iter().enumerate();
        items.map(|(index, item)| Self::new(item, format!("{at}[{index}]"))).collect()
    }
}
