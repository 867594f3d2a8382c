#include "wire.h"

#include <string.h>

uint64_t wire_get_u64(const uint8_t in[8])
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value |= (uint64_t)in[i] << (8 * i);
    return value;
}

void wire_put_u64(uint8_t out[8], uint64_t value)
{
    for (int i = 0; i < 8; i++, value >>= 8)
        out[i] = (uint8_t)value;
}

size_t wire_padding(uint64_t size)
{
    return (size_t)(-size & 7);
}

int64_t wire_get_string(const uint8_t *in, size_t len, size_t max, const uint8_t **out, size_t *outlen)
{
    if (len < 8)
        return WIRE_PARTIAL;
    uint64_t size = wire_get_u64(in);
    if (size > max)
        return WIRE_TOO_LONG;
    size_t padding = wire_padding(size);
    if (len - 8 < size || len - 8 - size < padding)
        return WIRE_PARTIAL;
    const uint8_t *end = in + 8 + size;
    for (size_t i = 0; i < padding; i++)
        if (end[i])
            return WIRE_PADDING;
    *out = in + 8;
    *outlen = size;
    return (int64_t)(8 + size + padding);
}

size_t wire_put_string(uint8_t *out, const void *bytes, size_t len)
{
    size_t padding = wire_padding(len);
    wire_put_u64(out, len);
    if (len)
        memcpy(out + 8, bytes, len);
    memset(out + 8 + len, 0, padding);
    return 8 + len + padding;
}

int64_t wire_join_strings(const uint8_t *in, size_t len, size_t max_each, size_t max_count, char *out, size_t *count,
                          size_t *joined)
{
    size_t at = 0, to = 0, strings = 0;
    for (; strings < max_count; strings++) {
        const uint8_t *string;
        size_t size;
        int64_t taken = wire_get_string(in + at, len - at, max_each, &string, &size);
        if (taken == WIRE_PARTIAL)
            break;
        if (taken < 0)
            return taken;
        if (memchr(string, 0, size))
            return WIRE_NUL;
        if (strings)
            out[to++] = '\0';
        memcpy(out + to, string, size);
        to += size;
        at += (size_t)taken;
    }
    *count = strings;
    *joined = to;
    return (int64_t)at;
}

int64_t wire_put_joined(uint8_t *out, const char *joined, size_t len, size_t count)
{
    const char *end = joined + len;
    uint8_t *at = out;
    wire_put_u64(at, count);
    at += 8;
    for (; count > 1; count--) {
        const char *nul = memchr(joined, 0, (size_t)(end - joined));
        if (!nul)
            return WIRE_NUL;
        at += wire_put_string(at, joined, (size_t)(nul - joined));
        joined = nul + 1;
    }
    if (memchr(joined, 0, (size_t)(end - joined)))
        return WIRE_NUL;
    at += wire_put_string(at, joined, (size_t)(end - joined));
    return at - out;
}
