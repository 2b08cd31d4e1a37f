//! The subset of YAML that is written, small enough to be read back by a hundred lines:
//!
//! - block mappings and block sequences, two blanks per level; empty ones as `{}` and `[]`;
//! - keys bare when they are `[A-Za-z0-9_]+`, else in double quotes;
//! - scalars exactly as in JSON: `true`, `false`, whole numbers, and strings **always** in double quotes, so that
//!   `"no"` is a text and never a truth value;
//! - comments on lines of their own. No anchors, tags, flow mappings, block scalars or several documents.

#[derive(Debug, Clone)]
pub(crate) enum Yaml {
    Bool(bool),
    Int(u64),
    Text(String),
    List(Vec<Yaml>),
    Map(Map),
}

/// Entries in the order in which they were put in; comments stand before an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map(Vec<(Option<&'static str>, String, Yaml)>);

impl Map {
    pub(crate) fn put(&mut self, key: &str, value: impl Into<Yaml>) -> &mut Self {
        self.0.push((None, key.to_owned(), value.into()));
        self
    }

    /// `comment` may have several lines.
    pub(crate) fn put_explained(&mut self, comment: &'static str, key: &str, value: impl Into<Yaml>) -> &mut Self {
        self.0.push((Some(comment), key.to_owned(), value.into()));
        self
    }

    pub(crate) fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        for (comment, key, value) in &self.0 {
            for line in comment.iter().flat_map(|text| text.lines()) {
                indent(out, depth);
                out.push_str("# ");
                out.push_str(line);
                out.push('\n');
            }
            indent(out, depth);
            if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.is_empty() {
                out.push_str(key);
            } else {
                quote(out, key);
            }
            out.push(':');
            value.write_after_key(out, depth);
        }
    }
}

impl Yaml {
    fn write_after_key(&self, out: &mut String, depth: usize) {
        match self {
            Self::Map(map) if !map.0.is_empty() => {
                out.push('\n');
                map.write(out, depth + 1);
            }
            Self::List(items) if !items.is_empty() => {
                out.push('\n');
                for item in items {
                    indent(out, depth + 1);
                    out.push('-');
                    item.write_item(out, depth + 1);
                }
            }
            scalar => {
                out.push(' ');
                scalar.write_scalar(out);
                out.push('\n');
            }
        }
    }

    /// After the `-`: a mapping begins on the same line, its later keys stand under the first.
    fn write_item(&self, out: &mut String, depth: usize) {
        if let Self::Map(map) = self
            && !map.0.is_empty()
        {
            let mut text = String::new();
            map.write(&mut text, depth + 1);
            out.push(' ');
            out.push_str(text.trim_start_matches(' '));
        } else {
            self.write_after_key(out, depth);
        }
    }

    fn write_scalar(&self, out: &mut String) {
        match self {
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => out.push_str(&value.to_string()),
            Self::Text(text) => quote(out, text),
            Self::List(_) => out.push_str("[]"),
            Self::Map(_) => out.push_str("{}"),
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// A JSON string, which is also a YAML double-quoted scalar (YAML 1.2, 7.3.1).
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

impl From<bool> for Yaml {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Yaml {
    fn from(value: u64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<std::net::SocketAddr> for Yaml {
    fn from(address: std::net::SocketAddr) -> Self {
        Self::Text(address.to_string())
    }
}

impl From<std::time::Duration> for Yaml {
    fn from(value: std::time::Duration) -> Self {
        Self::Text(crate::setting::duration(value))
    }
}

impl From<Map> for Yaml {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl<T: Into<Yaml>> From<Vec<T>> for Yaml {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_quoted_and_escaped() {
        let mut map = Map::default();
        map.put("rtspEncryption", "no").put("~^(.+)$", "a \"b\" \\ c\n").put("n", 7).put("empty", Vec::<Yaml>::new());
        let expected = "rtspEncryption: \"no\"\n\"~^(.+)$\": \"a \\\"b\\\" \\\\ c\\n\"\nn: 7\nempty: []\n";
        assert_eq!(map.document(), expected);
    }

    #[test]
    fn a_list_of_mappings_keeps_its_keys_in_one_column() {
        let mut inner = Map::default();
        inner.put("user", "any").put("ips", vec!["127.0.0.1", "::1"]);
        let mut map = Map::default();
        map.put_explained("who may\nread", "users", vec![inner]);
        let expected = concat!(
            "# who may\n# read\nusers:\n  - user: \"any\"\n    ips:\n",
            "      - \"127.0.0.1\"\n      - \"::1\"\n"
        );
        assert_eq!(map.document(), expected);
    }
}
