//! Reads settings from the merged sources.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::sources::{Found, Merged};
use super::table::{SETTINGS, Setting};
use super::{Error, Reload, Signal, Sources, shown};

/// Reads settings from the merged sources, according to their declarations.
pub(super) struct Reader {
    pub(super) merged: Merged,
    pub(super) warnings: RefCell<Vec<String>>,
    /// What is used instead of values that are not supported, by the names of the settings.
    pub(super) replaced: RefCell<BTreeMap<String, Option<String>>>,
}

impl Reader {
    pub(super) fn new(sources: &Sources) -> Result<Self, Error> {
        let mut merged = Merged::new(sources)?;
        let warnings = std::mem::take(&mut merged.warnings);
        Ok(Reader {
            warnings: warnings.into(),
            ..Reader::of(merged)
        })
    }

    pub(super) fn of(merged: Merged) -> Self {
        Reader {
            merged,
            warnings: RefCell::default(),
            replaced: RefCell::default(),
        }
    }

    /// What reads the settings with these names again, if a secret among them is in a file.
    pub(super) fn reload<T>(
        &self,
        names: &[&str],
        read: impl Fn(&Reader) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Option<Reload<T>> {
        let merged = self.merged.only(names);
        let files = merged.files();
        (!files.is_empty()).then(|| Reload::new(files, move || read(&Reader::of(merged.clone()))))
    }

    /// Adds a warning, but only once: a setting may be read for several signals.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    pub(super) fn setting(&self, name: &str) -> Result<&'static Setting, Error> {
        SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .ok_or_else(|| Error::Internal(format!("{name} is not declared")))
    }

    pub(super) fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.of_signal(name, None, parse)
    }

    /// For a setting with a default.
    pub(super) fn required<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        self.optional(name, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
    }

    /// For a setting that can be set per signal.
    pub(super) fn of_signal<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let setting = self.setting(name)?;
        parsed(setting, self.merged.find_for(setting, signal)?, parse)
    }

    /// For a setting of the OpenTelemetry specification: a value that is not valid causes a warning
    /// and is treated as unset. Such variables may be set for a whole cluster, with a value that
    /// other programs support.
    pub(super) fn lenient<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let setting = self.setting(name)?;
        let Some(found) = self.merged.find_for(setting, signal)? else {
            return Ok(None);
        };
        let value = parse(found.value.trim());
        if value.is_some() {
            return Ok(value);
        }
        self.warn_of(setting, &found);
        Ok(setting.default.and_then(parse))
    }

    /// Like `lenient`, for a setting with a default.
    pub(super) fn lenient_required<T>(
        &self,
        name: &str,
        signal: Option<Signal>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        self.lenient(name, signal, parse)?
            .ok_or_else(|| Error::Internal(format!("{name} has no default")))
    }

    /// Notes what is used instead of the value of `name`.
    pub(super) fn replace(&self, name: &str, instead: Option<&str>) {
        let mut replaced = self.replaced.borrow_mut();
        replaced.insert(name.to_owned(), instead.map(str::to_owned));
    }

    fn warn_of(&self, setting: &Setting, found: &Found) {
        let value = shown(setting, &found.value);
        let instead = match setting.default {
            Some(default) => format!("using {default}"),
            None => "it is ignored".to_owned(),
        };
        self.replace(&found.name, setting.default);
        self.warn(format!(
            "{}: {value} is not supported; accepted: {}; {instead}",
            found.name, setting.accepts
        ));
    }
}

pub(super) fn parsed<T>(
    setting: &Setting,
    found: Option<Found>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(Found { name, value }) = found else {
        return Ok(None);
    };
    parse(value.trim())
        .map(Some)
        .ok_or_else(|| Error::value(setting, &name, &value))
}
