/* The NAR grammar as an incremental parser: bytes in, events out, no I/O.
 *
 * Strict: field order, strictly ascending names and every length are enforced, whatever the pieces the input comes in.
 * Memory is bounded by the depth limit: one string of at most 4 KiB, and the path of the current node.
 */
#ifndef FERRY_NAR_H
#define FERRY_NAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "input.h"

#define NAR_MAGIC "nix-archive-1"

enum {
    NAR_TAG_MAX = 32,
    NAR_NAME_MAX = 255,
    NAR_TARGET_MAX = 4095,
    /* Ends even "unlimited" nesting, since each level costs memory.  Far beyond what stock can create: it uses absolute
     * paths, so PATH_MAX stops it before 2,048. */
    NAR_DEPTH_CEILING = 65536
};

enum nar_event {
    NAR_NEED_DATA,     /* all input is consumed */
    NAR_FILE,          /* a regular file begins: `executable`, `size` */
    NAR_DATA,          /* some of its contents: `data`, `data_len` > 0 */
    NAR_FILE_END,      /* it is complete */
    NAR_SYMLINK,       /* a symlink to `data`, `data_len` (no NUL inside, none after it) */
    NAR_DIRECTORY,     /* a directory begins; what follows lies in it */
    NAR_DIRECTORY_END, /* the innermost directory is complete */
    NAR_DONE,          /* the NAR is complete; nothing after it is consumed */
    NAR_INVALID        /* see `error`; final */
};

struct nar_parser {
    /* What an event says; pointers are valid until the next call. */
    const uint8_t *data;
    size_t data_len;
    uint64_t size;
    bool executable;
    struct nar_error error;

    struct input input; /* what is left of it */

    /* Private from here. */
    int state;
    uint32_t max_depth;
    uint64_t left;                    /* contents still to come */
    char *path;                       /* "/a/b" and a NUL */
    size_t path_len, path_room;
    size_t name_at;                   /* where its last component begins */
    size_t *starts;                   /* per open directory: length of its own path */
    size_t depth, starts_room;
};

/* Nodes deeper than `max_depth` (the root is at 0) are invalid.  Never fails; the state must be released by nar_free(). */
void nar_init(struct nar_parser *parser, uint32_t max_depth);
void nar_free(struct nar_parser *parser);

/* Give the next input.  The previous one must be consumed, and this one must stay until NAR_NEED_DATA. */
void nar_put_data(struct nar_parser *parser, const uint8_t *in, size_t len);

/* The next event. */
enum nar_event nar_step(struct nar_parser *parser);

/* At NAR_FILE, NAR_SYMLINK and NAR_DIRECTORY: the node's name, "" for the root. */
const char *nar_name(const struct nar_parser *parser);

/* Put the current node's path into parser->error. */
void nar_set_error_path(struct nar_parser *parser);

/* Put the end of a path into an error. */
void nar_error_path(struct nar_error *error, const char *path, size_t len);

#endif
