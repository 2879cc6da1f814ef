//! The options of a spec by name, as text: one at a time, from a config file, and as a list.

use std::ffi::c_char;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use super::assignment::ice_device_visibility as visibility;
use super::log::ice_log_level as level;
use super::spec::{edit, ice_spec};
use super::spec_surroundings::{ice_cpu_binding as binding, ice_stdin as stdin};
use super::spec_work::{ice_macros as macros, ice_start_method as method};
use super::status::{guard_value, ice_status};
use super::{text, utf8};
use crate::error::{Error, errno_text};
use crate::spec::config_file;
use crate::spec::options::{self, OptionKind, find};

/// A config file of more is a mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// Sets an option by its name, from text: what the function `ice_spec_set_*` of that name does, for hosts that
/// have options as text themselves. `docs/options.md` lists all of them, and `ice_option_at()` tells of each.
///
/// `name` is for instance `max_restarts`, or torchrun's name for it where that is another (`nnodes` for `nodes`);
/// `-` may stand for `_`. How `text` is read depends on the option, see `ice_option_kind`. An option that adds to
/// what is there (`arg`, `env`) adds each time. ICE_ERROR_CONFIG for a name that is none, with the nearest that
/// is one, and for a value that the option does not take, with what would be right.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set(spec: *mut ice_spec, name: *const c_char, text: *const c_char) -> ice_status {
    edit(spec, |spec| find(utf8(name, "name")?)?.set(spec, self::text(text, "text")?))
}

/// Sets the options that a config file names. It is TOML: a key is the name of an option, as for
/// `ice_spec_set()`, its value a number, a text, true or false; an array where the option is a list or adds to
/// what is there; a table where it has pairs (`[env]`, `[rank_env.0]`, `[rendezvous_options]`, `[section_limits]`,
/// `[on_signal]`, `[tee]`). What is set later, by this or by other functions, counts.
///
/// All of the file is set, or nothing. ICE_ERROR_CONFIG, with the line, for a key that is no option, with the nearest
/// that is one, for a value that the option does not take, and for what is no TOML; also for a file that cannot be
/// read, or has more than a mebibyte.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_load(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let path = crate::spec::path("config_file", text(path, "path")?)?;
        config_file::apply(spec, &path.to_string_lossy(), &contents(&path)?)
    })
}

fn contents(path: &Path) -> Result<String, Error> {
    let refuse = |want: String| Error::config("config_file", path.display(), want);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)).map_err(
        |error| refuse(format!("cannot be read: {}", errno_text(error.raw_os_error().unwrap_or(0)))),
    )?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(refuse(format!("has more than {LARGEST_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| refuse("must be UTF-8".into()))
}

/// How the text of an option is read by `ice_spec_set()`.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_option_kind {
    /// `1`, `true`, `yes` or `on`; or `0`, `false`, `no` or `off`.
    ICE_OPTION_FLAG = 0,
    /// A whole number, as Python reads it (`1_000`). A signal is one too, or a name like `SIGTERM` or `usr1`.
    ICE_OPTION_NUMBER = 1,
    /// A number of seconds, as Python reads it.
    ICE_OPTION_SECONDS = 2,
    /// One of the words of `ice_option`.
    ICE_OPTION_WORD = 3,
    /// A text, of a form of its own or any.
    ICE_OPTION_TEXT = 4,
    /// Items with commas between.
    ICE_OPTION_LIST = 5,
    /// One item. An option of this kind may be set several times: each time adds one.
    ICE_OPTION_EACH = 6,
}

/// One option, for hosts that make flags, help or completion of them. All texts are static and never NULL; "" where
/// there is none. Later versions may add fields at the end.
#[repr(C)]
pub struct ice_option {
    /// As in `ice_spec_set()`: `max_restarts`.
    pub name: *const c_char,
    /// Another name that will do: torchrun's where it has another, or that of icerun's flag.
    pub also: *const c_char,
    /// The subject; options of one subject follow each other.
    pub heading: *const c_char,
    /// What a help calls the value: `SECONDS`; "" for a flag. `DIR`, `FILE` and `PATH` are paths.
    pub argument: *const c_char,
    /// Words that the value may be, with blanks between.
    pub words: *const c_char,
    /// The default, as text; "" if nothing is said where the option is not set.
    pub standard: *const c_char,
    /// What it does, in some sentences.
    pub help: *const c_char,
    /// An `ice_option_kind`.
    pub kind: i32,
    /// Of the short form of icerun's flag, or 0.
    pub letter: i32,
    /// Whether icerun has a flag of it.
    pub is_flag_of_icerun: i32,
}

/// All options as C has them.
struct Table {
    rows: Vec<ice_option>,
    /// What the pointers of the rows point to.
    _texts: Vec<u8>,
}

// SAFETY: nothing in it is changed once it is made, and what its pointers point to is its own.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        // One behind the other, as a tool asks for them at each of its starts.
        let mut texts = Vec::new();
        let mut put = |text: &str| {
            let begin = texts.len();
            texts.extend_from_slice(text.as_bytes());
            texts.push(0);
            begin
        };
        let mut places = Vec::new();
        for group in options::GROUPS {
            for row in group.rows {
                let (also, standard) = (row.also.unwrap_or_default(), row.default.unwrap_or_default());
                let words = row.words().join(" ");
                let texts = [row.name, also, group.heading, row.argument, &words, standard, row.help];
                places.push((row, texts.map(&mut put)));
            }
        }
        let text = |at: usize| texts.as_ptr().wrapping_add(at).cast();
        let option = |(row, places): (&options::Row, [usize; 7])| {
            let [name, also, heading, argument, words, standard, help] = places.map(text);
            ice_option {
                name,
                also,
                heading,
                argument,
                words,
                standard,
                help,
                kind: kind(&row.kind) as i32,
                letter: row.letter.map_or(0, |letter| letter as i32),
                is_flag_of_icerun: row.is_tool.into(),
            }
        };
        Table { rows: places.into_iter().map(option).collect(), _texts: texts }
    })
}

