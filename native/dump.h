/* Files -> NAR, pull style: each call fills the caller's buffer, file contents are read straight into it.
 *
 * No symlink is followed, no recursion is used and few descriptors are open, however deep the tree is.
 *
 * System calls for a file that fits what is left of the buffer: openat, fstat, read, close.
 */
#ifndef FERRY_DUMP_H
#define FERRY_DUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct dumper;

/* Nodes deeper than `max_depth` (the root is at 0) are refused.  `hashing`: the NAR is hashed on the way, large pieces by
 * another thread.  Returns 0 or ENOMEM; *out is set only on success. */
int dumper_new(const char *path, uint32_t max_depth, bool hashing, struct dumper **out);

/* Returns bytes put into `out`: `len` of them except at the end, where it is less, then 0; -1 on error, which is final. */
int64_t dumper_read(struct dumper *dumper, uint8_t *out, size_t len);

/* SHA-256 of the NAR once dumper_read() has returned less than asked for, else NULL; NULL without `hashing`. */
const uint8_t *dumper_digest(const struct dumper *dumper);
const struct nar_error *dumper_error(const struct dumper *dumper);
void dumper_free(struct dumper *dumper);

#endif
