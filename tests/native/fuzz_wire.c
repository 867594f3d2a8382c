/* Whatever is accepted as a list of strings is the one encoding of those strings. */
#include "check.h"
#include "wire.h"

enum { MAX_EACH = 300, MAX_COUNT = 50 };

static void encode_again(const uint8_t *in, size_t size, size_t count, size_t joined)
{
    char *text = malloc(joined + 1);
    uint8_t *bytes = malloc(joined + 1), *out = malloc(size);
    CHECK(text && bytes && out);
    wire_join_strings(in, text);
    text[joined] = '\0';
    uint64_t lengths[MAX_COUNT];
    size_t at = 0, len = 0;
    for (size_t i = 0; i < count; i++) {
        lengths[i] = strlen(text + at);
        CHECK(lengths[i] <= MAX_EACH);
        memcpy(bytes + len, text + at, lengths[i]);
        len += lengths[i];
        at += lengths[i] + 1;
    }
    CHECK(at == (count ? joined + 1 : 0));
    CHECK(wire_strings_size(lengths, count) == size);
    wire_put_strings(out, bytes, lengths, count);
    CHECK(memcmp(in, out, size) == 0);
    free(text);
    free(bytes);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    size_t count, joined;
    int64_t size = wire_scan_strings(in, len, MAX_EACH, MAX_COUNT, &count, &joined);
    if (size < 0) {
        CHECK(size >= WIRE_NUL);
        return 0;
    }
    CHECK((size_t)size <= len && count <= MAX_COUNT && joined < (size_t)size);
    encode_again(in, (size_t)size, count, joined);
    return 0;
}
