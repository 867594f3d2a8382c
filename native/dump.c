#include "dump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "dirs.h"
#include "listing.h"
#include "nar.h"
#include "wire.h"

enum state { START, CONTENTS, ENTRIES, END };

/* The most that one step adds to `tokens` is a symlink in a directory: 14 strings, one of them a name, one a target. */
enum { TOKENS_MAX = 14 * 24 + NAR_NAME_MAX + NAR_TARGET_MAX };

struct dumper {
    struct digest digest;
    struct dirs dirs;
    struct listing listing;
    struct nar_error error;
    enum state state;
    uint32_t max_depth;
    int file; /* descriptor, -1 between files */
    uint64_t file_size, left; /* contents of it: all, still to read */
    bool at_end;              /* its end was seen behind them */
    bool hashing, finished;
    size_t tokens_at, tokens_len;
    char *path;
    uint8_t tokens[TOKENS_MAX]; /* what the grammar wants next, from tokens_at to tokens_len */
};

int dumper_new(const char *path, uint32_t max_depth, bool hashing, struct dumper **out)
{
    struct dumper *dumper = calloc(1, sizeof *dumper);
    if (!dumper)
        return ENOMEM;
    dumper->file = -1;
    dumper->max_depth = max_depth < NAR_DEPTH_CEILING ? max_depth : NAR_DEPTH_CEILING;
    dumper->path = strdup(path);
    dumper->hashing = hashing;
    if ((hashing && !digest_init(&dumper->digest)) || !dumper->path) {
        dumper_free(dumper);
        return ENOMEM;
    }
    *out = dumper;
    return 0;
}

void dumper_free(struct dumper *dumper)
{
    if (dumper->file >= 0)
        close(dumper->file);
    dirs_free(&dumper->dirs);
    listing_free(&dumper->listing);
    digest_free(&dumper->digest);
    free(dumper->path);
    free(dumper);
}

/* Negative, so that it differs from a count; the caller passes it on as it is. */
static int fail(struct dumper *dumper, int code, int os_error)
{
    struct nar_error *error = &dumper->error;
    error->code = code;
    error->os_error = os_error;
    error->path_len = listing_path(&dumper->listing, error->path, sizeof error->path);
    return -1;
}

static int fail_os(struct dumper *dumper, int os_error)
{
    return fail(dumper, NAR_E_OS, os_error);
}

static void put(struct dumper *dumper, const void *bytes, size_t len)
{
    dumper->tokens_len += wire_put_string(dumper->tokens + dumper->tokens_len, bytes, len);
}

static void put_tag(struct dumper *dumper, const char *tag)
{
    put(dumper, tag, strlen(tag));
}

static void put_type(struct dumper *dumper, const char *type)
{
    put_tag(dumper, "(");
    put_tag(dumper, "type");
    put_tag(dumper, type);
}

/* End a node, and the entry it is the node of. */
static void put_close(struct dumper *dumper)
{
    put_tag(dumper, ")");
    if (dumper->dirs.depth)
        put_tag(dumper, ")");
    dumper->state = dumper->dirs.depth ? ENTRIES : END;
}

static int open_file(struct dumper *dumper, int dir, const char *name)
{
    /* Never wait for a fifo or take a terminal that has got the name since it was looked up. */
    dumper->file = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    if (dumper->file < 0 || fstat(dumper->file, &st) < 0)
        return fail_os(dumper, errno);
    if (!S_ISREG(st.st_mode))
        return fail(dumper, NAR_E_FILETYPE, 0);
    put_type(dumper, "regular");
    if (st.st_mode & S_IXUSR) {
        put_tag(dumper, "executable");
        put_tag(dumper, "");
    }
    put_tag(dumper, "contents");
    dumper->file_size = dumper->left = (uint64_t)st.st_size;
    wire_put_u64(dumper->tokens + dumper->tokens_len, dumper->file_size);
    dumper->tokens_len += 8;
    dumper->at_end = false;
    dumper->state = CONTENTS;
    return 0;
}

static int put_symlink(struct dumper *dumper, int dir, const char *name)
{
    char target[NAR_TARGET_MAX + 1];
    ssize_t len = readlinkat(dir, name, target, sizeof target);
    if (len < 0)
        return fail_os(dumper, errno);
    if (len > NAR_TARGET_MAX)
        return fail_os(dumper, ENAMETOOLONG);
    put_type(dumper, "symlink");
    put_tag(dumper, "target");
    put(dumper, target, (size_t)len);
    put_close(dumper);
    return 0;
}

static int enter_directory(struct dumper *dumper, int dir, const char *name)
{
    int error = dirs_enter(&dumper->dirs, dir, name);
    if (!error)
        error = listing_enter(&dumper->listing, dirs_fd(&dumper->dirs));
    if (error)
        return fail_os(dumper, error);
    put_type(dumper, "directory");
    dumper->state = ENTRIES;
    return 0;
}

