//! What holds for the sources themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder, in order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|end| end == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// A file of `src` as a module: `rendezvous/mod.rs` is `rendezvous`, `process/host.rs` is `process/host`.
fn module(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).expect("below src").with_extension("");
    let name = path.to_str().expect("plain names");
    name.strip_suffix("/mod").unwrap_or(name).to_string()
}

/// The floors that docs/architecture.md has in its table: each path, and its floor.
fn floors() -> BTreeMap<String, u32> {
    let text = read(&root().join("docs/architecture.md"));
    let mut floors = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        let mut cells = row.split('|').map(str::trim);
        let (Some(Ok(floor)), Some(paths)) = (cells.next().map(str::parse), cells.next()) else { continue };
        for path in paths.split('`').skip(1).step_by(2) {
            assert!(floors.insert(path.to_string(), floor).is_none(), "{path} has two floors");
        }
    }
    floors
}

/// The floor of a module: that of the longest path in the table which it is, or lies below.
fn floor(module: &str, floors: &BTreeMap<String, u32>) -> u32 {
    let paths = module.match_indices('/').map(|(at, _)| &module[..at]).chain([module]);
    let found = paths.filter_map(|path| floors.get(path)).next_back();
    *found.unwrap_or_else(|| panic!("src/{module}.rs has no floor in docs/architecture.md"))
}

/// The code of a file without comments and without what is compiled for tests only, which stands at the end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let without = |line: &str| line.split("//").next().unwrap_or_default().to_string();
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree names: `a::{b, c::d}` are `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_string()] };
    let inner = rest.rsplit_once('}').expect("a closed brace").0;
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(part).into_iter().map(|path| format!("{prefix}{path}"))).collect()
}

/// The paths that follow each `word` in some code: up to the `;` in a `use`, else the names that are joined by `::`.
fn paths_after<'t>(code: &'t str, word: &'t str) -> impl Iterator<Item = String> + 't {
    code.match_indices(word).flat_map(move |(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        if before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':') {
            return Vec::new();
        }
        let statement = before.rsplit(['\n', ';', '}']).next().unwrap_or_default().trim();
        match statement.ends_with("use") {
            true => expand(after.split(';').next().unwrap_or_default()),
            false => {
                let end = after.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
                vec![after[..end.unwrap_or(after.len())].to_string()]
            }
        }
    })
}

/// The modules that a module names, by `crate::` and by `super::`.
fn named(module: &str, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code = code(text);
    let parent = |levels: usize| {
        let mut path: Vec<&str> = module.split('/').collect();
        // The parent of `a/mod.rs` is that of `a`; the parent of `a/b.rs` is `a`: one step each.
        path.truncate(path.len().saturating_sub(levels));
        path.join("/")
    };
    let from_root = paths_after(&code, "crate::");
    let from_parent = paths_after(&code, "super::").map(|path| {
        let levels = 1 + path.matches("super::").count();
        format!("{}/{}", parent(levels), path.trim_start_matches("super::"))
    });
    let known = |path: String| {
        let path = path.replace("::", "/");
        let path = path.trim_start_matches('/');
        let prefixes = path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]);
        prefixes.rev().find(|prefix| modules.contains(*prefix)).map(str::to_string)
    };
    from_root.chain(from_parent).filter_map(known).filter(|other| other != module).collect()
}

/// What each module names.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    // What is for tests, and for fuzzers, stands beside the house.
    let aside = |name: &str| name.split('/').any(|part| ["tests", "simulation", "mock"].contains(&part));
    let files = sources(&root().join("src"));
    let files = files.iter().map(|file| (module(file), file));
    let files: Vec<_> =
        files.filter(|(name, _)| !aside(name) && !["lib", "fuzzing"].contains(&name.as_str())).collect();
    let modules = files.iter().map(|(name, _)| name.clone()).collect();
    let named = |(name, file): &(String, &PathBuf)| (name.clone(), named(name, &read(file), &modules));
    files.iter().map(named).collect()
}

fn room(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

#[test]
fn imports_point_down() {
    let floors = floors();
    let mut up = Vec::new();
    for (from, others) in imports() {
        for to in others {
            let (here, there) = (floor(&from, &floors), floor(&to, &floors));
            // The face of a room shows all of it.
            if there > here && !to.eq(room(&from)) {
                up.push(format!("{from} (floor {here}) imports {to} (floor {there})"));
            }
        }
    }
    assert!(up.is_empty(), "arrows that run up:\n{}", up.join("\n"));
}

#[test]
fn no_two_rooms_import_each_other() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, others) in imports() {
        for to in others.iter().filter(|to| room(to) != room(&from)) {
            arrows.entry(room(&from).to_string()).or_default().insert(room(to).to_string());
        }
    }
    // Rooms that import only rooms which were taken out already are taken out, until none is left but those in circles.
    loop {
        let free: Vec<String> = arrows
            .iter()
            .filter(|(_, others)| others.iter().all(|other| !arrows.contains_key(other)))
            .map(|(room, _)| room.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|room| drop(arrows.remove(room)));
    }
    assert!(arrows.is_empty(), "rooms that import each other, by themselves or in a circle: {arrows:?}");
}

#[test]
fn a_use_tree_is_understood() {
    assert_eq!(expand("a::{b, c::{d, e}, f}"), ["a::b", "a::c::d", "a::c::e", "a::f"]);
    let modules = ["a", "a/b", "c/d", "c"].map(str::to_string).into();
    let named = |text: &str| named("c/e", text, &modules).into_iter().collect::<Vec<_>>();
    assert_eq!(named("use crate::a::b::T;\nfn f() { crate::c::g() }"), ["a/b", "c"]);
    assert_eq!(named("use super::d::{self, T};\n// crate::a\n"), ["c/d"]);
    assert_eq!(named("pub use crate::{a, error::Error};"), ["a"]);
}
