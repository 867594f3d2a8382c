/* Arrays that double, so that growing them one by one stays linear. */
#ifndef FERRY_GROW_H
#define FERRY_GROW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Make room for `need` items of `size` bytes in the array at *items.  False, and nothing changed, without memory. */
static inline bool grow(void **items, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity)
        return true;
    if (need > SIZE_MAX / 2 / size)
        return false;
    size_t room = *capacity ? *capacity : 16;
    while (room < need)
        room *= 2;
    void *moved = realloc(*items, room * size);
    if (!moved)
        return false;
    *items = moved;
    *capacity = room;
    return true;
}

#endif
