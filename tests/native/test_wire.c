/* wire.c on memory that ends in a guard page: nothing is read or written past what it was given. */
#include "wire.h"

#include "check.h"

static void a_u64_is_little_endian(void)
{
    const uint8_t bytes[8] = {0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88};
    uint8_t out[8];
    CHECK(wire_get_u64(bytes) == 0x8897a6b5c4d3e2f1);
    wire_put_u64(out, 0x8897a6b5c4d3e2f1);
    CHECK(memcmp(out, bytes, 8) == 0);
}

static void a_string_is_read_only_when_it_is_all_there(void)
{
    for (size_t len = 0; len <= 40; len++) {
        uint8_t text[40], wire[64];
        memset(text, 'x', sizeof text);
        size_t size = wire_put_string(wire, text, len);
        CHECK(size == 8 + (len + 7) / 8 * 8);
        for (size_t cut = 0; cut <= size; cut++) {
            struct guarded in = guard(wire, cut);
            const uint8_t *out;
            size_t outlen;
            int64_t taken = wire_get_string(in.bytes, cut, 40, &out, &outlen);
            if (cut < size)
                CHECK(taken == WIRE_PARTIAL);
            else
                CHECK(taken == (int64_t)size && outlen == len && out == in.bytes + 8 && !memcmp(out, text, len));
            unguard(in);
        }
    }
}

static void a_limit_is_checked_before_the_length_is_used(void)
{
    const uint64_t lengths[] = {41, 1 << 20, INT64_MAX - 8, INT64_MAX, UINT64_MAX - 15, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t head[8];
        wire_put_u64(head, lengths[i]);
        struct guarded in = guard(head, 8);
        const uint8_t *out;
        size_t outlen;
        CHECK(wire_get_string(in.bytes, 8, 40, &out, &outlen) == WIRE_TOO_LONG);
        CHECK(wire_get_string(in.bytes, 8, SIZE_MAX, &out, &outlen) == WIRE_PARTIAL);
        unguard(in);
    }
}

static void padding_must_be_zero(void)
{
    uint8_t wire[16];
    const uint8_t *out;
    size_t outlen;
    for (size_t len = 1; len < 8; len++)
        for (size_t at = len; at < 8; at++) {
            CHECK(wire_put_string(wire, "1234567", len) == 16);
            wire[8 + at] = 1;
            CHECK(wire_get_string(wire, 16, 8, &out, &outlen) == WIRE_PADDING);
        }
}

static void a_list_survives_the_round_trip(void)
{
    static const char text[] = {'o', 'n', 'e', 0, 0, 't', 'h', 'r', 'e', 'e'};
    const size_t size = 8 + 16 + 8 + 16;
    size_t count, joined;
    struct guarded room = guard(NULL, sizeof text + 16 * 4), in = guard(text, sizeof text);
    CHECK(wire_put_joined(room.bytes, (char *)in.bytes, sizeof text, 3) == (int64_t)size);
    struct guarded wire = guard(room.bytes, size), out = guard(NULL, size - 8);
    char *joined_text = (char *)out.bytes;
    CHECK(wire_get_u64(wire.bytes) == 3);
    const uint8_t *strings = wire.bytes + 8;
    CHECK(wire_join_strings(strings, size - 8, 5, 9, joined_text, &count, &joined) == (int64_t)size - 8);
    CHECK(count == 3 && joined == sizeof text && memcmp(joined_text, text, sizeof text) == 0);
    CHECK(wire_join_strings(strings, size - 8, 4, 3, joined_text, &count, &joined) == WIRE_TOO_LONG);
    CHECK(wire_join_strings(strings, size - 8, 4, 2, joined_text, &count, &joined) == 16 + 8);
    CHECK(count == 2 && joined == 4);
    for (size_t cut = 0; cut < size - 8; cut++) {
        struct guarded part = guard(strings, cut), part_out = guard(NULL, cut);
        int64_t whole = cut < 16 ? 0 : cut < 24 ? 16 : 24;
        CHECK(wire_join_strings(part.bytes, cut, 5, 3, (char *)part_out.bytes, &count, &joined) == whole);
        CHECK(count == (size_t)(whole + 7) / 12);
        unguard(part);
        unguard(part_out);
    }
    wire.bytes[8 + 8] = 0;
    CHECK(wire_join_strings(strings, size - 8, 5, 3, joined_text, &count, &joined) == WIRE_NUL);
    unguard(room);
    unguard(in);
    unguard(wire);
    unguard(out);
}

static void a_list_has_as_many_strings_as_it_says(void)
{
    uint8_t out[100];
    CHECK(wire_put_joined(out, "a\0b", 3, 1) == WIRE_NUL);
    CHECK(wire_put_joined(out, "a\0b", 3, 3) == WIRE_NUL);
    CHECK(wire_put_joined(out, "", 0, 2) == WIRE_NUL);
    CHECK(wire_put_joined(out, "", 0, 1) == 16);
}

/* Every string as much longer than a multiple of 8 as makes the list longest. */
static void the_room_for_a_list_is_enough(void)
{
    for (size_t count = 1; count < 20; count++) {
        char text[40];
        for (size_t i = 0; i < 2 * count; i++)
            text[i] = i % 2 ? 0 : 'x';
        size_t len = 2 * count - 1;
        struct guarded in = guard(text, len), out = guard(NULL, len + 16 * (count + 1));
        CHECK(wire_put_joined(out.bytes, (char *)in.bytes, len, count) == (int64_t)(8 + 16 * count));
        unguard(in);
        unguard(out);
    }
}

int main(void)
{
    a_u64_is_little_endian();
    a_string_is_read_only_when_it_is_all_there();
    a_limit_is_checked_before_the_length_is_used();
    padding_must_be_zero();
    a_list_survives_the_round_trip();
    a_list_has_as_many_strings_as_it_says();
    the_room_for_a_list_is_enough();
    puts("wire: ok");
}
