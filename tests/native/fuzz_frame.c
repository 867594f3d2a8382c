/* A framed stream carries the same payload and ends at the same byte however it is cut. */
#include "check.h"
#include "wire.h"

static size_t unframe(const uint8_t *in, size_t len, size_t piece, uint8_t *payload, size_t *got)
{
    struct frame_source frame = {0};
    size_t at = 0;
    *got = 0;
    while (at < len && !frame.done) {
        const uint8_t *out;
        size_t size = piece < len - at ? piece : len - at, outlen;
        uint8_t *part = malloc(size);
        CHECK(part);
        memcpy(part, in + at, size);
        size_t taken = frame_take(&frame, part, size, &out, &outlen);
        CHECK(taken <= size && outlen <= taken && (outlen || frame.done || taken == size));
        memcpy(payload + *got, out, outlen);
        *got += outlen;
        at += taken;
        free(part);
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    size_t piece = len % 61 + 1, whole_got, cut_got;
    uint8_t *whole = malloc(len + 1), *cut = malloc(len + 1);
    CHECK(whole && cut);
    CHECK(unframe(in, len, len, whole, &whole_got) == unframe(in, len, piece, cut, &cut_got));
    CHECK(whole_got == cut_got && memcmp(whole, cut, whole_got) == 0);
    free(whole);
    free(cut);
    return 0;
}
