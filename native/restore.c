#include "restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "dirs.h"
#include "nar.h"
#include "xattrs.h"

static const struct timespec canonical_times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

struct restorer {
    struct nar_parser parser;
    const uint8_t *unhashed; /* of the input that is being consumed */
    struct digest digest;
    struct dirs dirs;
    int parent, file; /* descriptors; `file` is -1 between files */
    bool fsync, done;
    char *name;
    struct xattrs xattrs;
    bool has_mode; /* `file` needs no fchmod() any more */
    /* What the last file, the last symlink created in this directory have shown of their siblings to come. */
    struct {
        bool plain_files, plain_links; /* no attributes */
        bool modes_kept[2];            /* of plain and executable files: neither umask nor ACL takes a bit away */
    } seen;
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
    if (!restorer->name || !digest_init(&restorer->digest) || !xattrs_init(&restorer->xattrs, kept_xattrs, kept_len))
        goto failed;
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
    xattrs_free(&restorer->xattrs);
    free(restorer->name);
    free(restorer);
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
    bool executable = restorer->parser.executable;
    mode_t mode = executable ? 0555 : 0444;
    /* Attributes can be removed from a file that is writable. */
    restorer->file = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                            restorer->seen.plain_files ? mode : 0600);
    restorer->has_mode = restorer->seen.plain_files && restorer->seen.modes_kept[executable];
    if (restorer->file < 0)
        return errno;
    if (!restorer->seen.plain_files)
        return xattrs_remove(&restorer->xattrs, restorer->file, &restorer->seen.plain_files);
    if (restorer->has_mode)
        return 0;
    struct stat st;
    if (fstat(restorer->file, &st) < 0)
        return errno;
    restorer->has_mode = restorer->seen.modes_kept[executable] = (st.st_mode & 07777) == mode;
    return 0;
}

static int write_all(int fd, const uint8_t *data, size_t left)
{
    while (left) {
        ssize_t written = write(fd, data, left);
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

/* Hash what was parsed before `end`. */
static int hash_until(struct restorer *restorer, const uint8_t *end)
{
    size_t len = (size_t)(end - restorer->unhashed);
    if (len && !digest_aside(&restorer->digest, restorer->unhashed, len))
        return ENOMEM;
    restorer->unhashed = end;
    return 0;
}

static int write_file(struct restorer *restorer)
{
    const uint8_t *data = restorer->parser.data;
    size_t len = restorer->parser.data_len;
    /* First, so that both go on at the same time. */
    int error = len < DIGEST_ASIDE_MIN ? 0 : hash_until(restorer, data + len);
    return error ? error : write_all(restorer->file, data, len);
}

static int make_canonical(const struct restorer *restorer, int fd, bool has_mode, mode_t mode)
{
    if ((!has_mode && fchmod(fd, mode) < 0) || futimens(fd, canonical_times) < 0)
        return errno;
    return restorer->fsync && fsync(fd) < 0 ? errno : 0;
}

static int finish_file(struct restorer *restorer)
{
    mode_t mode = restorer->parser.executable ? 0555 : 0444;
    int error = make_canonical(restorer, restorer->file, restorer->has_mode, mode);
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
    return restorer->seen.plain_links ? 0 : xattrs_remove_link(&restorer->xattrs, dir, name, &restorer->seen.plain_links);
}

static int create_directory(struct restorer *restorer)
{
    const char *name;
    int dir = where(restorer, &name);
    bool plain;
    if (mkdirat(dir, name, 0700) < 0)
        return errno;
    int error = dirs_enter(&restorer->dirs, dir, name);
    memset(&restorer->seen, 0, sizeof restorer->seen);
    return error ? error : xattrs_remove(&restorer->xattrs, dirs_fd(&restorer->dirs), &plain);
}

static int finish_directory(struct restorer *restorer)
{
    int error = make_canonical(restorer, dirs_fd(&restorer->dirs), false, 0555);
    memset(&restorer->seen, 0, sizeof restorer->seen);
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
    restorer->unhashed = in;
    enum nar_event event;
    do {
        event = nar_step(&restorer->parser);
        if (event == NAR_INVALID)
            return -1;
        int error = act(restorer, event);
        if (error)
            return fail(restorer, error);
    } while (event != NAR_NEED_DATA && event != NAR_DONE);
    size_t consumed = len - restorer->parser.input.len;
    if (hash_until(restorer, in + consumed) || (restorer->done && !digest_finish(&restorer->digest)))
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
