//! The CUDA driver, loaded by cudarc and called by name: in the probe's process only. A function that a
//! driver lacks is an error here, not a panic, and what it returns is a number: a driver newer than
//! cudarc's enum returns others.

use std::ffi::{CStr, c_char, c_int, c_uint};

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult, CUuuid};

use super::library;

// cudarc's loader refers to dlopen, of which the linker warns in every static program that has libice in it,
// probe or not. Here, where the optimised build has all in one object, that means the function below.
std::arch::global_asm!(".weakref dlopen, {dlopen}", dlopen = sym dlopen);

/// dlopen(3), asked for by name.
extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut std::ffi::c_void {
    // SAFETY: the caller's own call.
    library::dlopen().map_or(std::ptr::null_mut(), |dlopen| unsafe { dlopen(name, flags) })
}

/// CUDA_ERROR_NO_DEVICE: no GPU at all, or none visible.
pub const NO_DEVICE: i32 = CUresult::CUDA_ERROR_NO_DEVICE as i32;

#[derive(Debug)]
pub enum Failure {
    Code { call: &'static str, code: i32, text: String },
    Missing { symbol: &'static str },
}

pub type Handle = CUdevice;

/// The driver, loaded for the life of this process.
pub struct Driver<'a> {
    /// Is told each call before it is made.
    doing: &'a dyn Fn(&str),
}

impl<'a> Driver<'a> {
    /// Or the loader's words for why not.
    pub fn load(doing: &'a dyn Fn(&str)) -> Result<Driver<'a>, String> {
        if !library::can_load() {
            return Err("this program is static and cannot load it".into());
        }
        // SAFETY: runs the driver's constructors, for which this process is there.
        if unsafe { sys::is_culib_present() } {
            Ok(Driver { doing })
        } else {
            Err(library::why_not_loaded(c"libcuda.so.1"))
        }
    }

    /// SAFETY: `F` must be the type of a pointer to the function of this name in cuda.h, with c_int for
    /// CUresult.
    unsafe fn function<F: Copy>(&self, symbol: &'static str) -> Result<F, Failure> {
        (self.doing)(symbol);
        // SAFETY: the library is there, see `load`; the type is the caller's promise.
        let found = unsafe { sys::culib().get::<F>(symbol.as_bytes()) };
        found.map(|function| *function).map_err(|_| Failure::Missing { symbol })
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), Failure> {
        if code == 0 { Ok(()) } else { Err(Failure::Code { call, code, text: self.text(code) }) }
    }

    /// The driver's own text for one of its numbers; empty if it has none.
    fn text(&self, code: c_int) -> String {
        type GetErrorString = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        // SAFETY: cuGetErrorString's type.
        let Ok(function) = (unsafe { self.function::<GetErrorString>("cuGetErrorString") }) else {
            return String::new();
        };
        let mut text = std::ptr::null();
        // SAFETY: room for one pointer. The text is static; NULL for an unknown number.
        unsafe {
            function(code, &raw mut text);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    }

    /// As CUDA counts: 13040 for 13.4.
    pub fn version(&self) -> Result<i32, Failure> {
        const CALL: &str = "cuDriverGetVersion";
        let mut version = 0;
        // SAFETY: the function's type, and room for one number.
        let code =
            unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(CALL)?(&raw mut version) };
        self.check(CALL, code).map(|()| version)
    }

    pub fn init(&self) -> Result<(), Failure> {
        const CALL: &str = "cuInit";
        // SAFETY: the function's type.
        let code = unsafe { self.function::<unsafe extern "C" fn(c_uint) -> c_int>(CALL)?(0) };
        self.check(CALL, code)
    }

    pub fn count(&self) -> Result<usize, Failure> {
        const CALL: &str = "cuDeviceGetCount";
        let mut count = 0;
        // SAFETY: the function's type, and room for one number.
        let code =
            unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(CALL)?(&raw mut count) };
        self.check(CALL, code).map(|()| usize::try_from(count).unwrap_or(0))
    }

    pub fn device(&self, index: usize) -> Result<Handle, Failure> {
        const CALL: &str = "cuDeviceGet";
        let mut device = 0;
        // SAFETY: the function's type, and room for one handle.
        let code = unsafe {
            self.function::<unsafe extern "C" fn(*mut CUdevice, c_int) -> c_int>(CALL)?(
                &raw mut device,
                index as c_int,
            )
        };
        self.check(CALL, code).map(|()| device)
    }

    pub fn name(&self, device: Handle) -> Result<String, Failure> {
        self.string("cuDeviceGetName", device)
    }

    /// `domain:bus:device.function`
    pub fn pci_bus_id(&self, device: Handle) -> Result<String, Failure> {
        self.string("cuDeviceGetPCIBusId", device)
    }

    /// These two functions have one type.
    fn string(&self, call: &'static str, device: Handle) -> Result<String, Failure> {
        type Get = unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> c_int;
        let mut text = [0u8; 256];
        // The last byte stays 0, whatever the driver does.
        let room = text.len() as c_int - 1;
        // SAFETY: the functions' type, and as many writable bytes as are announced.
        let code = unsafe { self.function::<Get>(call)?(text.as_mut_ptr().cast(), room, device) };
        self.check(call, code)?;
        Ok(CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Of a MIG device its own; of a driver before 11.4, which does not tell them apart, the GPU's; none
    /// before 9.2.
    pub fn uuid(&self, device: Handle) -> Result<Option<[u8; 16]>, Failure> {
        match self.get_uuid("cuDeviceGetUuid_v2", device) {
            Err(Failure::Missing { .. }) => self.uuid_of_whole(device),
            uuid => uuid.map(Some),
        }
    }

    /// That of the GPU, for a MIG device too.
    pub fn uuid_of_whole(&self, device: Handle) -> Result<Option<[u8; 16]>, Failure> {
        match self.get_uuid("cuDeviceGetUuid", device) {
            Err(Failure::Missing { .. }) => Ok(None),
            uuid => uuid.map(Some),
        }
    }

    fn get_uuid(&self, call: &'static str, device: Handle) -> Result<[u8; 16], Failure> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: the functions' type, and room for one UUID.
        let code = unsafe {
            self.function::<unsafe extern "C" fn(*mut CUuuid, CUdevice) -> c_int>(call)?(
                &raw mut uuid,
                device,
            )
        };
        self.check(call, code).map(|()| uuid.bytes.map(|byte| byte as u8))
    }

    /// In bytes.
    pub fn memory(&self, device: Handle) -> Result<u64, Failure> {
        const CALL: &str = "cuDeviceTotalMem_v2";
        let mut bytes = 0usize;
        // SAFETY: the function's type, and room for one size.
        let code = unsafe {
            self.function::<unsafe extern "C" fn(*mut usize, CUdevice) -> c_int>(CALL)?(
                &raw mut bytes,
                device,
            )
        };
        self.check(CALL, code).map(|()| bytes as u64)
    }

    /// The compute capability, major and minor.
    pub fn compute(&self, device: Handle) -> Result<(i32, i32), Failure> {
        use CUdevice_attribute::*;
        Ok((
            self.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)?,
            self.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)?,
        ))
    }

    fn attribute(&self, attribute: CUdevice_attribute, device: Handle) -> Result<i32, Failure> {
        const CALL: &str = "cuDeviceGetAttribute";
        type Get = unsafe extern "C" fn(*mut c_int, CUdevice_attribute, CUdevice) -> c_int;
        let mut value = 0;
        // SAFETY: the function's type, and room for one number.
        let code = unsafe { self.function::<Get>(CALL)?(&raw mut value, attribute, device) };
        self.check(CALL, code).map(|()| value)
    }
}
