//! The stack of a crashed thread: unwound by libgcc, each frame found in /proc's list of mappings, and named
//! by the symbol table of its file. Nothing here allocates, or takes a lock but for the unwinder on an old C
//! library. Each part leaves behind what it found even if it does not come to its end.

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::num::NonZeroUsize;

use object::NativeEndian;
use object::elf::{
    FileHeader64, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB, STB_GLOBAL, STT_FUNC, STT_GNU_IFUNC, Sym64,
};
use object::read::elf::{FileHeader, ProgramHeader, Sym, SymbolTable};

use super::kernel::{self, Contents, File};
use super::text::{Lossy, Text};

/// How many frames a record shows.
const MOST: usize = 64;
/// What is shown of a symbol.
const LONGEST: usize = 1000;

#[derive(Clone, Copy)]
pub struct Frame {
    pc: usize,
    /// It is the instruction that was about to run, not one to return to.
    exact: bool,
    /// It is in memory that can be executed.
    code: bool,
    module: Name,
    /// The byte of the file at `looked_up`.
    offset: u64,
    /// The pc as the file counts.
    address: u64,
    symbol: Name,
    /// How far the pc is behind the start of the symbol.
    distance: u64,
}

impl Frame {
    const fn at(pc: usize, exact: bool) -> Frame {
        const NONE: Name = Name { start: 0, end: 0 };
        Frame { pc, exact, code: false, module: NONE, offset: 0, address: 0, symbol: NONE, distance: 0 }
    }

    /// A byte of the instruction that runs: a call may be the last of its function.
    fn looked_up(&self) -> usize {
        self.pc.wrapping_sub(usize::from(!self.exact))
    }
}

/// A piece of `Trace::names`.
#[derive(Clone, Copy, PartialEq)]
struct Name {
    start: usize,
    end: usize,
}

impl Name {
    fn of<'a>(&self, names: &'a Text<NAMES>) -> &'a [u8] {
        names.bytes().get(self.start..self.end).unwrap_or_default()
    }

    /// An empty one where there is no room.
    fn new(names: &mut Text<NAMES>, text: &[u8]) -> Name {
        let start = names.len();
        let _ = names.push(text);
        Name { start, end: names.len() }
    }
}

const NAMES: usize = 64 << 10;

pub struct Trace {
    frames: [Frame; MOST],
    count: usize,
    /// Whether there is more of the stack than `MOST`.
    pub cut: bool,
    names: Text<NAMES>,
    lines: [u8; 8 << 10],
    path: [u8; 4096],
}

/// The registers that unwinding starts with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub pc: usize,
    pub sp: usize,
    /// Where a function returns to that has only just been called, where a register says so.
    pub link: Option<NonZeroUsize>,
}

impl Trace {
    pub const fn new() -> Trace {
        Trace {
            frames: [Frame::at(0, false); MOST],
            count: 0,
            cut: false,
            names: Text::new(),
            lines: [0; 8 << 10],
            path: [0; 4096],
        }
    }

    pub fn clear(&mut self) {
        (self.count, self.cut) = (0, false);
        self.names.cut(0);
    }

    /// False when there is no room for it.
    fn push(&mut self, frame: Frame) -> bool {
        let slot = self.frames.get_mut(self.count);
        self.cut = slot.is_none();
        let Some(slot) = slot else { return false };
        *slot = frame;
        self.count += 1;
        true
    }

    /// The one frame that is known without unwinding.
    pub fn start(&mut self, pc: usize) {
        self.push(Frame::at(pc, true));
    }

