//! Makes the header, names the shared library, makes it a program too, and builds the watcher it carries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    // The package of the fuzzers is one below.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package
        .ancestors()
        .find(|path| path.join("cbindgen.toml").exists())
        .expect("the sources")
        .to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    // By which `fuzz/` finds what it tries.
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    header(&root, &out);
    if package == root {
        link_arguments();
        library_as_program(&root, &out);
    }
    watcher(&root, &out);
}

/// Writes `$OUT_DIR/ice.h`; a test compares it with `include/ice.h`.
fn header(root: &Path, out: &Path) {
    println!("cargo::rerun-if-changed=src/ffi");
    println!("cargo::rerun-if-changed=cbindgen.toml");
    println!("cargo::rerun-if-changed=include");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new()
        .with_config(config)
        .with_header(fs::read_to_string(root.join("src/ffi/preface.h")).expect("the preface"));
    // The order of the header: a reader meets each noun before what uses it.
    for noun in [
        "status",
        "log",
        "worker",
        "control",
        "spec",
        "options",
        "spec_work",
        "assignment",
        "spec_surroundings",
        "spec_restart",
        "on_signal",
        "spec_control",
        "spec_output",
        "spec_events",
        "result",
        "rendezvous",
        "rendezvous_place",
        "snapshot",
        "plan",
        "scheduler",
        "agent",
        "request",
        "device",
        "store_server",
        "store",
    ] {
        builder = builder.with_src(root.join(format!("src/ffi/{noun}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().expect("the header").write(&mut header);
    fs::write(out.join("ice.h"), c89_comments(&String::from_utf8(header).expect("text"))).expect("OUT_DIR");
}

/// `//` comments as `/* */`: C89 has no others.
fn c89_comments(header: &str) -> String {
    let lines: Vec<&str> = header.lines().collect();
    let comment = |index: usize| lines.get(index).and_then(|line| line.trim_start().strip_prefix("//"));
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if let Some(text) = comment(index) {
            let first = index == 0 || comment(index - 1).is_none();
            let last = comment(index + 1).is_none();
            let (start, end) = (if first { "/*" } else { " *" }, if last { " */" } else { "" });
            out += &format!("{indent}{start}{text}{end}\n");
        } else if let (true, Some((before, after))) = (line.starts_with('#'), line.split_once("//")) {
            out += &format!("{before}/*{after} */\n");
        } else {
            out += &format!("{line}\n");
        }
    }
    out
}

fn link_arguments() {
    let version = |part| env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it");
    // The rule of cargo-c: before 1.0 each minor version is an ABI of its own.
    let soname = match version("MAJOR").as_str() {
        "0" => format!("libice.so.0.{}", version("MINOR")),
        major => format!("libice.so.{major}"),
    };
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    // dlclose must not unmap the code of a running agent's thread.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// Gives the shared library an entry and the name of the loader that runs it: see `src/sys/library.rs`.
fn library_as_program(root: &Path, out: &Path) {
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return;
    }
    let object = out.join("interpreter.o");
    let mut rustc = rustc(&root.join("src/sys/interpreter.rs"));
    rustc.args(["--crate-name", "ice_interpreter", "--crate-type", "lib", "--emit", "obj"]);
    rustc.args(["-C", "panic=abort", "-C", "codegen-units=1"]);
    run(rustc.arg("-o").arg(&object));
    println!("cargo::rustc-cdylib-link-arg={}", object.display());
    println!("cargo::rustc-cdylib-link-arg=-Wl,-e,ice_library_start");
}

/// Builds `src/sys/watcher.rs` as a program of its own, free of any library: some kilobytes that the
/// library carries and runs from memory, so that nothing needs to be installed beside it.
fn watcher(root: &Path, out: &Path) {
    println!("cargo::rerun-if-changed=src/sys/raw.rs");
    let compile = |link: &[&str], linker: Option<String>| {
        let mut rustc = rustc(&root.join("src/sys/watcher.rs"));
        rustc.args(["--crate-name", "ice_watcher", "--crate-type", "bin"]);
        rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "relocation-model=static"]);
        rustc.args(link.iter().flat_map(|argument| ["-C", argument]));
        rustc.args(["-C", "strip=symbols", "-C", "default-linker-libraries=no"]);
        if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
            // rustc would bring start files of its own there.
            rustc.args(["-C", "link-self-contained=no"]);
        }
        rustc.args(linker.iter().flat_map(|linker| ["-C".into(), format!("linker={linker}")]));
        rustc.arg("-o").arg(out.join("ice-watcher"));
        rustc
    };
    let by_compiler = [
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack",
    ];
    let linker = env::var_os("RUSTC_LINKER").map(|linker| linker.to_string_lossy().into_owned());
    if compile(&by_compiler, linker).status().is_ok_and(|status| status.success()) {
        return;
    }
    // A linker that does not take these words, as zig's: rustc has one of its own.
    let by_lld = [
        "linker-flavor=ld.lld",
        "link-arg=-static",
        "link-arg=--build-id=none",
        "link-arg=-znoseparate-code",
        "link-arg=-znorelro",
        "link-arg=-znoexecstack",
    ];
    run(&mut compile(&by_lld, Some("rust-lld".into())));
}

/// The compiler for a source that is not part of the crate.
fn rustc(source: &Path) -> Command {
    println!("cargo::rerun-if-changed={}", source.display());
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.arg(source).args(["--edition", "2024", "--target", &env::var("TARGET").expect("cargo sets it")]);
    rustc
}

fn run(command: &mut Command) {
    let status = command.status().expect("rustc starts");
    assert!(status.success(), "it does not build: {command:?}");
}
