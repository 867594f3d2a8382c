/* The primitives of Nix's protocols: little-endian u64, strings padded to 8 bytes, lists of strings.
 *
 * Nothing here allocates, copies input without being asked to, or does I/O.  Input that ends early and input that is
 * wrong are told apart by the negative results below; every limit is checked before arithmetic is done with a length.
 */
#ifndef FERRY_WIRE_H
#define FERRY_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum {
    WIRE_PARTIAL = -1,  /* the input ends before the value does */
    WIRE_TOO_LONG = -2, /* a string exceeds its limit */
    WIRE_PADDING = -3,  /* padding that is not zero */
    WIRE_NUL = -4       /* a NUL inside a string of a list */
};

uint64_t wire_get_u64(const uint8_t in[8]);
void wire_put_u64(uint8_t out[8], uint64_t value);

/* Zero bytes that follow `size` bytes of string: 0..7. */
size_t wire_padding(uint64_t size);

/* Take one string: u64le length, bytes, zero padding to 8.  Returns bytes consumed, WIRE_PARTIAL if `in` ends early,
 * WIRE_TOO_LONG if longer than `max`, WIRE_PADDING if badly padded.  *out points into `in`; nothing is copied. */
int64_t wire_get_string(const uint8_t *in, size_t len, size_t max, const uint8_t **out, size_t *outlen);

/* Write one string to `out`, which has room for 8 + len + wire_padding(len) bytes; returns that number. */
size_t wire_put_string(uint8_t *out, const void *bytes, size_t len);

/* Copy the whole strings that `in` starts with, at most `max_count`, to `out`, which has room for `len` bytes: one NUL
 * between two.  Returns bytes consumed, 0 if `in` ends before the first one does, or what is wrong with one.  *count is the
 * number of strings, *joined the bytes written.  A string with a NUL is an error, because the joined form could not hold it
 * and nothing Nix lists contains one. */
int64_t wire_join_strings(const uint8_t *in, size_t len, size_t max_each, size_t max_count, char *out, size_t *count,
                          size_t *joined);

/* Write a list (u64 count, strings) of the `count` > 0 strings in `joined` to `out`, which has room for len + 16 * (count + 1)
 * bytes.  Returns bytes written, or WIRE_NUL if `joined` holds another number of strings. */
int64_t wire_put_joined(uint8_t *out, const char *joined, size_t len, size_t count);

#endif
