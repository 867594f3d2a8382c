/* Any bytes mean the same to the NAR parser however they are cut, and what it lets through obeys the rules. */
#include "events.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    size_t piece = len % 61 + 1;
    struct events whole = parse(in, len, len, 63), cut = parse(in, len, piece, 63);
    CHECK(cut.last == whole.last && cut.code == whole.code && cut.len == whole.len);
    CHECK(cut.last != NAR_DONE || cut.consumed == whole.consumed);
    CHECK(!whole.len || memcmp(cut.bytes, whole.bytes, whole.len) == 0);
    CHECK(whole.last != NAR_DONE || whole.consumed % 8 == 0);
    free(whole.bytes);
    free(cut.bytes);
    return 0;
}
