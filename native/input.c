#include "input.h"

#include <string.h>

#include "wire.h"

void input_give(struct input *input, const uint8_t *in, size_t len)
{
    input->in = in;
    input->len = len;
}

static void consume(struct input *input, size_t len)
{
    input->in += len;
    input->len -= len;
}

/* Move bytes to `hold` until there are `size`; whether there are. */
static int hold(struct input *input, size_t size)
{
    size_t missing = input->held < size ? size - input->held : 0;
    size_t len = input->len < missing ? input->len : missing;
    if (len) {
        memcpy(input->hold + input->held, input->in, len);
        input->held += len;
        consume(input, len);
    }
    return len == missing;
}

const uint8_t *input_take(struct input *input, size_t size)
{
    if (!hold(input, size))
        return NULL;
    input->held = 0;
    return input->hold;
}

const uint8_t *input_take_some(struct input *input, uint64_t max, size_t *outlen)
{
    const uint8_t *out = input->in;
    *outlen = input->len < max ? input->len : (size_t)max;
    if (*outlen)
        consume(input, *outlen);
    return out;
}

int input_take_string(struct input *input, size_t max, const uint8_t **out, size_t *outlen)
{
    int64_t taken = WIRE_PARTIAL;
    if (!input->held)
        taken = wire_get_string(input->in, input->len, max, out, outlen);
    if (taken >= 0) {
        consume(input, (size_t)taken);
        return 0;
    }
    if (taken != WIRE_PARTIAL)
        return (int)taken;
    if (!hold(input, 8))
        return WIRE_PARTIAL;
    uint64_t size = wire_get_u64(input->hold);
    if (size > max)
        return WIRE_TOO_LONG;
    if (!hold(input, 8 + size + wire_padding(size)))
        return WIRE_PARTIAL;
    taken = wire_get_string(input->hold, input->held, max, out, outlen);
    input->held = 0;
    return taken < 0 ? (int)taken : 0;
}
