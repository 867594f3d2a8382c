/* The sorted entries of each directory on the way from the root of a dump to where it is. */
#ifndef FERRY_LISTING_H
#define FERRY_LISTING_H

#include <stdbool.h>
#include <stddef.h>

struct listing {
    /* One stack of bytes (type, name, NUL) and one of offsets into it serve all levels; a level is a range of each. */
    char *bytes;
    size_t bytes_len, bytes_room;
    size_t *order;
    size_t order_len, order_room;
    struct level {
        size_t bytes_start, order_start;
        size_t next; /* index in `order` of the entry to come */
    } *levels;
    size_t depth, levels_room;
};

/* Read the directory open at `fd` as a new innermost level.  Returns 0 or an errno. */
int listing_enter(struct listing *listing, int fd);

/* The next entry of the innermost level in bytewise order, NULL after the last.  *type is its DT_ constant, DT_UNKNOWN where
 * the file system does not say.  The name lives until the level is left. */
const char *listing_next(struct listing *listing, unsigned char *type);

void listing_leave(struct listing *listing);

/* The path that listing_next() has led to, "/a/b": writes the last bytes that fit, returns its whole length. */
size_t listing_path(const struct listing *listing, char *out, size_t len);

void listing_free(struct listing *listing);

#endif
