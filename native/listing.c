#include "listing.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "grow.h"
#include "nar.h"

static int add(struct listing *listing, const char *name, unsigned char type)
{
    size_t size = strlen(name) + 1;
    if (size > NAR_NAME_MAX + 1)
        return ENAMETOOLONG; /* some file systems count characters, not bytes */
    char *bytes = grow(listing->bytes, &listing->bytes_room, listing->bytes_len + 1 + size, 1);
    if (!bytes)
        return ENOMEM;
    listing->bytes = bytes;
    size_t *order = grow(listing->order, &listing->order_room, listing->order_len + 1, sizeof *order);
    if (!order)
        return ENOMEM;
    listing->order = order;
    listing->order[listing->order_len++] = listing->bytes_len;
    listing->bytes[listing->bytes_len] = (char)type;
    memcpy(listing->bytes + listing->bytes_len + 1, name, size);
    listing->bytes_len += 1 + size;
    return 0;
}

static bool is_self_or_parent(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static int add_all(struct listing *listing, int fd)
{
    /* getdents64 works on the descriptor that the dump keeps anyway; a DIR would need one of its own. */
    _Alignas(struct dirent64) char entries[32768];
    for (;;) {
        ssize_t len = getdents64(fd, entries, sizeof entries);
        if (len <= 0)
            return len < 0 ? errno : 0;
        for (char *at = entries; at < entries + len;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)at;
            at += entry->d_reclen;
            if (is_self_or_parent(entry->d_name))
                continue;
            int error = add(listing, entry->d_name, entry->d_type);
            if (error)
                return error;
        }
    }
}

static int compare(const void *left, const void *right, void *bytes)
{
    const char *names = (const char *)bytes + 1;
    return strcmp(names + *(const size_t *)left, names + *(const size_t *)right);
}

int listing_enter(struct listing *listing, int fd)
{
    struct level *levels = grow(listing->levels, &listing->levels_room, listing->depth + 1, sizeof *levels);
    if (!levels)
        return ENOMEM;
    listing->levels = levels;
    struct level *level = &levels[listing->depth++];
    *level = (struct level){listing->bytes_len, listing->order_len, listing->order_len};
    int error = add_all(listing, fd);
    if (!error && listing->order_len > level->order_start)
        qsort_r(listing->order + level->order_start, listing->order_len - level->order_start, sizeof *listing->order,
                compare, listing->bytes);
    return error;
}

const char *listing_next(struct listing *listing, unsigned char *type)
{
    struct level *level = &listing->levels[listing->depth - 1];
    if (level->next == listing->order_len)
        return NULL;
    const char *entry = listing->bytes + listing->order[level->next++];
    *type = (unsigned char)entry[0];
    return entry + 1;
}

void listing_leave(struct listing *listing)
{
    const struct level *level = &listing->levels[--listing->depth];
    listing->bytes_len = level->bytes_start;
    listing->order_len = level->order_start;
}

size_t listing_path(const struct listing *listing, char *out, size_t len)
{
    size_t total = 0, at = len;
    for (size_t i = listing->depth; i-- > 0;) {
        const struct level *level = &listing->levels[i];
        if (level->next == level->order_start)
            continue; /* just entered: the path is the directory's own */
        const char *name = listing->bytes + listing->order[level->next - 1] + 1;
        size_t size = strlen(name);
        total += size + 1;
        size_t kept = size < at ? size : at;
        at -= kept;
        memcpy(out + at, name + size - kept, kept);
        if (at)
            out[--at] = '/';
    }
    memmove(out, out + at, len - at);
    return total;
}

void listing_free(struct listing *listing)
{
    free(listing->bytes);
    free(listing->order);
    free(listing->levels);
    *listing = (struct listing){0};
}
