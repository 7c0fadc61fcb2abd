"""seccomp: system calls that the worker gives up for good, by libseccomp.

The library is the well-kept one that systemd itself is built on, so it lies on nearly every machine; the five
functions that are needed are called through ctypes. The wrapper for Python, pyseccomp, is the same with more names,
and starts programs (ldconfig, gcc) to find the library.

A list of what is forbidden, not of what is allowed: the next libc, driver or torch may call something new, and that
must not fail on a machine that nobody could test. So this is a second wall behind Landlock, and the only one before
much of the network, of other processes and of the attributes of files, which Landlock (up to ABI 7) leaves open.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LIBRARY: Final = "libseccomp.so.2"

ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000
"""Plus the error that the caller is told."""
TSYNC: Final = 4
"""The attribute that makes the filter hold for all threads of the process."""

NOT_EQUAL, MASKED_EQUAL = 1, 7

CLONE_THREAD: Final = 0x10000

PROGRAMS: Final = "execve execveat fork vfork"
NETWORK: Final = "connect sendto sendmsg sendmmsg io_uring_setup io_uring_enter io_uring_register"
"""io_uring would be a way round every line of this list."""
OTHERS: Final = (
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd "
    "pidfd_send_signal kcmp tkill setpriority ioprio_set sched_setscheduler sched_setparam sched_setattr "
    "move_pages migrate_pages setrlimit shmget shmat shmctl msgget semget mq_open mq_unlink"
)
"""Other processes of the same user: their memory, their pace, what is shared with them. Nor may it raise a limit."""
NAMES: Final = (
    "chmod fchmodat fchmodat2 chown lchown fchownat truncate utime utimes futimesat setxattr lsetxattr setxattrat "
    "removexattr lremovexattr removexattrat file_setattr mknod mknodat open_by_handle_at"
)
"""What Landlock lets pass on files that it does not let open. Through a descriptor all of it is allowed."""
KERNEL: Final = (
    "bpf perf_event_open userfaultfd keyctl add_key request_key mount umount2 pivot_root chroot unshare setns "
    "open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr init_module finit_module "
    "delete_module kexec_load kexec_file_load reboot swapon swapoff sethostname setdomainname settimeofday "
    "clock_settime clock_adjtime adjtimex acct quotactl quotactl_fd iopl ioperm syslog fanotify_init vhangup "
    "lookup_dcookie"
)
"""Doors of the kernel through which others have broken out, and which the work does not need."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A system call that is refused, always or where an argument compares as named."""

    name: str
    error: int = errno.EPERM
    argument: int = 0
    compare: int = 0
    """`NOT_EQUAL` or `MASKED_EQUAL`; 0 for always."""
    value: int = 0
    wanted: int = 0
    """With `MASKED_EQUAL`: what the argument's bits in `value` are."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("wanted", ctypes.c_uint64),
    )


def rules(*, gpu: bool) -> Iterator[Rule]:
    """Give what a worker may not call. Those on a GPU keep two things that NVIDIA's driver is known to use."""
    for name in f"{PROGRAMS} {NETWORK} {OTHERS} {NAMES} {KERNEL}".split():
        yield Rule(name)
    yield Rule("clone", compare=MASKED_EQUAL, value=CLONE_THREAD)  # a thread may be started, a process not
    yield Rule("clone3", errno.ENOSYS)  # its flags cannot be looked at; the C library then falls back on clone
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        yield Rule(name, compare=NOT_EQUAL, value=os.getpid())
    yield Rule("prlimit64", argument=2, compare=NOT_EQUAL)  # limits may be read
    yield Rule("utimensat", argument=1, compare=NOT_EQUAL)  # by name; not through a descriptor
    if gpu:
        yield Rule("socket", compare=NOT_EQUAL, value=socket.AF_UNIX)
    else:
        yield Rule("socket")
        yield Rule("memfd_create")  # memory that no limit counts


def refuse(*, gpu: bool) -> str:
    """Refuse the calls of `rules` to all threads of this process; return what does so.

    Raises:
        OSError: if the library is not there, or it cannot be done; nothing is forbidden then.
    """
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(ALLOW)))
    if not filter_:
        raise OSError(errno.ENOMEM, "libseccomp makes no filter")
    try:
        _check(library.seccomp_attr_set(filter_, TSYNC, ctypes.c_uint32(1)))
        for rule in rules(gpu=gpu):
            number = library.seccomp_syscall_resolve_name(rule.name.encode())
            if number < 0:  # this architecture has no such call, or the library is too old to know it
                continue
            comparison = _Comparison(rule.argument, rule.compare, rule.value, rule.wanted)
            action = ctypes.c_uint32(REFUSE + rule.error)
            some = 1 if rule.compare else 0
            _check(library.seccomp_rule_add_array(filter_, action, number, some, ctypes.byref(comparison)))
        _check(library.seccomp_load(filter_))
    finally:
        library.seccomp_release(filter_)
    return LIBRARY


def _check(code: int) -> None:
    """Raise the error that the library returned, if it returned one.

    Raises:
        OSError: as above.
    """
    if code < 0:
        raise OSError(-code, os.strerror(-code))
