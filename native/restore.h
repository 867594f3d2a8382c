/* NAR -> files, push style, in the canonical form of a store object (modes 0444 and 0555, mtime 1, no extended
 * attributes but those kept).
 *
 * Everything is created exclusively and relative to the directory above it; nothing that exists is followed, reused or
 * changed.  What was created before an error stays: the caller decides what becomes of it.
 *
 * System calls for a file: openat, write (one a piece), futimens, close; fsync if asked for.  The first two files in a
 * directory cost one more or two, to see what the file system adds or takes away.  Large pieces are hashed in another
 * thread while they are written; nothing of that goes on between two calls.
 */
#ifndef FERRY_RESTORE_H
#define FERRY_RESTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct restorer;

/* Prepare to create `name` in the directory `parent`.  `kept_xattrs` are attribute names, each ended by a NUL, copied
 * here.  `fsync`: every file and directory, and `parent`, is on disk before the restorer is done.  Returns 0 or an
 * errno; *out is set only on success. */
int restorer_new(const char *parent, const char *name, uint32_t max_depth, bool fsync, const char *kept_xattrs,
                 size_t kept_len, struct restorer **out);

/* Returns bytes consumed, all of `in` unless the NAR ends in it; -1 on error, which is final. */
int64_t restorer_feed(struct restorer *restorer, const uint8_t *in, size_t len);

/* SHA-256 of the NAR once it is complete and everything is in place, else NULL. */
const uint8_t *restorer_digest(const struct restorer *restorer);
const struct nar_error *restorer_error(const struct restorer *restorer);
void restorer_free(struct restorer *restorer);

#endif
