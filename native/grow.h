/* Arrays that double, so that growing them one by one stays linear. */
#ifndef FERRY_GROW_H
#define FERRY_GROW_H

#include <stdint.h>
#include <stdlib.h>

/* The array `items`, moved if need be, with room for `need` > 0 items of `size` bytes.  NULL without memory: then the old
 * array is as it was. */
static inline void *grow(void *items, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity)
        return items;
    if (need > SIZE_MAX / 2 / size)
        return NULL;
    size_t room = *capacity ? *capacity : 16;
    while (room < need)
        room *= 2;
    void *moved = realloc(items, room * size);
    if (moved)
        *capacity = room;
    return moved;
}

#endif
