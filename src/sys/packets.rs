//! Messages of a few numbers between two processes, with descriptors: a pair of sockets that keep the
//! borders of messages. Nothing is allocated: a fork server that leaves its pages alone forks faster.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::fd::above_stdio;

/// How many numbers a message has.
pub const WORDS: usize = 8;
/// How many descriptors one may carry.
pub const DESCRIPTORS: usize = 4;

pub type Words = [i64; WORDS];
pub type Descriptors = [Option<OwnedFd>; DESCRIPTORS];

/// Room for the control message with all descriptors, aligned as it must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

pub struct Packets(OwnedFd);

impl From<OwnedFd> for Packets {
    fn from(socket: OwnedFd) -> Packets {
        Packets(socket)
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Packets {
    pub fn pair() -> Result<(Packets, Packets), Errno> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Packets(above_stdio(one)?), Packets(above_stdio(other)?)))
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub fn send(&self, words: Words, descriptors: &[RawFd]) -> Result<(), Errno> {
        assert!(descriptors.len() <= DESCRIPTORS, "a message has room for them");
        let mut control = Control([0; 64]);
        let mut bytes =
            libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: size_of::<Words>() };
        // SAFETY: a zeroed msghdr is an empty one.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut bytes, 1);
        if !descriptors.is_empty() {
            let length = size_of_val(descriptors) as u32;
            message.msg_control = (&raw mut control).cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the header and its data lie within `control`.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(length) as _; // glibc has a size_t here, musl what POSIX says
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(length) as _;
                std::ptr::copy_nonoverlapping(
                    descriptors.as_ptr().cast(),
                    libc::CMSG_DATA(header),
                    length as usize,
                );
            }
        }
        loop {
            // SAFETY: the message points to memory that lives until the call returns.
            let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
            match Errno::result(sent) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop),
            }
        }
    }

    /// The next message, if there is one. EPIPE when the other side is gone.
    pub fn receive(&self) -> Result<Option<(Words, Descriptors)>, Errno> {
        let mut words: Words = [0; WORDS];
        let mut control = Control([0; 64]);
        let mut bytes = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of::<Words>() };
        // SAFETY: a zeroed msghdr is an empty one.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut bytes, 1);
        (message.msg_control, message.msg_controllen) =
            ((&raw mut control).cast(), size_of::<Control>() as _);
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let length = loop {
            // SAFETY: the message points to writable memory of the lengths that it gives.
            let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
            match Errno::result(received) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                received => break received? as usize,
            }
        };
        let mut descriptors: Descriptors = Default::default();
        // SAFETY: the kernel filled in the control data that these macros walk over, and made each descriptor
        // in it for us.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for (index, descriptor) in descriptors.iter_mut().enumerate().take(bytes / size_of::<RawFd>())
                {
                    *descriptor = Some(OwnedFd::from_raw_fd(first.add(index).read_unaligned()));
                }
            }
        }
        if length != size_of::<Words>() {
            return Err(Errno::EPIPE);
        }
        for descriptor in descriptors.iter_mut() {
            *descriptor = descriptor.take().map(above_stdio).transpose()?;
        }
        Ok(Some((words, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_descriptors_arrive() {
        let (one, other) = Packets::pair().unwrap();
        assert!(other.receive().unwrap().is_none());
        one.send([1, 2, 3, 4, 5, 6, 7, i64::MIN], &[]).unwrap();
        let fd = one.0.as_raw_fd();
        one.send([0; WORDS], &[fd, fd, fd, fd]).unwrap();
        let (words, descriptors) = other.receive().unwrap().unwrap();
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, i64::MIN]);
        assert!(descriptors.iter().all(Option::is_none));
        let (_, descriptors) = other.receive().unwrap().unwrap();
        assert!(descriptors.iter().flatten().all(|fd| fd.as_raw_fd() > 2));
        assert_eq!(descriptors.iter().flatten().count(), DESCRIPTORS);
        drop((one, descriptors));
        assert_eq!(other.receive().err(), Some(Errno::EPIPE));
    }
}
