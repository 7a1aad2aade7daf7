//! The files of the page, and parts of them put together for pages without a server.

use std::fmt::Write as _;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WebFile {
    /// Its path below `web/`, and below `/journeys/assets/`.
    pub(crate) name: &'static str,
    /// Its text.
    pub(crate) body: &'static str,
}

impl WebFile {
    pub(crate) fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// Another one for another text: FNV-1a, 64 bits. No secret hangs on it.
    pub(crate) fn entity_tag(&self) -> String {
        let hash = self.body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("\"{hash:016x}\"")
    }
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(WebFile { name: $name, body: include_str!(concat!("../web/", $name)) }),*]
    };
}

pub(crate) const PAGE_FILE: WebFile = WebFile { name: "index.html", body: include_str!("../web/index.html") };

/// All files below `web/` but the page itself and the notes on it.
pub(crate) const FILES: &[WebFile] = &files![
    "app.js",
    "data/buckets.js",
    "data/company.js",
    "data/explain.js",
    "data/journey.js",
    "data/live.js",
    "data/stats.js",
    "data/summary.js",
    "data/why.js",
    "draw/chart.js",
    "draw/journey.js",
    "draw/ledger.js",
    "draw/live.js",
    "draw/pieces.js",
    "draw/scatter.js",
    "draw/waterfall.js",
    "draw/why.js",
    "icon.svg",
    "lib/colors.js",
    "lib/dom.js",
    "lib/format.js",
    "net/client.js",
    "net/live.js",
    "net/recent.js",
    "style/base.css",
    "style/drawings.css",
    "style/tokens.css",
    "style/views.css",
    "views/journey.js",
    "views/key.js",
    "views/now.js",
    "views/recent.js",
    "views/table.js",
    "views/why.js",
];

/// Why modules could not be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A module imports one that is not there.
    #[error("{importer} imports {imported:?}, which is no file of the page")]
    NoSuchModule {
        /// The module with the import.
        importer: String,
        /// What it wanted.
        imported: String,
    },
    /// A line is not of one of the forms that `web/README.md` lists.
    #[error("{module}: cannot read the line {line:?}; imports and exports have forms of their own here")]
    UnreadableLine {
        /// The module.
        module: String,
        /// The line.
        line: String,
    },
    /// Modules import each other in a circle.
    #[error("{0} imports itself, by way of others")]
    Circle(String),
}

/// One script, without imports, of a module named `entry` with this text and all modules of the page that it
/// imports. Each keeps its names to itself. It is for an inline `<script type="module">`: a closing script tag
/// in any string is made harmless.
///
/// # Errors
/// When `source` or what it imports does not keep to the rules of `web/README.md`.
pub fn bundle(entry: &str, source: &str) -> Result<String, BundleError> {
    let mut bundle = Bundle::default();
    bundle.add(entry, source)?;
    Ok(bundle.script.replace("</", "<\\/"))
}

/// The style sheets that the modules in `web/draw/` need, as one.
#[must_use]
pub fn style_sheet() -> String {
    let wanted = ["style/tokens.css", "style/base.css", "style/drawings.css"];
    let bodies = wanted.iter().filter_map(|name| FILES.iter().find(|file| file.name == *name));
    bodies.map(|file| file.body).collect()
}

