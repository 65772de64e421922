"""System calls that graded code may not make, refused by the kernel through libseccomp.

No new process or program, no socket, no look into other processes, no namespace or mount, no
memory that no limit counts, no kernel facility with a history of holes. What is left works on
what the process has already. A tool that a grader names may start programs, and nothing else.
"""

import ctypes
import errno
from collections.abc import Callable

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOT_EQUAL = 1
_MASKED_EQ = 7
_CLONE_THREAD = 0x00010000
_CLONE_NEW = (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)
"""Flags of clone that make a namespace."""
_SHARED_ANONYMOUS = 0x21
"""Flags of mmap for memory that RLIMIT_DATA does not count."""
STARTS_PROGRAMS = ("fork", "vfork", "execve", "execveat", "kill", "tkill", "tgkill")

REFUSED = (
    "fork", "vfork", "execve", "execveat", "socket", "connect", "bind", "listen", "accept",
    "accept4", "kill", "tkill", "tgkill", "migrate_pages", "move_pages", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "ptrace",
    "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "unshare", "setns",
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount",
    "fsconfig", "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at", "quotactl",
    "swapon", "swapoff", "acct", "memfd_create", "memfd_secret", "shmget", "shmat", "shmctl",
    "msgget", "msgsnd", "msgrcv", "semget", "semop", "mq_open", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key",
    "request_key", "lookup_dcookie", "vmsplice", "remap_file_pages", "modify_ldt",
    "personality", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "syslog", "sched_setscheduler", "sched_setattr",
    "sched_setaffinity", "setpriority", "ioprio_set", "inotify_init", "inotify_init1",
    "fanotify_init", "iopl", "ioperm", "vhangup", "sethostname", "setdomainname",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "seccomp",
)  # fmt: skip


class _Argument(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def prepare(*, starts_programs: bool = False) -> Callable[[], None]:
    """Build the filter; the function returned puts this process under it, for good."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))

    def refuse(name: str, error: int, *arguments: _Argument) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # unknown to this kernel's headers or architecture
            return
        array = (_Argument * max(1, len(arguments)))(*arguments)
        action = ctypes.c_uint32(_ERRNO | error)
        if library.seccomp_rule_add_array(context, action, number, len(arguments), array):
            raise OSError(f"libseccomp takes no rule for {name}")

    for name in REFUSED:
        if not (starts_programs and name in STARTS_PROGRAMS):
            refuse(name, errno.EPERM)
    # clone3 hides its flags, and the C library falls back to clone
    if starts_programs:
        for flag in _CLONE_NEW:
            refuse("clone", errno.EPERM, _Argument(0, _MASKED_EQ, flag, flag))
        shared = _Argument(3, _MASKED_EQ, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS)
        refuse("mmap", errno.EPERM, shared)
    else:  # a thread is let through
        refuse("clone", errno.EPERM, _Argument(0, _MASKED_EQ, _CLONE_THREAD, 0))
    refuse("clone3", errno.ENOSYS)
    refuse("prlimit64", errno.EPERM, _Argument(0, _NOT_EQUAL, 0, 0))  # of another process

    def load() -> None:
        failed = library.seccomp_load(context)
        if failed:
            raise OSError(-failed, "the kernel takes no filter of system calls")

    return load
