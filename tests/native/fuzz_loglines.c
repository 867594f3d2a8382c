/* Whatever a daemon sends, what is taken fits and is followed by whole lines only. */
#include "check.h"
#include "loglines.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    const struct logline_frame frame = {"{", "}\n", 1, 2};
    size_t room = len % 257;
    struct logline_sizes sizes;
    uint8_t *out = malloc(room + 1);
    CHECK(out);
    size_t taken = loglines_take(in, len, 1, &frame, out, room, &sizes), written = sizes.written;
    CHECK(taken <= len && written <= room && taken % 8 == 0);
    CHECK(!written == !taken && !written == !sizes.text && sizes.text <= taken && (!written || out[written - 1] == '\n'));
    free(out);
    return 0;
}