#[derive(Debug, Default)]
struct Bundle {
    script: String,
    /// Modules that are in the script.
    done: Vec<String>,
    /// Modules whose imports are being added.
    open: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, source: &str) -> Result<(), BundleError> {
        if self.done.iter().any(|one| one == name) {
            return Ok(());
        }
        if self.open.iter().any(|one| one == name) {
            return Err(BundleError::Circle(name.to_owned()));
        }
        self.open.push(name.to_owned());
        let (mut body, mut exported) = (String::new(), Vec::new());
        for line in source.lines() {
            let unreadable = || BundleError::UnreadableLine {
                module: name.to_owned(),
                line: line.chars().take(120).collect(),
            };
            if line.starts_with("import ") {
                let (names, path) = read_import(line).ok_or_else(unreadable)?;
                let imported = resolve(name, path);
                let file = FILES.iter().find(|file| file.name == imported).ok_or_else(|| {
                    BundleError::NoSuchModule { importer: name.to_owned(), imported: imported.clone() }
                })?;
                self.add(file.name, file.body)?;
                let _ =
                    writeln!(body, "const {{ {} }} = {};", names.replace(" as ", ": "), variable(&imported));
            } else if let Some(declaration) = line.strip_prefix("export ") {
                exported.push(read_export(declaration).ok_or_else(unreadable)?);
                let _ = writeln!(body, "{declaration}");
            } else {
                let _ = writeln!(body, "{line}");
            }
        }
        let _ = writeln!(
            self.script,
            "const {} = (() => {{\n{body}return {{ {} }};\n}})();",
            variable(name),
            exported.join(", ")
        );
        self.open.pop();
        self.done.push(name.to_owned());
        Ok(())
    }
}

/// The names and the path of `import { a, b as c } from "./d.js";`.
fn read_import(line: &str) -> Option<(&str, &str)> {
    let (names, rest) = line.strip_prefix("import {")?.split_once('}')?;
    let path = rest.trim().strip_prefix("from \"")?.strip_suffix("\";")?;
    Some((names.trim(), path))
}

/// The name that a declaration after `export` declares.
fn read_export(declaration: &str) -> Option<&str> {
    let kinds = ["async function* ", "async function ", "function* ", "function ", "class ", "const "];
    let rest = kinds.iter().find_map(|kind| declaration.strip_prefix(kind))?;
    let end = rest.find(|one: char| !one.is_ascii_alphanumeric() && one != '_' && one != '$')?;
    rest.get(..end).filter(|name| !name.is_empty())
}

/// The path of an import, from the root of the modules.
fn resolve(importer: &str, path: &str) -> String {
    let folder = importer.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The variable that holds what a module exports.
fn variable(name: &str) -> String {
    let plain = name.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '_' });
    format!("module_{}", plain.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn files_below(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files_below(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }

    #[test]
    fn every_file_is_in_the_program() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut found = BTreeSet::new();
        files_below(&root, &root, &mut found);
        assert!(found.remove("README.md") && found.remove(PAGE_FILE.name));
        let listed: BTreeSet<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn every_module_can_be_bundled() {
        for file in FILES.iter().filter(|file| file.name.ends_with(".js")) {
            let script = bundle(file.name, file.body).unwrap();
            assert!(!script.lines().any(|line| line.starts_with("import ") || line.starts_with("export ")));
        }
    }

    #[test]
    fn a_bundle_has_what_is_imported_once_and_first() {
        let entry = "import { duration as d } from \"./lib/format.js\";\nimport { explain } from \"./data/explain.js\";\n\
                     export const it = () => d(1) + \"</script>\";\n";
        let script = bundle("report.js", entry).unwrap();
        let (format, report) = ("const module_lib_format_js = ", "const module_report_js = ");
        assert_eq!(script.matches(format).count(), 1);
        assert!(script.find(format) < script.find(report));
        assert!(script.ends_with(
            "const { duration: d } = module_lib_format_js;\nconst { explain } = module_data_explain_js;\n\
             const it = () => d(1) + \"<\\/script>\";\nreturn { it };\n})();\n"
        ));
        assert!(!script.contains("</script>"));
    }

    #[test]
    fn what_cannot_be_bundled_is_refused() {
        let missing = bundle("a.js", "import { b } from \"./b.js\";").unwrap_err();
        assert_eq!(missing.to_string(), "a.js imports \"b.js\", which is no file of the page");
        for line in [
            "import b from \"./lib/dom.js\";",
            "export default 1;",
            "export { a };",
            "import \"./lib/dom.js\";",
        ] {
            assert!(matches!(bundle("a.js", line), Err(BundleError::UnreadableLine { .. })), "{line}");
        }
    }

    #[test]
    fn drawings_have_their_styles() {
        let sheet = style_sheet();
        assert!([":root", ".ledger-bar", ".waterfall"].iter().all(|wanted| sheet.contains(wanted)));
    }
}
