/* Whatever is accepted as strings of a list is the one encoding of those strings. */
#include "check.h"
#include "wire.h"

enum { MAX_EACH = 300, MAX_COUNT = 50 };

static void encode_again(const uint8_t *in, size_t size, const char *text, size_t count, size_t joined)
{
    uint8_t *out = malloc(joined + 16 * (count + 1));
    CHECK(out);
    if (count) {
        CHECK(wire_put_joined(out, text, joined, count) == (int64_t)(8 + size));
        CHECK(wire_get_u64(out) == count && memcmp(in, out + 8, size) == 0);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    size_t count, joined;
    char *text = malloc(len ? len : 1);
    CHECK(text);
    int64_t size = wire_join_strings(in, len, MAX_EACH, MAX_COUNT, text, &count, &joined);
    if (size < 0) {
        CHECK(size >= WIRE_NUL);
    } else {
        CHECK((size_t)size <= len && count <= MAX_COUNT && joined <= (size_t)size);
        encode_again(in, (size_t)size, text, count, joined);
    }
    free(text);
    return 0;
}
