//! Errors of a configuration, all of them.

/// One error: where it is, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// From 1; `None` when what is missing has no place in the file.
    pub line: Option<usize>,
    /// Such as `drain.worker_deadline`; empty for errors of TOML itself.
    pub key: String,
    pub problem: String,
    /// A key that has to be there and is not.
    pub(super) missing: bool,
}

impl ConfigError {
    /// For a text that was never a file: its place instead of a line.
    pub(super) fn at_no_line(self, place: &str) -> Self {
        let key = self.key.strip_prefix("camera.").unwrap_or(&self.key);
        Self { line: None, key: format!("{place}: {key}"), ..self }
    }
}

/// Every error of one file, in the order of its lines. `Display` writes one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        Self { file: file.to_owned(), errors }
    }

    pub(super) fn one(file: &str, problem: String) -> Self {
        Self::new(file, vec![ConfigError { line: None, key: String::new(), problem, missing: false }])
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }

    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// One text for each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.errors.iter().map(|error| {
            let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
            let key = if error.key.is_empty() { String::new() } else { format!("{}: ", error.key) };
            format!("{}{line}: {key}{}", self.file, error.problem)
        })
    }

    /// The first line; empty when there is none.
    #[must_use]
    pub fn first(&self) -> String {
        self.lines().next().unwrap_or_default()
    }
}

impl std::error::Error for ConfigErrors {}

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}
