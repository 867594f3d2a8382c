/* What a disk and a clock do wrong, for programs that are started with this library in LD_PRELOAD.
 *
 * While EIO_FILE exists, nix-ferry's own programs cannot write to files below the store or its database.  While
 * CLOCK_FILE exists, it is a day later for everybody.  Calls nothing but system calls, so that any libc may load it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EIO_FILE "/run/faults/eio"
#define CLOCK_FILE "/run/faults/clock"
#define DAY_S 86400

static int is_ours(void)
{
    char name[32] = "";
    long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/comm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    syscall(SYS_read, fd, name, sizeof name - 1);
    syscall(SYS_close, fd);
    return strncmp(name, "nix-ferry", 9) == 0;
}

static int is_broken(int fd)
{
    int saved = errno, broken = 0;
    if (syscall(SYS_faccessat, AT_FDCWD, EIO_FILE, F_OK) == 0 && is_ours()) {
        char link[64], path[4096] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
        broken = strncmp(path, "/nix/store/", 11) == 0 || strncmp(path, "/nix/var/nix/db/", 16) == 0;
    }
    errno = broken ? EIO : saved;
    return broken;
}

ssize_t write(int fd, const void *data, size_t size)
{
    return is_broken(fd) ? -1 : syscall(SYS_write, fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return is_broken(fd) ? -1 : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return is_broken(fd) ? -1 : syscall(SYS_pwrite64, fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return pwrite64(fd, data, size, at);
}

static time_t offset(void)
{
    int saved = errno;
    time_t found = syscall(SYS_faccessat, AT_FDCWD, CLOCK_FILE, F_OK) == 0 ? DAY_S : 0;
    errno = saved;
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += offset();
    return (int)result;
}

int gettimeofday(struct timeval *now, void *zone)
{
    long result = syscall(SYS_gettimeofday, now, zone);
    if (result == 0)
        now->tv_sec += offset();
    return (int)result;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
