/* What the parent has said so far, as far as it is not answered: another one who answers instead has to hear it again. */
#ifndef FERRY_KEPT_H
#define FERRY_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Settings and one request are a few KiB, and what is sent ahead is a parent's mistake. */
enum { MAX_KEPT_BYTES = 64 << 20 };

struct kept {
    char *data;
    size_t len;
    bool asked; /* whether the parent has said anything that is not answered */
    bool ended; /* whether the parent has said its last word */
};

/* Read once from standard input.  Returns how many bytes were added, 0 at the end, -1 if there is no room for them. */
ssize_t keep_more(struct kept *kept);

/* Whether the parent has no more questions; waits for one. */
bool is_over(struct kept *kept);

/* Put `data` in the place of `count` bytes at `at`.  False, with nothing changed, if there are not so many, or no room. */
bool replace(struct kept *kept, size_t at, size_t count, const char *data, size_t len);

#endif
