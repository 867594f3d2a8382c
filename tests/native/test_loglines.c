/* loglines.c on memory that ends in a guard page: nothing is read past the input or written past the room. */
#include "loglines.h"

#include "check.h"
#include "wire.h"

static const struct logline_frame PLAIN = {"<", ">", 1, 1};

static size_t put_line(uint8_t *out, uint64_t activity, const char *text, size_t len)
{
    const uint64_t words[] = {0x52534c54, activity, 101, 1, 1};
    for (size_t i = 0; i < 5; i++)
        wire_put_u64(out + 8 * i, words[i]);
    return 40 + wire_put_string(out + 40, text, len);
}

static void a_line_is_taken_only_when_it_is_all_there(void)
{
    uint8_t wire[256];
    size_t first = put_line(wire, 7, "one", 3);
    size_t both = first + put_line(wire + first, 7, "the second", 10);
    for (size_t cut = 0; cut <= both; cut++) {
        struct guarded in = guard(wire, cut), out = guard(NULL, 64);
        struct logline_sizes sizes;
        size_t taken = loglines_take(in.bytes, cut, 7, &PLAIN, out.bytes, 64, &sizes);
        const char *expected = cut == both ? "<one><the second>" : cut >= first ? "<one>" : "";
        CHECK(taken == (cut == both ? both : cut >= first ? first : 0));
        CHECK(sizes.written == strlen(expected) && memcmp(out.bytes, expected, sizes.written) == 0);
        CHECK(sizes.text == (cut == both ? 4 + 11 : cut >= first ? 4 : 0));
        unguard(in);
        unguard(out);
    }
}

static void a_line_is_taken_only_when_there_is_room_for_it(void)
{
    static const char text[] = "tab\tquote\"euro\xe2\x82\xac";
    static const char expected[] = "<tab\\u0009quote\\\"euro\xe2\x82\xac>";
    const size_t needed = sizeof expected - 1;
    uint8_t wire[128];
    size_t size = put_line(wire, 7, text, sizeof text - 1);
    for (size_t room = 0; room <= needed + 6; room++) {
        struct guarded in = guard(wire, size), out = guard(NULL, room);
        struct logline_sizes sizes;
        size_t taken = loglines_take(in.bytes, size, 7, &PLAIN, out.bytes, room, &sizes), written = sizes.written;
        CHECK(taken == (written ? size : 0));
        CHECK(room < needed ? !written : room < needed + 6 || written == needed);
        if (written)
            CHECK(written == needed && memcmp(out.bytes, expected, needed) == 0);
        unguard(in);
        unguard(out);
    }
}

static void a_character_cut_by_the_end_of_its_line_is_none(void)
{
    static const char *const cut[] = {"\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80"};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        uint8_t wire[64], out[64];
        struct logline_sizes sizes;
        size_t size = put_line(wire, 7, cut[i], strlen(cut[i]));
        CHECK(loglines_take(wire, size, 7, &PLAIN, out, sizeof out, &sizes) == 0 && !sizes.written && !sizes.text);
    }
}

static void a_length_beyond_all_memory_is_not_used(void)
{
    uint8_t wire[64];
    put_line(wire, 7, "", 0);
    for (unsigned shift = 3; shift < 64; shift++) {
        wire_put_u64(wire + 40, UINT64_MAX >> (64 - shift));
        struct guarded in = guard(wire, 48);
        uint8_t out[64];
        struct logline_sizes sizes;
        CHECK(loglines_take(in.bytes, 48, 7, &PLAIN, out, sizeof out, &sizes) == 0 && !sizes.written && !sizes.text);
        unguard(in);
    }
}

int main(void)
{
    a_line_is_taken_only_when_it_is_all_there();
    a_line_is_taken_only_when_there_is_room_for_it();
    a_character_cut_by_the_end_of_its_line_is_none();
    a_length_beyond_all_memory_is_not_used();
    puts("loglines: ok");
}