static int begin_node(struct dumper *dumper, int dir, const char *name, unsigned char type)
{
    if (dumper->dirs.depth > dumper->max_depth)
        return fail(dumper, NAR_E_DEPTH, 0);
    if (type == DT_UNKNOWN) {
        struct stat st;
        if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return fail_os(dumper, errno);
        type = (unsigned char)IFTODT(st.st_mode);
    }
    switch (type) {
    case DT_REG:
        return open_file(dumper, dir, name);
    case DT_LNK:
        return put_symlink(dumper, dir, name);
    case DT_DIR:
        return enter_directory(dumper, dir, name);
    default:
        return fail(dumper, NAR_E_FILETYPE, 0);
    }
}

static int next_entry(struct dumper *dumper)
{
    unsigned char type;
    const char *name = listing_next(&dumper->listing, &type);
    if (!name) {
        listing_leave(&dumper->listing);
        int error = dirs_leave(&dumper->dirs);
        if (error)
            return fail_os(dumper, error);
        put_close(dumper);
        return 0;
    }
    put_tag(dumper, "entry");
    put_tag(dumper, "(");
    put_tag(dumper, "name");
    put_tag(dumper, name);
    put_tag(dumper, "node");
    return begin_node(dumper, dirs_fd(&dumper->dirs), name, type);
}

static int finish_file(struct dumper *dumper)
{
    uint8_t more;
    ssize_t got = dumper->at_end ? 0 : read(dumper->file, &more, 1);
    if (got < 0)
        return errno == EINTR ? 0 : fail_os(dumper, errno); /* after 0 this step is taken again */
    if (got)
        return fail(dumper, NAR_E_CHANGED, 0);
    close(dumper->file);
    dumper->file = -1;
    size_t padding = wire_padding(dumper->file_size);
    memset(dumper->tokens + dumper->tokens_len, 0, padding);
    dumper->tokens_len += padding;
    put_close(dumper);
    return 0;
}

/* Fill `tokens`, or open the file whose contents come next. */
static int step(struct dumper *dumper)
{
    dumper->tokens_at = dumper->tokens_len = 0;
    switch (dumper->state) {
    case START:
        put_tag(dumper, NAR_MAGIC);
        return begin_node(dumper, AT_FDCWD, dumper->path, DT_UNKNOWN);
    case CONTENTS:
        return finish_file(dumper);
    case ENTRIES:
        return next_entry(dumper);
    default:
        return 0;
    }
}

static int64_t read_file(struct dumper *dumper, uint8_t *out, size_t len)
{
    /* Where there is room, ask for a byte more than the size: not getting it saves asking for the end of the file. */
    size_t wanted = dumper->left < len ? (size_t)dumper->left + 1 : len;
    ssize_t got = read(dumper->file, out, wanted);
    if (got < 0)
        return errno == EINTR ? 0 : fail_os(dumper, errno);
    if (got == 0 || (uint64_t)got > dumper->left)
        return fail(dumper, NAR_E_CHANGED, 0);
    dumper->left -= (uint64_t)got;
    dumper->at_end = dumper->left == 0 && (size_t)got < wanted;
    return got;
}

static size_t take_tokens(struct dumper *dumper, uint8_t *out, size_t len)
{
    size_t size = dumper->tokens_len - dumper->tokens_at;
    if (size > len)
        size = len;
    memcpy(out, dumper->tokens + dumper->tokens_at, size);
    dumper->tokens_at += size;
    return size;
}

static bool hash(struct dumper *dumper, const uint8_t *bytes, size_t len)
{
    if (!dumper->hashing)
        return true;
    return digest_aside(&dumper->digest, bytes, len) && (!dumper->finished || digest_finish(&dumper->digest));
}

int64_t dumper_read(struct dumper *dumper, uint8_t *out, size_t len)
{
    if (dumper->error.code)
        return -1;
    if (dumper->finished)
        return 0;
    size_t put_len = 0;
    while (put_len < len) {
        int64_t got;
        if (dumper->tokens_at < dumper->tokens_len)
            got = (int64_t)take_tokens(dumper, out + put_len, len - put_len);
        else if (dumper->left)
            got = read_file(dumper, out + put_len, len - put_len);
        else if (dumper->state == END)
            break;
        else
            got = step(dumper);
        if (got < 0)
            return -1;
        put_len += (size_t)got;
    }
    dumper->finished = put_len < len;
    return hash(dumper, out, put_len) ? (int64_t)put_len : fail_os(dumper, ENOMEM);
}

const uint8_t *dumper_digest(const struct dumper *dumper)
{
    return dumper->hashing && dumper->finished ? dumper->digest.value : NULL;
}

const struct nar_error *dumper_error(const struct dumper *dumper)
{
    return &dumper->error;
}