    /// Where the unwinder is to start: for a jump to nowhere, which has no frame, in the caller.
    pub fn first_place(&mut self, place: Place) -> Place {
        self.locate();
        if self.frames.first().is_some_and(|frame| frame.code) {
            return place;
        }
        let (back, sp) = match place.link {
            Some(link) => (link.get(), place.sp),
            None => (kernel::peek(place.sp).unwrap_or(0), place.sp.wrapping_add(size_of::<usize>())),
        };
        self.push(Frame::at(back, false));
        self.locate();
        if self.frames.get(1).is_some_and(|frame| frame.code) {
            // Within the call, as the frame of a signal is taken by its word.
            return Place { pc: back - 1, sp, link: None };
        }
        self.count = 1;
        place
    }

    /// Adds the callers of the frame with the pc `start`.
    pub fn unwind(&mut self, start: usize) {
        let mut walk = Walk { trace: self, start, started: false, patience: MOST };
        // SAFETY: `walk` lives through the call, and only `on_frame` uses it meanwhile.
        unsafe { _Unwind_Backtrace(on_frame, (&raw mut walk).cast()) };
    }

    /// Finds the files of the frames.
    pub fn locate(&mut self) {
        let Trace { frames, count, names, lines, .. } = self;
        let frames = frames.get_mut(..*count).unwrap_or_default();
        let mut first = (0, 0);
        each_mapping(lines, |mapping| {
            if mapping.offset == 0 && mapping.inode != 0 {
                first = (mapping.inode, mapping.start);
            }
            let known = if first.0 == mapping.inode { Some(first.1) } else { None };
            let base = known.unwrap_or(mapping.start.wrapping_sub(mapping.offset as usize));
            let mut name = None;
            for frame in frames.iter_mut().filter(|frame| mapping.executable && !frame.code) {
                let at = frame.looked_up();
                if (mapping.start..mapping.end).contains(&at) {
                    let name = *name.get_or_insert_with(|| Name::new(names, mapping.path));
                    frame.module = name;
                    frame.offset = (at - mapping.start) as u64 + mapping.offset;
                    frame.address = frame.pc.wrapping_sub(base) as u64;
                    frame.code = true;
                }
            }
        });
    }

    /// Names the frames whose files can be read.
    pub fn symbolise(&mut self) {
        for index in 0..self.count {
            let module = |frame: &Frame| frame.module.of(&self.names);
            let Some(path) = self.frames.get(index).map(module) else { continue };
            let seen = self.frames.iter().take(index).any(|frame| module(frame) == path);
            if seen || !path.starts_with(b"/") {
                continue;
            }
            let contents = open(path, &mut self.path);
            if let Some(contents) = contents {
                self.symbolise_from(index, contents.bytes());
            }
        }
    }

    /// Those of the frames that are in the same file as number `index`.
    fn symbolise_from(&mut self, index: usize, file: &[u8]) -> Option<()> {
        let Trace { frames, count, names, .. } = self;
        let module = frames.get(index)?.module;
        let same = |frame: &Frame, names: &Text<NAMES>| frame.module.of(names) == module.of(names);
        let elf = FileHeader64::<NativeEndian>::parse(file).ok()?;
        let segments = elf.program_headers(NativeEndian, file).ok()?;
        let mut wanted = [None; MOST];
        for (frame, wanted) in frames.iter_mut().zip(&mut wanted).take(*count) {
            let within = |start: u64, size: u64| (start..start.saturating_add(size)).contains(&frame.offset);
            let segment = segments.iter().find(|segment| {
                let (start, size) = segment.file_range(NativeEndian);
                segment.p_type(NativeEndian) == PT_LOAD && within(start, size)
            });
            if let (Some(segment), true) = (segment, same(frame, names)) {
                let start = segment.p_vaddr(NativeEndian).wrapping_sub(segment.p_offset(NativeEndian));
                let looked_up = frame.offset.wrapping_add(start);
                frame.address = looked_up + u64::from(!frame.exact);
                *wanted = Some(looked_up);
            }
        }
        let sections = elf.sections(NativeEndian, file).ok()?;
        let mut table = sections.symbols(NativeEndian, file, SHT_SYMTAB).unwrap_or_default();
        if table.is_empty() {
            table = sections.symbols(NativeEndian, file, SHT_DYNSYM).ok()?;
        }
        let found = search(&table, &wanted);
        for (frame, found) in frames.iter_mut().zip(found) {
            let Some(symbol) = found else { continue };
            let Ok(name) = table.symbol_name(NativeEndian, symbol) else { continue };
            frame.distance = frame.address.wrapping_sub(symbol.st_value(NativeEndian));
            frame.symbol = Name::new(names, name.get(..LONGEST).unwrap_or(name));
        }
        Some(())
    }

