"""A small library in front of libc: it counts what a process writes, and lets the n-th of it fail or kill the process.

    preload("tests.bench.campaigns.faults")      starts this script again with the library loaded; once, at its start
    arm(folder, n, errno.ENOSPC)                 in a forked child: the n-th operation below `folder` fails
    operations()                                 what was counted: kind and path of each

An operation is a write, pwrite64, fsync, fdatasync, rename, ftruncate, posix_fallocate, unlink, mkdir, or an open that
may create a file, by its path or the path of its descriptor.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# of `mode`: fail once; fail from then on; half of a write, then all is well; half of a write, then fail; SIGKILL before
FAIL, LASTING, SHORT, FULL, KILL = range(5)
_KINDS = ("open", "write", "fsync", "rename", "truncate", "fallocate", "unlink", "mkdir")
_ROOT = Path(__file__).resolve().parents[3]

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, TRUNCATE, FALLOCATE, UNLINK, MKDIR };
enum { FAIL, LASTING, SHORT, FULL, KILL };
#define MOST 20000
#define LENGTH 400

static char prefix[PATH_MAX];
static size_t prefix_length;
static long target, counted;
static int error, mode, is_armed;
static unsigned char kinds[MOST];
static char paths[MOST][LENGTH];

void campaign_arm(const char *folder, long n, int number, int how) {
    strncpy(prefix, folder, sizeof prefix - 1);
    prefix_length = strlen(prefix);
    target = n; error = number; mode = how; counted = 0; is_armed = 1;
}
void campaign_disarm(void) { is_armed = 0; }
long campaign_count(void) { return counted; }
int campaign_kind(long i) { return kinds[i]; }
const char *campaign_path(long i) { return paths[i]; }

/* 0: go ahead; 1: fail with errno; 2: a short write */
static int due(int kind, const char *path) {
    char whole[2 * PATH_MAX];
    if (!is_armed) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, PATH_MAX)) return 0;
        strcat(whole, "/");
        strncat(whole, path, PATH_MAX - 2);
        path = whole;
    }
    if (strncmp(path, prefix, prefix_length) != 0) return 0;
    if (counted < MOST) {
        kinds[counted] = (unsigned char)kind;
        strncpy(paths[counted], path, LENGTH - 1);
    }
    long number = ++counted;
    if (number < target || !target) return 0;
    if (mode == KILL) { kill(getpid(), SIGKILL); pause(); }
    if (number > target) {
        if (mode == FAIL || mode == SHORT) return 0;
        if (kind == UNLINK || kind == FSYNC) return 0; /* a full disk gives back what is removed */
    } else if (kind == WRITE && (mode == SHORT || mode == FULL)) {
        return 2;
    } else if (mode == SHORT) {
        return 0;
    }
    errno = error;
    return 1;
}

static int due_of(int kind, int file) {
    if (!is_armed) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || path[0] != '/') return 0; /* no file: a pipe, a socket */
    path[length] = 0;
    return due(kind, path);
}

#define REAL(name, result, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITER(name, extra_types, extra_names) \
    ssize_t name(int file, const void *data, size_t size extra_types) { \
        REAL(#name, ssize_t, int, const void *, size_t extra_types); \
        switch (due_of(WRITE, file)) { \
            case 1: return -1; \
            case 2: return real(file, data, size / 2 extra_names); \
            default: return real(file, data, size extra_names); \
        } \
    }
#define COMMA ,
WRITER(write, , )
WRITER(pwrite, COMMA off_t at, COMMA at)
WRITER(pwrite64, COMMA off_t at, COMMA at)

#define SYNC(name) int name(int file) { REAL(#name, int, int); return due_of(FSYNC, file) ? -1 : real(file); }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    REAL("rename", int, const char *, const char *);
    return due(RENAME, to) ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL("renameat", int, int, const char *, int, const char *);
    return due(RENAME, to) ? -1 : real(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL("renameat2", int, int, const char *, int, const char *, unsigned);
    return due(RENAME, to) ? -1 : real(a, from, b, to, flags);
}

#define TRUNCATER(name) int name(int file, off_t size) { \
        REAL(#name, int, int, off_t); return due_of(TRUNCATE, file) ? -1 : real(file, size); }
TRUNCATER(ftruncate)
TRUNCATER(ftruncate64)

#define ALLOCATER(name) int name(int file, off_t at, off_t size) { \
        REAL(#name, int, int, off_t, off_t); return due_of(FALLOCATE, file) ? error : real(file, at, size); }
ALLOCATER(posix_fallocate)
ALLOCATER(posix_fallocate64)

int unlink(const char *path) {
    REAL("unlink", int, const char *);
    return due(UNLINK, path) ? -1 : real(path);
}
int mkdir(const char *path, mode_t bits) {
    REAL("mkdir", int, const char *, mode_t);
    return due(MKDIR, path) ? -1 : real(path, bits);
}

#define OPENER(name) int name(const char *path, int flags, ...) { \
        REAL(#name, int, const char *, int, ...); \
        va_list more; va_start(more, flags); \
        mode_t bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return flags & O_CREAT && due(OPEN, path) ? -1 : real(path, flags, bits); }
OPENER(open)
OPENER(open64)
#define OPENER_AT(name) int name(int folder, const char *path, int flags, ...) { \
        REAL(#name, int, int, const char *, int, ...); \
        va_list more; va_start(more, flags); \
        mode_t bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return flags & O_CREAT && due(OPEN, path) ? -1 : real(folder, path, flags, bits); }
OPENER_AT(openat)
OPENER_AT(openat64)
"""


@dataclass(frozen=True)
class Operation:
    kind: str
    path: str


def missing() -> str | None:
    """Why no library can be made here, or None."""
    if sys.platform != "linux":
        return "the shim needs Linux"
    return None if shutil.which("gcc") else "there is no gcc to compile the shim"


def built() -> Path:
    """The library, compiled where it is not yet there."""
    digest = hashlib.sha256(_SOURCE.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"graftcli-campaign-{os.getuid()}" / f"shim-{digest}.so"
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        beside = library.with_suffix(f".{os.getpid()}.so")
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-x", "c", "-", "-o", str(beside), "-ldl"]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
        beside.rename(library)
    return library


def preload(module: str) -> None:
    """Replace this process by the same script with the library in front of libc; returns where it is there already."""
    if (reason := missing()) is not None:
        raise SystemExit(f"skipped: {reason}")
    library = str(built())
    if os.environ.get("LD_PRELOAD") == library:
        return
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "LD_PRELOAD": library, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    os.execve(sys.executable, [sys.executable, "-W", "ignore", "-m", module, *sys.argv[1:]], environment)


def arm(folder: Path, n: int, number: int = 0, mode: int = FAIL) -> None:
    """The n-th operation below the folder fails with this errno, or as `mode` says; 0 only counts."""
    _library().campaign_arm(os.fsencode(f"{folder.resolve()}/"), n, number, mode)


def operations() -> list[Operation]:
    """What was counted since the library was armed; it counts no further."""
    library = _library()
    library.campaign_disarm()
    return [
        Operation(_KINDS[library.campaign_kind(i)], os.fsdecode(library.campaign_path(i)))
        for i in range(library.campaign_count())
    ]


def _library() -> ctypes.CDLL:
    """The process's own symbols, among which the library's are."""
    library = ctypes.CDLL(None)
    library.campaign_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
    library.campaign_kind.argtypes = library.campaign_path.argtypes = (ctypes.c_long,)
    library.campaign_count.restype = ctypes.c_long
    library.campaign_path.restype = ctypes.c_char_p
    return library
