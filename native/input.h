/* Numbers and short strings out of input that comes in pieces of any size.
 *
 * What lies within one piece is used where it is; only a value cut by the end of a piece is copied.
 */
#ifndef FERRY_INPUT_H
#define FERRY_INPUT_H

#include <stddef.h>
#include <stdint.h>

enum { INPUT_STRING_MAX = 4096 };

/* All zero to begin with. */
struct input {
    const uint8_t *in; /* not consumed yet, in the caller's memory */
    size_t len;
    size_t held; /* bytes of a value that is not complete yet, in `hold` */
    uint8_t hold[8 + INPUT_STRING_MAX];
};

/* Give the next piece.  The previous one must be consumed, and this one must stay until it is. */
void input_give(struct input *input, const uint8_t *in, size_t len);

/* Consume `size` <= sizeof hold bytes.  NULL if there are not that many yet; then all of the piece is consumed. */
const uint8_t *input_take(struct input *input, size_t size);

/* Consume what there is, at most `max` bytes: *outlen of them. */
const uint8_t *input_take_some(struct input *input, uint64_t max, size_t *outlen);

/* Consume a string: as wire_get_string(), with `max` <= INPUT_STRING_MAX, but WIRE_PARTIAL consumes all of the piece, and *out
 * may point into `hold`: it is valid until the next call.  Returns 0 instead of a count. */
int input_take_string(struct input *input, size_t max, const uint8_t **out, size_t *outlen);

#endif