    /// The frames in words, one by one.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let frames = self.frames.iter().take(self.count);
        frames.enumerate().map(|(number, frame)| Line { number, frame, trace: self })
    }

    /// Where it happened: for a jump to nowhere the one who jumped; for a signal that was `raised`, by abort(3)
    /// say, the one who called.
    pub fn culprit(&self, raised: bool) -> Option<Culprit<'_>> {
        let first = self.lines().next()?;
        if !first.frame.code
            && let Some(caller) = self.lines().nth(1)
        {
            return Some(Culprit::Caller(caller));
        }
        let guilty = self.lines().find(|line| !raised || !line.is_of_the_runtime());
        Some(Culprit::Here(guilty.unwrap_or(first)))
    }
}

pub enum Culprit<'a> {
    Here(Line<'a>),
    Caller(Line<'a>),
}

type Symbol = Sym64<NativeEndian>;
type Symbols<'a> = SymbolTable<'a, FileHeader64<NativeEndian>>;

/// The function at each address, in one pass.
fn search<'a>(table: &Symbols<'a>, wanted: &[Option<u64>; MOST]) -> [Option<&'a Symbol>; MOST] {
    // One that holds the address is better than one without a size before it, an inner one better than an
    // outer one, a public name better than a private one.
    let worth = |symbol: &Symbol| {
        let has_size = symbol.st_size(NativeEndian) > 0;
        (has_size, symbol.st_value(NativeEndian), symbol.st_bind() == STB_GLOBAL)
    };
    let mut found = [None; MOST];
    for symbol in table.iter() {
        if !matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC) || symbol.is_undefined(NativeEndian) {
            continue;
        }
        let (start, size) = (symbol.st_value(NativeEndian), symbol.st_size(NativeEndian));
        for (wanted, found) in wanted.iter().zip(&mut found) {
            let Some(distance) = wanted.and_then(|address| address.checked_sub(start)) else { continue };
            if (size == 0 || distance < size) && found.is_none_or(|found| worth(symbol) > worth(found)) {
                *found = Some(symbol);
            }
        }
    }
    found
}

/// The file that a mapping names. One that was deleted is still there if it is the main program.
fn open(name: &[u8], buffer: &mut [u8; 4096]) -> Option<Contents> {
    const PROGRAM: &CStr = c"/proc/thread-self/exe";
    if name.ends_with(b" (deleted)") {
        let is_program = kernel::read_link(PROGRAM, buffer) == Some(name);
        return if is_program { Contents::of(PROGRAM) } else { None };
    }
    buffer.get_mut(..name.len())?.copy_from_slice(name);
    *buffer.get_mut(name.len())? = 0;
    Contents::of(CStr::from_bytes_until_nul(buffer).ok()?)
}

/// One line of /proc/PID/maps.
#[derive(Debug, PartialEq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    executable: bool,
    offset: u64,
    inode: u64,
    path: &'a [u8],
}

impl Mapping<'_> {
    fn parse(line: &[u8]) -> Option<Mapping<'_>> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let mut field = || fields.next();
        let number = |text: &[u8], base| u64::from_str_radix(std::str::from_utf8(text).ok()?, base).ok();
        let range = field()?;
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let (start, end) = (number(range.get(..dash)?, 16)?, number(range.get(dash + 1..)?, 16)?);
        let executable = field()?.get(2) == Some(&b'x');
        let offset = number(field()?, 16)?;
        field()?;
        let inode = number(field()?, 10)?;
        let path = field().unwrap_or_default().trim_ascii_start();
        Some(Mapping { start: start as usize, end: end as usize, executable, offset, inode, path })
    }
}

