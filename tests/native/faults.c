#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned left;
static bool armed;
static int odd;
static unsigned labels_removed;
static unsigned system_calls;
static const char *failed;

void faults_arm(unsigned call)
{
    left = call;
    armed = call > 0;
}

bool faults_fired(void)
{
    bool fired = armed && left == 0;
    armed = false;
    return fired;
}

const char *faults_failed(void)
{
    return failed;
}

void faults_oddities(int oddities)
{
    odd = oddities;
    labels_removed = 0;
}

unsigned faults_labels_removed(void)
{
    return labels_removed;
}

unsigned faults_system_calls(void)
{
    return system_calls;
}

static bool fails(const char *name)
{
    if (!armed || left == 0 || --left > 0)
        return false;
    errno = EIO;
    failed = name;
    return true;
}

static bool call_fails(const char *name)
{
    system_calls++;
    return fails(name);
}

#define WRAP(fails, result, failure, name, parameters, arguments) \
    result __real_##name parameters;                       \
    result __wrap_##name parameters;                       \
    result __wrap_##name parameters                        \
    {                                                      \
        return fails(#name) ? failure : __real_##name arguments; \
    }

WRAP(fails, void *, NULL, malloc, (size_t size), (size))
WRAP(fails, void *, NULL, calloc, (size_t count, size_t size), (count, size))
WRAP(fails, void *, NULL, realloc, (void *old, size_t size), (old, size))
WRAP(fails, char *, NULL, strdup, (const char *text), (text))
WRAP(call_fails, int, -1, fstat, (int fd, struct stat *st), (fd, st))
WRAP(call_fails, int, -1, fstatat, (int dir, const char *name, struct stat *st, int flags), (dir, name, st, flags))
WRAP(call_fails, int, -1, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(call_fails, int, -1, futimens, (int fd, const struct timespec *times), (fd, times))
WRAP(call_fails, int, -1, utimensat, (int dir, const char *name, const struct timespec *times, int flags),
     (dir, name, times, flags))
WRAP(call_fails, int, -1, mkdirat, (int dir, const char *name, mode_t mode), (dir, name, mode))
WRAP(call_fails, int, -1, symlinkat, (const char *target, int dir, const char *name), (target, dir, name))
WRAP(call_fails, int, -1, fsync, (int fd), (fd))
WRAP(call_fails, ssize_t, -1, readlinkat, (int dir, const char *name, char *out, size_t len), (dir, name, out, len))

int __real_openat(int dir, const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return call_fails("openat") ? -1 : __real_openat(dir, name, flags, mode);
}

int __real_open(const char *name, int flags, ...);
int __wrap_open(const char *name, int flags, ...);
int __wrap_open(const char *name, int flags, ...)
{
    return call_fails("open") ? -1 : __real_open(name, flags);
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    bool written = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
    /* A close that fails has closed all the same. */
    int result = __real_close(fd);
    return call_fails(written ? "close" : FAULT_CLOSE_READ) ? -1 : result;
}

static bool interrupted(void)
{
    static bool next;
    next = !next;
    if (odd & FAULT_SHORT && next) {
        errno = EINTR;
        return true;
    }
    return false;
}

ssize_t __real_read(int fd, void *out, size_t len);
ssize_t __wrap_read(int fd, void *out, size_t len);
ssize_t __wrap_read(int fd, void *out, size_t len)
{
    return call_fails("read") || interrupted() ? -1 : __real_read(fd, out, odd & FAULT_SHORT ? 1 : len);
}

ssize_t __real_write(int fd, const void *in, size_t len);
ssize_t __wrap_write(int fd, const void *in, size_t len);
ssize_t __wrap_write(int fd, const void *in, size_t len)
{
    return call_fails("write") || interrupted() ? -1 : __real_write(fd, in, odd & FAULT_SHORT ? 1 : len);
}

ssize_t __real_getdents64(int fd, void *out, size_t len);
ssize_t __wrap_getdents64(int fd, void *out, size_t len);
ssize_t __wrap_getdents64(int fd, void *out, size_t len)
{
    if (call_fails("getdents64"))
        return -1;
    ssize_t got = __real_getdents64(fd, out, len);
    for (ssize_t at = 0; odd & FAULT_UNTYPED && at < got;) {
        struct dirent64 *entry = (struct dirent64 *)(void *)((char *)out + at);
        entry->d_type = DT_UNKNOWN;
        at += entry->d_reclen;
    }
    return got;
}

/* The answer of a system call that lists attributes: 1 for that of the real one. */
static ssize_t listed(char *out, bool by_path)
{
    static const char labels[] = "security.selinux\0trusted.odd";
    if (odd & FAULT_LABELS) {
        memcpy(out, labels, sizeof labels);
        return sizeof labels;
    }
    if (odd & FAULT_NO_XATTRS || (by_path && odd & FAULT_NO_PROC)) {
        errno = odd & FAULT_NO_XATTRS ? ENOTSUP : ENOENT;
        return -1;
    }
    return 1;
}

ssize_t __real_flistxattr(int fd, char *out, size_t len);
ssize_t __wrap_flistxattr(int fd, char *out, size_t len);
ssize_t __wrap_flistxattr(int fd, char *out, size_t len)
{
    ssize_t result = call_fails("flistxattr") ? -1 : listed(out, false);
    return result == 1 ? __real_flistxattr(fd, out, len) : result;
}

ssize_t __real_llistxattr(const char *path, char *out, size_t len);
ssize_t __wrap_llistxattr(const char *path, char *out, size_t len);
ssize_t __wrap_llistxattr(const char *path, char *out, size_t len)
{
    ssize_t result = call_fails("llistxattr") ? -1 : listed(out, true);
    return result == 1 ? __real_llistxattr(path, out, len) : result;
}

/* Only called where FAULT_LABELS made up what is to be removed; every other time it was gone already. */
static int removed(const char *name)
{
    if (strcmp(name, "trusted.odd") != 0)
        abort();
    errno = ENODATA;
    return labels_removed++ % 2 ? -1 : 0;
}

int __wrap_fremovexattr(int fd, const char *name);
int __wrap_fremovexattr(int fd, const char *name)
{
    (void)fd;
    return call_fails("fremovexattr") ? -1 : removed(name);
}

int __wrap_lremovexattr(const char *path, const char *name);
int __wrap_lremovexattr(const char *path, const char *name)
{
    (void)path;
    return call_fails("lremovexattr") ? -1 : removed(name);
}

static void *crypto_malloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return __wrap_malloc(size);
}

static void *crypto_realloc(void *old, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return __wrap_realloc(old, size);
}

static void crypto_free(void *old, const char *file, int line)
{
    (void)file, (void)line;
    free(old);
}

void faults_init(void)
{
    if (!CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free))
        abort();
}
