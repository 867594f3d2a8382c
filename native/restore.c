#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "digest.h"
#include "dirs.h"
#include "nar.h"

static const struct timespec canonical_times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

struct restorer {
    struct nar_parser parser;
    struct digest digest;
    struct dirs dirs;
    int parent, file; /* descriptors; `file` is -1 between files */
    bool fsync, done;
    char *name;
    char *kept_xattrs; /* names, each ended by a NUL; an empty one ends the list */
    char xattrs[XATTR_LIST_MAX];
};

int restorer_new(const char *parent, const char *name, uint32_t max_depth, bool fsync, const char *kept_xattrs,
                 size_t kept_len, struct restorer **out)
{
    int error = ENOMEM;
    struct restorer *restorer = calloc(1, sizeof *restorer);
    if (!restorer)
        return error;
    nar_init(&restorer->parser, max_depth);
    restorer->file = restorer->parent = -1;
    restorer->fsync = fsync;
    restorer->name = strdup(name);
    restorer->kept_xattrs = calloc(1, kept_len + 1);
    if (!digest_init(&restorer->digest) || !restorer->name || !restorer->kept_xattrs)
        goto failed;
    memcpy(restorer->kept_xattrs, kept_xattrs, kept_len);
    restorer->parent = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (restorer->parent < 0) {
        error = errno;
        goto failed;
    }
    *out = restorer;
    return 0;
failed:
    restorer_free(restorer);
    return error;
}

void restorer_free(struct restorer *restorer)
{
    dirs_free(&restorer->dirs);
    if (restorer->file >= 0)
        close(restorer->file);
    if (restorer->parent >= 0)
        close(restorer->parent);
    digest_free(&restorer->digest);
    nar_free(&restorer->parser);
    free(restorer->kept_xattrs);
    free(restorer->name);
    free(restorer);
}

static bool is_kept(const struct restorer *restorer, const char *xattr)
{
    for (const char *kept = restorer->kept_xattrs; *kept; kept += strlen(kept) + 1)
        if (strcmp(kept, xattr) == 0)
            return true;
    return false;
}

/* Remove the extended attributes that the file system gave something we have just created: an ACL inherited from the
 * directory above, a security label.  Given a descriptor, or else a path that is not followed. */
static int remove_xattrs(struct restorer *restorer, int fd, const char *path)
{
    ssize_t len = path ? llistxattr(path, restorer->xattrs, sizeof restorer->xattrs)
                       : flistxattr(fd, restorer->xattrs, sizeof restorer->xattrs);
    if (len < 0)
        return errno == ENOTSUP ? 0 : errno;
    for (const char *name = restorer->xattrs; name < restorer->xattrs + len; name += strlen(name) + 1) {
        if (is_kept(restorer, name))
            continue;
        if ((path ? lremovexattr(path, name) : fremovexattr(fd, name)) < 0 && errno != ENODATA)
            return errno;
    }
    return 0;
}

/* The directory to create the current node in, and its name there. */
static int where(const struct restorer *restorer, const char **name)
{
    *name = nar_name(&restorer->parser);
    if (**name)
        return dirs_fd(&restorer->dirs);
    *name = restorer->name;
    return restorer->parent;
}

static int create_file(struct restorer *restorer)
{
    const char *name;
    int dir = where(restorer, &name);
    restorer->file = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return restorer->file < 0 ? errno : remove_xattrs(restorer, restorer->file, NULL);
}

static int write_file(const struct restorer *restorer)
{
    const uint8_t *data = restorer->parser.data;
    size_t left = restorer->parser.data_len;
    while (left) {
        ssize_t written = write(restorer->file, data, left);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        data += written;
        left -= (size_t)written;
    }
    return 0;
}

static int make_canonical(const struct restorer *restorer, int fd, mode_t mode)
{
    if (fchmod(fd, mode) < 0 || futimens(fd, canonical_times) < 0)
        return errno;
    return restorer->fsync && fsync(fd) < 0 ? errno : 0;
}

static int finish_file(struct restorer *restorer)
{
    int error = make_canonical(restorer, restorer->file, restorer->parser.executable ? 0555 : 0444);
    /* Some file systems report a failed write only here. */
    if (close(restorer->file) < 0 && !error && errno != EINTR)
        error = errno;
    restorer->file = -1;
    return error;
}

static int create_symlink(struct restorer *restorer)
{
    char target[NAR_TARGET_MAX + 1];
    memcpy(target, restorer->parser.data, restorer->parser.data_len);
    target[restorer->parser.data_len] = '\0';
    const char *name;
    int dir = where(restorer, &name);
    if (symlinkat(target, dir, name) < 0 || utimensat(dir, name, canonical_times, AT_SYMLINK_NOFOLLOW) < 0)
        return errno;
    /* No call lists the attributes of a symlink by descriptor. */
    char path[sizeof "/proc/self/fd//" + 10 + NAME_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dir, name);
    int error = remove_xattrs(restorer, -1, path);
    /* The link exists, so what does not is /proc. */
    return error == ENOENT ? 0 : error;
}

static int create_directory(struct restorer *restorer)
{
    const char *name;
    /* The parser is one level ahead of us: it is inside the directory that we are about to make. */
    int dir = where(restorer, &name);
    if (mkdirat(dir, name, 0700) < 0)
        return errno;
    int error = dirs_enter(&restorer->dirs, dir, name);
    return error ? error : remove_xattrs(restorer, dirs_fd(&restorer->dirs), NULL);
}

static int finish_directory(struct restorer *restorer)
{
    int error = make_canonical(restorer, dirs_fd(&restorer->dirs), 0555);
    return error ? error : dirs_leave(&restorer->dirs);
}

static int finish(struct restorer *restorer)
{
    if (restorer->fsync && fsync(restorer->parent) < 0)
        return errno;
    restorer->done = true;
    return 0;
}

static int act(struct restorer *restorer, enum nar_event event)
{
    switch (event) {
    case NAR_FILE:
        return create_file(restorer);
    case NAR_DATA:
        return write_file(restorer);
    case NAR_FILE_END:
        return finish_file(restorer);
    case NAR_SYMLINK:
        return create_symlink(restorer);
    case NAR_DIRECTORY:
        return create_directory(restorer);
    case NAR_DIRECTORY_END:
        return finish_directory(restorer);
    case NAR_DONE:
        return finish(restorer);
    default:
        return 0;
    }
}

static int64_t fail(struct restorer *restorer, int os_error)
{
    restorer->parser.error.code = NAR_E_OS;
    restorer->parser.error.os_error = os_error;
    nar_set_error_path(&restorer->parser);
    return -1;
}

int64_t restorer_feed(struct restorer *restorer, const uint8_t *in, size_t len)
{
    if (restorer->parser.error.code)
        return -1;
    if (restorer->done)
        return 0;
    nar_put_data(&restorer->parser, in, len);
    enum nar_event event;
    do {
        event = nar_step(&restorer->parser);
        if (event == NAR_INVALID)
            return -1;
        int error = act(restorer, event);
        if (error)
            return fail(restorer, error);
    } while (event != NAR_NEED_DATA && event != NAR_DONE);
    size_t consumed = len - restorer->parser.in_len;
    if (!digest_update(&restorer->digest, in, consumed) || (restorer->done && !digest_finish(&restorer->digest)))
        return fail(restorer, ENOMEM);
    return (int64_t)consumed;
}

const uint8_t *restorer_digest(const struct restorer *restorer)
{
    return restorer->done ? restorer->digest.value : NULL;
}

const struct nar_error *restorer_error(const struct restorer *restorer)
{
    return &restorer->parser.error;
}
