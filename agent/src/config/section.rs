//! One table of the file, read key by key. Errors are noted and reading goes on; `None` says that one was.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::Read as _;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mtxfleet_wire::Bitrate;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::ConfigError;
use super::units;

/// A key that was asked for, and its default as the documentation shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) section: String,
    pub(super) key: &'static str,
    pub(super) default: String,
}

/// What all sections of one file share.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    folder: PathBuf,
    errors: RefCell<Vec<ConfigError>>,
    asked: RefCell<Vec<Asked>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, folder: PathBuf) -> Self {
        Self { text, folder, errors: RefCell::default(), asked: RefCell::default() }
    }

    pub(super) fn root(&'a self, table: &'a DeTable<'a>) -> Section<'a> {
        Section { reader: self, table: Some(table), path: String::new(), at: None, known: RefCell::default() }
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let problem = format!("{}; this is no valid TOML", error.message().trim());
        self.note(error.span(), String::new(), problem, false);
    }

    /// How many errors were noted so far.
    pub(super) fn noted(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Takes out the errors that were noted after so many.
    pub(super) fn take_after(&self, noted: usize) -> Vec<ConfigError> {
        self.errors.borrow_mut().split_off(noted)
    }

    /// All that was noted, once every section is dropped.
    pub(super) fn finish(&self) -> (Vec<ConfigError>, Vec<Asked>) {
        (self.errors.take(), self.asked.take())
    }

    fn note(&self, at: Option<Range<usize>>, key: String, problem: String, missing: bool) {
        let line = at.map(|at| {
            1 + self.text.as_bytes()[..at.start.min(self.text.len())].iter().filter(|b| **b == b'\n').count()
        });
        self.errors.borrow_mut().push(ConfigError { line, key, problem, missing });
    }
}

/// A table, or one that is absent and so has all defaults. Keys that nobody asked for are errors when it is dropped.
#[derive(Debug)]
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    table: Option<&'a DeTable<'a>>,
    path: String,
    at: Option<Range<usize>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn table(&self, key: &'static str) -> Section<'a> {
        self.known.borrow_mut().push(key);
        let mut section = self.absent(key);
        if let Some(value) = self.table.and_then(|table| table.get(key)) {
            section.at = Some(value.span());
            match value.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                other => {
                    self.wrong(key, Some(value.span()), format!("is {}; write a table [{}]", kind(other), section.path))
                }
            }
        }
        section
    }

    /// Tables written as `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        self.known.borrow_mut().push(key);
        let Some(value) = self.table.and_then(|table| table.get(key)) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(key, Some(value.span()), format!("is {}; write tables [[{key}]]", kind(value.get_ref())));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            let mut section = self.absent(key);
            section.at = Some(item.span());
            match item.get_ref() {
                DeValue::Table(table) => {
                    section.table = Some(table);
                    sections.push(section);
                }
                other => self.wrong(key, Some(item.span()), format!("holds {}; write tables [[{key}]]", kind(other))),
            }
        }
        sections
    }

    fn absent(&self, key: &str) -> Section<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Section { reader: self.reader, table: None, path, at: None, known: RefCell::default() }
    }

    /// Whether the key stands in the file.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// An error of this key that more than one value make together.
    pub(super) fn refuse(&self, key: &str, problem: impl Into<String>) {
        let span = self.table.and_then(|table| table.get(key)).map(Spanned::span);
        self.wrong(key, span.or_else(|| self.at.clone()), problem.into());
    }

    /// A required key that may stand under either of two names, and stands under none.
    pub(super) fn absent_key(&self, key: &str, problem: &str) {
        self.reader.note(self.at.clone(), self.key(key), problem.to_owned(), true);
    }

    fn wrong(&self, key: &str, at: Option<Range<usize>>, problem: String) {
        self.reader.note(at, self.key(key), problem, false);
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn ask(&self, key: &'static str, default: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        let asked = Asked { section: self.path.clone(), key, default: default.to_owned() };
        let mut all = self.reader.asked.borrow_mut();
        if !all.contains(&asked) {
            all.push(asked);
        }
        self.table.and_then(|table| table.get(key))
    }

    /// Outer `None`: an error was noted. Inner `None`: the key is absent.
    fn text_value(&self, key: &'static str, default: &str, example: &str) -> Option<Option<(&'a str, Range<usize>)>> {
        let Some(value) = self.ask(key, default) else { return Some(None) };
        match value.get_ref() {
            DeValue::String(text) => Some(Some((text, value.span()))),
            DeValue::Integer(number) => {
                let problem = format!("{number} is a number; write a text in quotes, for example {example:?}");
                self.wrong(key, Some(value.span()), problem);
                None
            }
            other => {
                let problem = format!("is {}; write a text in quotes, for example {example:?}", kind(other));
                self.wrong(key, Some(value.span()), problem);
                None
            }
        }
    }

    /// A text that `parse` makes sense of, with a default, which must be valid.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.text_value(key, default, default)? {
            Some((text, span)) => self.accept(key, span, parse(text)),
            None => match parse(default) {
                Ok(value) => Some(value),
                Err(problem) => {
                    self.refuse(key, format!("the default {default:?} does not do: {problem}; set this key"));
                    None
                }
            },
        }
    }

    /// A text that must be there; `example` is shown when it is not.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if let Some((text, span)) = self.text_value(key, "required", example)? {
            return self.accept(key, span, parse(text));
        }
        self.absent_key(key, &format!("is missing; write for example {key} = {example:?}"));
        None
    }

    /// A text that may be absent. Outer `None`: an error was noted.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        default: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.text_value(key, default, example)? {
            Some((text, span)) => self.accept(key, span, parse(text)).map(Some),
            None => Some(None),
        }
    }

    /// A secret in the file itself under `key`, or the first line of the file named under `file_key`; not both.
    pub(super) fn secret<T>(
        &self,
        key: &'static str,
        file_key: &'static str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let here = self.optional(key, "none", example, &parse);
        let from_file = self.optional(file_key, "none", "/etc/mtxfleet/secret", |name| {
            let mut text = String::new();
            let path = self.reader.folder.join(name);
            // Bounded: a wrong name may be a device that never ends.
            std::fs::File::open(&path).and_then(|file| file.take(4096).read_to_string(&mut text)).map_err(|error| {
                format!("{} cannot be read: {error}; make it, readable to the agent", path.display())
            })?;
            parse(text.lines().next().unwrap_or_default().trim()).map_err(|problem| format!("its content {problem}"))
        });
        if self.has(key) && self.has(file_key) {
            self.refuse(file_key, format!("stands beside {key}; keep one of the two"));
            return None;
        }
        Some(here?.or(from_file?))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, default: &str, choices: &[(&str, T)]) -> Option<T> {
        self.read(key, default, |text| find(text, choices))
    }

    /// One of a few words, or none. Outer `None`: an error was noted.
    pub(super) fn optional_choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<Option<T>> {
        self.optional(key, "none", choices[0].0, |text| find(text, choices))
    }

    pub(super) fn required_choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.required(key, choices[0].0, |text| find(text, choices))
    }

    pub(super) fn duration(&self, key: &'static str, default: &str, range: RangeInclusive<&str>) -> Option<Duration> {
        let bound = |text: &str| units::duration(text).expect("a range in the source is valid");
        let (least, most) = (bound(range.start()), bound(range.end()));
        self.read(key, default, |text| {
            let value = units::duration(text)?;
            let (low, high) = (units::show_duration(least), units::show_duration(most));
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(format!("{text:?} is out of range; give {low} to {high}"))
            }
        })
    }

    pub(super) fn bitrate(&self, key: &'static str, default: &str) -> Option<Bitrate> {
        self.read(key, default, |text| {
            units::bitrate(text).and_then(|rate| if rate.0 > 0 { Ok(rate) } else { Err("must be over 0".to_owned()) })
        })
    }

    pub(super) fn size(&self, key: &'static str, default: &str) -> Option<u64> {
        self.read(key, default, units::size)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> Option<bool> {
        self.flag_or(key, default, &default.to_string())
    }

    /// A flag whose default is not this program's. Outer `None`: an error was noted.
    pub(super) fn optional_flag(&self, key: &'static str, shown: &str) -> Option<Option<bool>> {
        let value = self.flag_or(key, false, shown)?;
        Some(self.has(key).then_some(value))
    }

    /// Where files are sought that this one names.
    pub(super) fn folder(&self) -> &std::path::Path {
        &self.reader.folder
    }

    /// Drops it without a word on its keys.
    pub(super) fn ignore(mut self) {
        self.table = None;
    }

    /// `shown` is how the documentation calls a default that depends on other keys.
    pub(super) fn flag_or(&self, key: &'static str, default: bool, shown: &str) -> Option<bool> {
        let Some(value) = self.ask(key, shown) else { return Some(default) };
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        let problem = format!("is {}; write true or false, without quotes", kind(value.get_ref()));
        self.wrong(key, Some(value.span()), problem);
        None
    }

    pub(super) fn integer(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Option<u64> {
        self.integer_or(key, default, &default.to_string(), range)
    }

    /// `shown` is how the documentation calls a default that depends on other keys.
    pub(super) fn integer_or(
        &self,
        key: &'static str,
        default: u64,
        shown: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let Some(value) = self.ask(key, shown) else { return Some(default) };
        let number = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let (least, most) = range.clone().into_inner();
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                let what = describe(value.get_ref());
                let problem =
                    format!("{what} does not do; write a whole number from {least} to {most}, without quotes");
                self.wrong(key, Some(value.span()), problem);
                None
            }
        }
    }

    /// A whole number that may be absent. Outer `None`: an error was noted.
    pub(super) fn optional_integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<Option<u64>> {
        let number = self.integer_or(key, 0, "none", range)?;
        Some(self.has(key).then_some(number))
    }

    /// The same for any number.
    pub(super) fn optional_number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<Option<f64>> {
        let number = self.number_or(key, 0.0, "none", range)?;
        Some(self.has(key).then_some(number))
    }

    pub(super) fn number(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> Option<f64> {
        self.number_or(key, default, &default.to_string(), range)
    }

    fn number_or(&self, key: &'static str, default: f64, shown: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let Some(value) = self.ask(key, shown) else { return Some(default) };
        let number = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let (least, most) = range.into_inner();
        let what = describe(value.get_ref());
        let problem = format!("{what} does not do; write a number from {least} to {most}, without quotes");
        self.wrong(key, Some(value.span()), problem);
        None
    }

    /// A list of texts (empty); every wrong item is named.
    pub(super) fn list<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let Some(value) = self.ask(key, "[]") else { return Some(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            let problem = format!("is {}; write a list such as [\"a\", \"b\"]", kind(value.get_ref()));
            self.wrong(key, Some(value.span()), problem);
            return None;
        };
        let mut all = Some(Vec::new());
        for item in items.iter() {
            let parsed = match item.get_ref() {
                DeValue::String(text) => parse(text),
                other => Err(format!("holds {}; write texts in quotes", kind(other))),
            };
            match (self.accept(key, item.span(), parsed), &mut all) {
                (Some(value), Some(list)) => list.push(value),
                _ => all = None,
            }
        }
        all
    }

    fn accept<T>(&self, key: &str, span: Range<usize>, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|problem| self.wrong(key, Some(span), problem)).ok()
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter().flat_map(|table| table.iter()) {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let near = known.iter().map(|known| (distance(name, known), known)).min();
                // A word of three letters is two letters away from too many others.
                let near = near.filter(|(far, known)| *far <= 2 && far * 2 < name.len().max(known.len()));
                let hint = near.map_or_else(
                    || "take it away; docs/ref/config.md has every key".to_owned(),
                    |(_, known)| format!("did you mean {known:?}?"),
                );
                self.wrong(name, Some(key.span()), format!("is no known key; {hint}"));
            }
        }
    }
}

/// For `FromStr` types whose errors say what to write.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn find<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| format!("{text:?} is not known; write {}", names.join(" or ")))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

/// Edit distance (Levenshtein), for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
