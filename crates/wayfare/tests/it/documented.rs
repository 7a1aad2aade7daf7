//! The pages that say which test proves what.

use std::fs;
use std::path::Path;

fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_pages_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    read_sources(&root.join("crates"), &mut sources);
    for (page, at_least) in [("docs/behaviours.md", 60), ("docs/audit.md", 30)] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let named: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
            .flat_map(|tests| tests.split('`').skip(1).step_by(2))
            // A file is named, too, where no test is.
            .filter(|name| !name.contains('/'))
            .collect();
        assert!(named.len() > at_least, "{page} has been read: {named:?}");
        let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:#?}");
    }
}
