//! The sources keep to their layout: who may import whom, what a pure file does not touch, no panic on purpose without
//! a reason, no path of one machine.

use std::path::{Path, PathBuf};

/// What each subsystem may import of this crate. What is not named here (`config`, `cli`, `main`, `lib`) may import all,
/// and nobody imports it.
const MAY_IMPORT: [(&str, &[&str]); 7] = [
    ("term", &[]),
    ("dist", &["term"]),
    ("redo", &[]),
    ("nsync", &["redo"]),
    ("grid", &["dist", "redo", "term"]),
    ("tempo", &["grid", "redo", "term"]),
    ("node", &["dist", "grid", "nsync", "redo", "tempo", "term"]),
];

/// What waits, reads a clock, opens a socket or starts something.
const IMPURE: [&str; 9] = [
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "lookup_host",
    "Instant::now",
    "SystemTime::now",
    "thread::",
    "std::fs",
];

#[test]
fn a_subsystem_imports_only_what_the_table_permits() {
    for (path, code) in sources() {
        let own = subsystem(&path);
        let Some((_, permitted)) = MAY_IMPORT.iter().find(|(name, _)| *name == own) else {
            continue;
        };
        for import in imports(&code) {
            let fine = import == own || permitted.contains(&import.as_str());
            assert!(fine, "{} imports crate::{import}", path.display());
        }
        // From there `super` would be the crate itself.
        let escapes = path.ends_with("mod.rs") && path.components().count() == 2;
        assert!(
            !(escapes && code.contains("super::")),
            "{} imports super::",
            path.display()
        );
    }
}

#[test]
fn a_pure_file_touches_neither_clock_nor_socket() {
    let mut pure = 0;
    for (path, code) in sources() {
        let header = code.lines().take_while(|line| line.starts_with("//! "));
        let says_so = header.collect::<String>().to_lowercase();
        let words = ["pure.", "pure:", "pure but", "a pure machine"];
        let of_term = subsystem(&path) == "term";
        if of_term || words.iter().any(|word| says_so.contains(word)) {
            pure += 1;
            for (number, line) in lines(&code) {
                let impure = IMPURE.iter().find(|word| line.contains(*word));
                assert_eq!(impure, None, "{}:{number}: {line}", path.display());
            }
        }
    }
    assert!(pure > 15, "only {pure} files were found to be pure");
}

#[test]
fn no_panic_on_purpose_without_a_reason() {
    for (path, code) in sources() {
        let mut reason = false;
        for (number, line) in lines(&code) {
            let panics = [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "unreachable!(",
                "todo!(",
            ];
            // The parser of terms has a method of that name.
            let line = line.replace("self.expect(", "");
            let panics = panics.iter().any(|word| line.contains(word));
            assert!(!panics || reason, "{}:{number}: {line}", path.display());
            reason = line.trim_start().starts_with("// ");
        }
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut of_this_machine = vec![root.display().to_string()];
    of_this_machine.extend(["work/", "root/."].map(|place| format!("/{place}")));
    let mut files = Vec::new();
    for folder in [
        "src",
        "tests",
        "docs",
        "erlang_tests",
        "rebar_fixture/src",
        ".ci",
    ] {
        walk(&root.join(folder), &mut files);
    }
    files.extend(["README.md", "Makefile", "Cargo.toml"].map(|file| root.join(file)));
    for path in files {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let found = of_this_machine
            .iter()
            .find(|place| text.contains(place.as_str()));
        assert_eq!(found, None, "{}", path.display());
    }
}

/// The files under `src`, by their paths in it, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files.retain(|path| {
        path.extension().is_some_and(|end| end == "rs")
            && !path.ends_with("tests.rs")
            && !path.components().any(|part| part.as_os_str() == "tests")
    });
    assert!(files.len() > 40, "{files:?}");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source");
        let code = without_tests(&text);
        (path.strip_prefix(&src).expect("under src").to_owned(), code)
    };
    files.into_iter().map(read).collect()
}

/// Leaves out every item behind `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("#[cfg(test)]") else {
            code.push_str(line);
            code.push('\n');
            continue;
        };
        // Formatted code closes an item where it began.
        let end = format!("{indent}}}");
        let first = lines.next().unwrap_or_default();
        if !first.ends_with(';') {
            lines
                .by_ref()
                .take_while(|line| *line != end)
                .for_each(drop);
        }
    }
    code
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        // What `cargo fuzz` leaves in tests/fuzz when it is run by hand.
        let made = ["target", "corpus", "artifacts", "coverage"];
        match path.is_dir() {
            true if made.iter().any(|name| path.ends_with(name)) => {}
            true => walk(&path, into),
            false => into.push(path),
        }
    }
}

fn subsystem(path: &Path) -> String {
    let first = path.iter().next().unwrap_or_default();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Lines of code and comments, numbered; documentation may show what code may not do.
fn lines(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let documents = |line: &str| {
        ["///", "//!"]
            .iter()
            .any(|mark| line.trim_start().starts_with(mark))
    };
    (1..)
        .zip(code.lines())
        .filter(move |(_, line)| !documents(line))
}

/// The modules named in `crate::module` and `crate::{module, module::...}`.
fn imports(code: &str) -> Vec<String> {
    let code: String = lines(code)
        .map(|(_, line)| line.to_owned() + "\n")
        .collect();
    let mut found = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            found.push(first_word(after));
            continue;
        };
        let (mut depth, mut path) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(first_word(&std::mem::take(&mut path))),
                c if depth == 0 => path.push(c),
                _ => {}
            }
        }
        found.push(first_word(&path));
    }
    found.retain(|word| !word.is_empty());
    found
}

fn first_word(path: &str) -> String {
    let of_a_word = |c: &char| c.is_alphanumeric() || *c == '_';
    path.trim_start().chars().take_while(of_a_word).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let code = "use crate::a::{b, c};\nuse crate::{d::{e, f}, g,\n h::i};\n// crate::j\n/// crate::k\n crate::l::m()";
    assert_eq!(imports(code), ["a", "d", "g", "h", "j", "l"]);
}
