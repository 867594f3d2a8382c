/* What the C tests share: a check that says where it failed, and memory that ends in a page nobody may touch. */
#ifndef FERRY_CHECK_H
#define FERRY_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                               \
        }                                                                          \
    } while (0)

struct guarded {
    uint8_t *bytes; /* `len` of them; the next one faults */
    void *map;
    size_t map_len;
};

static inline struct guarded guard(const void *bytes, size_t len)
{
    const size_t page = 4096;
    struct guarded guarded = {.map_len = (len / page + 2) * page};
    guarded.map = mmap(NULL, guarded.map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(guarded.map != MAP_FAILED);
    uint8_t *end = (uint8_t *)guarded.map + guarded.map_len - page;
    CHECK(mprotect(end, page, PROT_NONE) == 0);
    guarded.bytes = end - len;
    if (len && bytes)
        memcpy(guarded.bytes, bytes, len);
    return guarded;
}

static inline void unguard(struct guarded guarded)
{
    CHECK(munmap(guarded.map, guarded.map_len) == 0);
}

#endif