fn kind(kind: &OptionKind) -> ice_option_kind {
    match kind {
        OptionKind::Flag(_) => ice_option_kind::ICE_OPTION_FLAG,
        OptionKind::Number { .. } | OptionKind::Signal { .. } => ice_option_kind::ICE_OPTION_NUMBER,
        OptionKind::Seconds { .. } => ice_option_kind::ICE_OPTION_SECONDS,
        OptionKind::Word { .. } => ice_option_kind::ICE_OPTION_WORD,
        OptionKind::Text(_) => ice_option_kind::ICE_OPTION_TEXT,
        OptionKind::List { .. } => ice_option_kind::ICE_OPTION_LIST,
        OptionKind::Each { .. } => ice_option_kind::ICE_OPTION_EACH,
    }
}

/// How many options there are. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_option_count() -> usize {
    guard_value(0, || Ok(table().rows.len()))
}

/// One of them, from 0, in the order in which a help shows them; NULL for a number that is not below
/// `ice_option_count()`. It is static. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_option_at(index: usize) -> *const ice_option {
    guard_value(ptr::null(), || Ok(table().rows.get(index).map_or(ptr::null(), ptr::from_ref)))
}

/// The numbers of the C enums are the places of their words in the table.
const WORDS: &[(&str, &str, i32)] = &[
    ("stdin", "none", stdin::ICE_STDIN_NULL as i32),
    ("stdin", "rank0", stdin::ICE_STDIN_RANK0 as i32),
    ("stdin", "all", stdin::ICE_STDIN_ALL as i32),
    ("macros", "none", macros::ICE_MACROS_NONE as i32),
    ("macros", "local_rank", macros::ICE_MACROS_LOCAL_RANK as i32),
    ("macros", "all", macros::ICE_MACROS_ALL as i32),
    ("start_method", "fork", method::ICE_START_FORK as i32),
    ("start_method", "spawn", method::ICE_START_SPAWN as i32),
    ("start_method", "forkserver", method::ICE_START_FORKSERVER as i32),
    ("cpu_binding", "off", binding::ICE_CPU_BINDING_OFF as i32),
    ("cpu_binding", "node", binding::ICE_CPU_BINDING_NODE as i32),
    ("cpu_binding", "socket", binding::ICE_CPU_BINDING_SOCKET as i32),
    ("cpu_binding", "exclusive", binding::ICE_CPU_BINDING_EXCLUSIVE as i32),
    ("cpu_binding", "core-complex", binding::ICE_CPU_BINDING_CORE_COMPLEX as i32),
    ("cpu_binding", "compact", binding::ICE_CPU_BINDING_COMPACT as i32),
    ("device_visibility", "inherit", visibility::ICE_VISIBLE_INHERIT as i32),
    ("device_visibility", "own", visibility::ICE_VISIBLE_OWN as i32),
    ("device_visibility", "all", visibility::ICE_VISIBLE_ALL as i32),
    ("log_level", "error", level::ICE_LOG_ERROR as i32),
    ("log_level", "warning", level::ICE_LOG_WARNING as i32),
    ("log_level", "info", level::ICE_LOG_INFO as i32),
    ("log_level", "debug", level::ICE_LOG_DEBUG as i32),
];

const _: () = {
    let mut index = 0;
    while index < WORDS.len() {
        let (name, word, number) = WORDS[index];
        assert!(options::row(name).is_word(number, word));
        index += 1;
    }
};