/// Calls `each` for every mapping of this process, whichever of its threads still lives.
fn each_mapping(buffer: &mut [u8], mut each: impl FnMut(&Mapping)) {
    let Some(file) = File::open(c"/proc/thread-self/maps") else { return };
    let mut filled = 0;
    loop {
        let read = file.read(buffer.get_mut(filled..).unwrap_or_default());
        if read == 0 {
            return;
        }
        filled += read;
        let text = buffer.get(..filled).unwrap_or_default();
        // A line that fills the buffer is none that a file of ours can have.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(filled, |at| at + 1);
        let lines = text.get(..whole).unwrap_or_default().split(|&byte| byte == b'\n');
        lines.filter_map(Mapping::parse).for_each(|mapping| each(&mapping));
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

#[repr(C)]
struct UnwindContext {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut UnwindContext, exact: *mut c_int) -> usize;
}

const GO_ON: c_int = 0;
const STOP: c_int = 5;

struct Walk<'a> {
    trace: &'a mut Trace,
    start: usize,
    started: bool,
    /// How many frames of the handler may still come before `start`.
    patience: usize,
}

extern "C" fn on_frame(context: *mut UnwindContext, walk: *mut c_void) -> c_int {
    // SAFETY: `unwind` passes a Walk that nobody else uses meanwhile.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let mut exact = 0;
    // SAFETY: the unwinder's own context, during its call.
    let pc = unsafe { _Unwind_GetIPInfo(context, &raw mut exact) };
    let go_on = if walk.started {
        pc != 0 && walk.trace.push(Frame::at(pc, exact != 0))
    } else {
        walk.started = pc == walk.start;
        walk.patience -= 1;
        walk.started || walk.patience > 0
    };
    if go_on { GO_ON } else { STOP }
}

/// Has the unwinder set itself up, for which it allocates: in static programs, it sorts its tables then.
pub fn prepare() {
    extern "C" fn stop(_: *mut UnwindContext, _: *mut c_void) -> c_int {
        STOP
    }
    // SAFETY: the function is called during the call only, and does nothing.
    unsafe { _Unwind_Backtrace(stop, std::ptr::null_mut()) };
}

/// One frame in words.
pub struct Line<'a> {
    number: usize,
    frame: &'a Frame,
    trace: &'a Trace,
}

impl Line<'_> {
    fn module(&self) -> &[u8] {
        self.frame.module.of(&self.trace.names)
    }

    fn symbol(&self) -> &[u8] {
        self.frame.symbol.of(&self.trace.names)
    }

    fn file_name(&self) -> &[u8] {
        self.module().rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// Whether it belongs to those that call abort(3) in somebody's name, by file, or by name in a static program.
    fn is_of_the_runtime(&self) -> bool {
        const FILES: [&[u8]; 6] = [b"libc.so", b"libc-", b"libpthread", b"libstdc++", b"libc++", b"libgcc_s"];
        const FUNCTIONS: [&[u8]; 18] = [
            b"raise",
            b"gsignal",
            b"pthread_kill",
            b"__pthread_kill",
            b"__pthread_kill_internal",
            b"__pthread_kill_implementation",
            b"abort",
            b"__assert_fail",
            b"__assert_fail_base",
            b"__libc_message",
            b"malloc_printerr",
            b"malloc",
            b"_int_malloc",
            b"calloc",
            b"realloc",
            b"_int_realloc",
            b"free",
            b"_int_free",
        ];
        // Compilers make parts and variants of functions: "__assert_fail_base.cold".
        let function = self.symbol().split(|&byte| byte == b'.').next().unwrap_or_default();
        FILES.iter().any(|file| self.file_name().starts_with(file)) || FUNCTIONS.contains(&function)
    }

    pub fn short(&self) -> Short<'_> {
        Short(self)
    }
}

