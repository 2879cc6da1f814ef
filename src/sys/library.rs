//! The files that this process is made of: the library's own, its loader, shared objects of the user.
//!
//! The library is also a program: `build.rs` names its entry in its ELF header and the loader that
//! runs it, so that a worker which is a function of some shared object can start from the library file.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::call::{Callback, HostPointer, WorkerFn};

const NO_LOADER: &str = "a static program cannot load a shared object";

pub type Dlopen = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;

/// dlopen(3), asked for by name: a static program has none, and linking it would give a warning there.
pub fn dlopen() -> Option<Dlopen> {
    // SAFETY: a NUL-terminated name.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"dlopen".as_ptr()) };
    // SAFETY: not null, and this name of the C library has this type.
    let typed = |address| unsafe { std::mem::transmute::<*mut c_void, Dlopen>(address) };
    (!address.is_null()).then(|| typed(address))
}

/// Whether this process can load a shared object at all.
pub fn can_load() -> bool {
    dlopen().is_some()
}

/// What the loader last complained about.
fn loader_error() -> String {
    // SAFETY: the text lives until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error of the loader".into();
    }
    // SAFETY: not null, NUL-terminated.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The loader's words for why a shared object cannot be loaded here.
pub fn why_not_loaded(name: &CStr) -> String {
    match dlopen() {
        None => NO_LOADER.into(),
        // SAFETY: a NUL-terminated name. If it can be loaded after all, its constructors are the user's.
        Some(dlopen) if unsafe { dlopen(name.as_ptr(), libc::RTLD_LAZY) }.is_null() => loader_error(),
        Some(_) => format!("{} was not there a moment ago", name.to_string_lossy()),
    }
}

/// A symbol of a shared object as the function that the user says it is.
fn callback(address: *const c_void) -> Callback {
    // SAFETY: not null. The header says what type a function of a shared object has.
    let function = unsafe { std::mem::transmute::<*const c_void, WorkerFn>(address) };
    Callback { function, user_data: HostPointer(0) }
}

/// Loads a shared object for the life of this process, its symbols in the global scope as if this program
/// were linked with it, and finds functions in it; the loader's own words for what is wrong.
pub fn functions(library: &CStr, names: &[&CStr]) -> Result<Vec<Callback>, String> {
    let dlopen = dlopen().ok_or(NO_LOADER)?;
    // SAFETY: a NUL-terminated name. The constructors that run are the user's, as are the symbols.
    let handle = unsafe { dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        return Err(loader_error());
    }
    let find = |name: &&CStr| {
        // SAFETY: an open handle and a NUL-terminated name.
        let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if address.is_null() { Err(loader_error()) } else { Ok(callback(address)) }
    };
    names.iter().map(find).collect()
}

/// Whether CUDA was initialised in this process: asked of the driver if the process has loaded it. A
/// forked copy could not use CUDA then.
pub fn cuda_is_initialised() -> bool {
    const NOT_INITIALIZED: c_int = 3;
    let Some(dlopen) = dlopen() else { return false };
    let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD;
    // SAFETY: RTLD_NOLOAD loads nothing and runs nothing. The handle keeps the driver loaded, which never
    // unloads by itself either.
    unsafe {
        let driver = dlopen(c"libcuda.so.1".as_ptr(), flags);
        let driver = if driver.is_null() { dlopen(c"libcuda.so".as_ptr(), flags) } else { driver };
        if driver.is_null() {
            libc::dlerror(); // nobody else is to find this error
            return false;
        }
        let count = libc::dlsym(driver, c"cuDeviceGetCount".as_ptr());
        if count.is_null() {
            return false;
        }
        // cuDeviceGetCount of cuda.h: answers NOT_INITIALIZED, and does nothing, before cuInit.
        let count = std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_int) -> c_int>(count);
        let mut devices = 0;
        count(&raw mut devices) != NOT_INITIALIZED
    }
}

/// The file that is mapped at an address, and whether it is still there under that name.
fn file_at(address: usize) -> Option<(PathBuf, bool)> {
    use std::io::BufRead;
    let maps = std::io::BufReader::new(std::fs::File::open("/proc/self/maps").ok()?);
    for line in maps.split(b'\n') {
        let line = line.ok()?;
        // start-end perms offset device inode path
        let mut fields = line.splitn(2, |&byte| byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        if !(number(start)?..number(end)?).contains(&address) {
            continue;
        }
        let path = &line[line.iter().position(|&byte| byte == b'/')?..];
        const DELETED: &[u8] = b" (deleted)";
        let (path, there) = match path.strip_suffix(DELETED) {
            Some(path) => (path, false),
            None => (path, true),
        };
        return Some((PathBuf::from(OsString::from_vec(path.to_vec())), there));
    }
    None
}

/// How to start the library's own file as a program.
#[derive(Debug, PartialEq)]
pub enum OwnProgram {
    /// Execute this file; by the loader, if one is named, as the file itself is not executable.
    File {
        library: CString,
        loader: Option<CString>,
    },
    /// The library is part of something else: a program that was linked with the archive.
    PartOfAnother,
    /// The file was removed or replaced since it was loaded.
    Deleted(PathBuf),
    Unknown,
}

pub fn own_program() -> OwnProgram {
    if !starts_at_entry() {
        return OwnProgram::PartOfAnother;
    }
    let own = own_program as fn() -> OwnProgram as usize;
    let Some((path, there)) = file_at(own) else { return OwnProgram::Unknown };
    if !there {
        return OwnProgram::Deleted(path);
    }
    let Ok(library) = CString::new(path.into_os_string().into_vec()) else { return OwnProgram::Unknown };
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::access(library.as_ptr(), libc::X_OK) } == 0 {
        return OwnProgram::File { library, loader: None };
    }
    // SAFETY: plain numbers. Where the loader was mapped to; 0 in a static program.
    let base = unsafe { libc::getauxval(libc::AT_BASE) } as usize;
    let loader = file_at(base).and_then(|(path, _)| CString::new(path.into_os_string().into_vec()).ok());
    match loader {
        Some(loader) => OwnProgram::File { library, loader: Some(loader) },
        // Started by hand through the loader: there is no base then. Let execve say what is wrong.
        None => OwnProgram::File { library, loader: None },
    }
}

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
unsafe extern "C" {
    /// `ffi::start` has it: what runs there stands above all rooms.
    fn ice_library_start();
}

/// Whether the ELF file that holds this code begins at that entry: the shared library does, a program
/// or a plug-in that was linked with the archive has an entry of its own, or none.
fn starts_at_entry() -> bool {
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    {
        let entry = ice_library_start as unsafe extern "C" fn() as usize;
        let mut search = Search { entry, found: false };
        // SAFETY: the function below is called with this pointer, within this call.
        unsafe { libc::dl_iterate_phdr(Some(look_at_object), (&raw mut search).cast()) };
        search.found
    }
    #[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
    false
}

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
struct Search {
    entry: usize,
    found: bool,
}

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
extern "C" fn look_at_object(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid object, and our own pointer.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    // SAFETY: the program headers of a loaded object.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let base = info.dlpi_addr as usize;
    let holds = |header: &libc::Elf64_Phdr| {
        let start = base + header.p_vaddr as usize;
        (start..start + header.p_memsz as usize).contains(&search.entry)
    };
    if loads().any(holds)
        && let Some(first) = loads().find(|header| header.p_offset == 0)
    {
        // SAFETY: the segment with the start of the file begins with the ELF header.
        let header = unsafe { &*((base + first.p_vaddr as usize) as *const libc::Elf64_Ehdr) };
        search.found = base + header.e_entry as usize == search.entry;
    }
    0
}
