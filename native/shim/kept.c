#include "kept.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 64 << 10 };

/* Have room for `len` bytes. */
static bool reserve(struct kept *kept, size_t len)
{
    if (len > MAX_KEPT_BYTES)
        return false;
    char *data = realloc(kept->data, len + 1);
    if (data)
        kept->data = data;
    return data;
}

ssize_t keep_more(struct kept *kept)
{
    if (!reserve(kept, kept->len + CHUNK_BYTES))
        return -1;
    ssize_t got;
    do
        got = read(0, kept->data + kept->len, CHUNK_BYTES);
    while (got < 0 && errno == EINTR);
    if (got <= 0) {
        /* What cannot be read any more has come to its end. */
        kept->ended = true;
        return 0;
    }
    kept->len += (size_t)got;
    kept->asked = true;
    return got;
}

bool is_over(struct kept *kept)
{
    return !kept->asked && (kept->ended || keep_more(kept) == 0);
}

bool replace(struct kept *kept, size_t at, size_t count, const char *data, size_t len)
{
    /* With room for both: what follows is moved before it is known to be shorter. */
    if (at > kept->len || count > kept->len - at || len > MAX_KEPT_BYTES || !reserve(kept, kept->len + len))
        return false;
    char *place = kept->data + at;
    memmove(place + len, place + count, kept->len - at - count);
    if (len > 0)
        memcpy(place, data, len);
    kept->len = kept->len - count + len;
    return true;
}