/// `train+0x1c (libtrainer.so)`
pub struct Short<'a>(&'a Line<'a>);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Short(line) = self;
        let (symbol, file) = (line.symbol(), line.file_name());
        match (symbol, file) {
            (_, b"") => write!(f, "{:#x}", line.frame.pc),
            (b"", _) => write!(f, "{}+{:#x}", Lossy(file), line.frame.address),
            _ => write!(f, "{}+{:#x} ({})", Lossy(symbol), line.frame.distance, Lossy(file)),
        }
    }
}

/// `#0 0x55d0c0de train+0x1c at /path/libtrainer.so+0x11c3`
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "#{} {:#x}", self.number, self.frame.pc)?;
        if !self.symbol().is_empty() {
            write!(f, " {}+{:#x}", Lossy(self.symbol()), self.frame.distance)?;
        }
        if !self.module().is_empty() {
            write!(f, " at {}+{:#x}", Lossy(self.module()), self.frame.address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = b"7f0a8c000000-7f0a8c021000 r-xp 00028000 fe:00 1234       /usr/lib/a b.so (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (0x7f0a_8c00_0000, 0x7f0a_8c02_1000));
        assert!(mapping.executable);
        assert_eq!((mapping.offset, mapping.inode), (0x28000, 1234));
        assert_eq!(mapping.path, b"/usr/lib/a b.so (deleted)");
        let anonymous = Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.executable, anonymous.path), (false, &b""[..]));
        assert_eq!(Mapping::parse(b""), None);
        assert_eq!(Mapping::parse(b"of a path that was cut"), None);
    }

    #[test]
    fn a_buffer_of_any_size_reads_all_mappings() {
        let count = |size: usize| {
            let (mut all, mut named) = (0, 0);
            each_mapping(&mut vec![0; size], |mapping| {
                all += 1;
                named += usize::from(mapping.path.starts_with(b"/"));
            });
            (all, named)
        };
        assert!(count(8192).1 > 0);
        // Other tests of this process map files meanwhile: a look that none of them disturbs is enough.
        assert!((0..1000).any(|_| count(300).1 == count(8192).1));
    }

    /// A function of this program by its address, in a file that is read like any other.
    #[inline(never)]
    fn someone() -> usize {
        std::hint::black_box(someone as fn() -> usize as usize)
    }

    #[test]
    fn own_functions_have_their_names() {
        let mut trace = Box::new(Trace::new());
        trace.start(someone() + 1);
        trace.unwind(0);
        trace.locate();
        trace.symbolise();
        let line = trace.lines().next().unwrap().to_string();
        assert!(line.contains("someone") && line.contains("+0x1 at /"), "{line}");
        let Some(Culprit::Here(line)) = trace.culprit(false) else { panic!("here") };
        assert!(line.short().to_string().contains("someone"));
    }

    #[test]
    fn a_jump_to_nowhere_is_its_callers() {
        let mut trace = Box::new(Trace::new());
        let back = someone() + 4;
        trace.start(16);
        let place = Place { pc: 16, sp: &raw const back as usize, link: None };
        let first = trace.first_place(place);
        assert_eq!(first, Place { pc: back - 1, sp: place.sp + 8, link: None });
        trace.symbolise();
        let Some(Culprit::Caller(line)) = trace.culprit(false) else { panic!("a caller") };
        assert!(line.short().to_string().contains("someone"));
        // Without a plausible caller the frame stands alone.
        let mut trace = Box::new(Trace::new());
        let nowhere = 16usize;
        trace.start(16);
        let place = Place { pc: 16, sp: &raw const nowhere as usize, link: None };
        assert_eq!(trace.first_place(place), place);
        assert_eq!(trace.lines().count(), 1);
    }
}
