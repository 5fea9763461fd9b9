/* Kills the process at its n-th change of a file below a folder; preloaded, so that HDF5's own
 * writes count as Python's do.
 *
 *     cc -shared -fPIC -O1 -o fault_points.so fault_points.c
 *
 * fault_arm(folder, n, how) begins to count; fault_count() tells how far it came. fault_name(i)
 * tells what the i-th was, counted from 1. FAULT_UNDER, FAULT_AT and FAULT_HOW in the environment
 * begin at once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE, AFTER, HALF, FULL_DISK };

#define MOST 65536
static char names[MOST][24];
static char under[PATH_MAX];
static long at;
static int how;
static atomic_long count;

void fault_arm(const char *folder, long n, int what) {
    snprintf(under, sizeof under, "%s", folder);
    at = n;
    how = what;
    count = 0;
}
__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULT_UNDER"), *n = getenv("FAULT_AT"), *what = getenv("FAULT_HOW");
    if (folder && n && what) fault_arm(folder, atol(n), atoi(what));
}
long fault_count(void) { return count; }
const char *fault_name(long i) { return i < 1 || i > count || i >= MOST ? "" : names[i]; }

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}
static int is_under(const char *path) {
    return under[0] && path && !strncmp(path, under, strlen(under));
}
static int is_fd_under(int fd) {
    char link[64], path[PATH_MAX];
    if (!under[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_under(path);
}
/* The number of this change, 0 for one that does not count; kills if it is the one. */
static long enter(const char *name, int counts) {
    if (!counts) return 0;
    long n = ++count;
    if (n < MOST) snprintf(names[n], sizeof names[n], "%s", name);
    if (n == at && how == BEFORE) die();
    return n;
}
static void leave(long n) {
    if (n && n == at && (how == AFTER || how == HALF)) die();
}
static int is_full(long n) { return n && how == FULL_DISK && at && n >= at; }
static int is_half(long n, size_t size) { return n && n == at && how == HALF && size > 1; }

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define NO_ROOM(n) \
    if (is_full(n)) { errno = ENOSPC; return -1; }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    long n = enter("write", is_fd_under(fd));
    NO_ROOM(n);
    ssize_t got = real(fd, data, is_half(n, size) ? size / 2 : size);
    leave(n);
    return got;
}
ssize_t writev(int fd, const struct iovec *parts, int n_parts) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    long n = enter("writev", is_fd_under(fd));
    NO_ROOM(n);
    if (is_half(n, parts[0].iov_len)) {
        struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
        real(fd, &half, 1);
        die();
    }
    ssize_t got = real(fd, parts, n_parts);
    leave(n);
    return got;
}
#define PWRITE(function, offset_type) \
    ssize_t function(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #function, int, const void *, size_t, offset_type); \
        long n = enter("pwrite", is_fd_under(fd)); \
        NO_ROOM(n); \
        ssize_t got = real(fd, data, is_half(n, size) ? size / 2 : size, offset); \
        leave(n); \
        return got; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
#define TRUNCATE(function, offset_type) \
    int function(int fd, offset_type size) { \
        REAL(int, #function, int, offset_type); \
        long n = enter("ftruncate", is_fd_under(fd)); \
        NO_ROOM(n); \
        int got = real(fd, size); \
        leave(n); \
        return got; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
#define OPEN(function) \
    int function(const char *path, int flags, ...) { \
        REAL(int, #function, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        long n = enter("create", (flags & O_CREAT) && is_under(path)); \
        NO_ROOM(n); \
        int got = real(path, flags, mode); \
        leave(n); \
        return got; \
    }
OPEN(open)
OPEN(open64)
int fsync(int fd) {
    REAL(int, "fsync", int);
    long n = enter("fsync", is_fd_under(fd));
    int got = real(fd);
    leave(n);
    return got;
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    long n = enter("mkdir", is_under(path));
    NO_ROOM(n);
    int got = real(path, mode);
    leave(n);
    return got;
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    long n = enter("unlink", is_under(path));
    int got = real(path);
    leave(n);
    return got;
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    long n = enter("rename", is_under(to));
    int got = real(from, to);
    leave(n);
    return got;
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    long n = enter("link", is_under(to));
    NO_ROOM(n);
    int got = real(from, to);
    leave(n);
    return got;
}
