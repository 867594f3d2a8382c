/* nar.c on the fixtures named as arguments: the same events whatever the pieces, and nothing read past them. */
#include "nar.h"

#include "check.h"
#include "events.h"
#include "wire.h"

static uint8_t *read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    *len = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*len + 1);
    CHECK(bytes && fread(bytes, 1, *len, file) == *len);
    fclose(file);
    return bytes;
}

static void pieces_do_not_matter(const uint8_t *in, size_t len)
{
    struct events whole = parse(in, len, len, 63);
    const size_t pieces[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 1000};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct events cut = parse(in, len, pieces[i], 63);
        CHECK(cut.last == whole.last && cut.code == whole.code && cut.len == whole.len);
        CHECK(cut.last != NAR_DONE || cut.consumed == whole.consumed);
        CHECK(memcmp(cut.bytes, whole.bytes, whole.len) == 0);
        free(cut.bytes);
    }
    free(whole.bytes);
}

static void no_part_of_a_nar_is_one(const uint8_t *in, size_t len)
{
    for (size_t cut = 0; cut < len; cut++) {
        struct events events = parse(in, cut, cut, 63);
        CHECK(events.last == NAR_NEED_DATA);
        free(events.bytes);
    }
}

static void fixture(const char *path)
{
    size_t len;
    uint8_t *in = read_file(path, &len);
    struct events events = parse(in, len, len, 63);
    if (strstr(path, "/bad-truncated"))
        CHECK(events.last == NAR_NEED_DATA);
    else if (strstr(path, "/bad-"))
        CHECK(events.last == NAR_INVALID);
    else {
        CHECK(events.last == NAR_DONE);
        no_part_of_a_nar_is_one(in, events.consumed);
    }
    pieces_do_not_matter(in, len);
    free(events.bytes);
    free(in);
}

static size_t put(uint8_t *out, const char *text)
{
    return wire_put_string(out, text, strlen(text));
}

static void nesting_ends_at_the_ceiling(void)
{
    uint8_t level[256];
    size_t len = put(level, "(");
    len += put(level + len, "type");
    len += put(level + len, "directory");
    len += put(level + len, "entry");
    len += put(level + len, "(");
    len += put(level + len, "name");
    len += put(level + len, "d");
    len += put(level + len, "node");
    struct nar_parser parser;
    uint8_t magic[24];
    CHECK(put(magic, NAR_MAGIC) == sizeof magic);
    nar_init(&parser, UINT32_MAX);
    nar_put_data(&parser, magic, sizeof magic);
    CHECK(nar_step(&parser) == NAR_NEED_DATA);
    for (size_t depth = 0; depth <= NAR_DEPTH_CEILING; depth++) {
        nar_put_data(&parser, level, len);
        CHECK(nar_step(&parser) == NAR_DIRECTORY);
        if (depth < NAR_DEPTH_CEILING)
            CHECK(nar_step(&parser) == NAR_NEED_DATA);
    }
    CHECK(nar_step(&parser) == NAR_INVALID && parser.error.code == NAR_E_DEPTH);
    CHECK(parser.error.path_len > sizeof parser.error.path);
    nar_free(&parser);
}

static size_t put_all(uint8_t *out, const char *const *texts)
{
    size_t len = 0;
    for (; *texts; texts++)
        len += put(out + len, *texts);
    return len;
}

/* What was named last is another node by then, and all right. */
static void what_is_wrong_between_entries_is_the_directory(void)
{
    static const char *const begin[] = {NAR_MAGIC, "(", "type", "directory", "entry", "(", "name", "d", "node", "(", "type",
                                        "directory", "entry", "(", "name", "a", "node", "(", "type", "symlink", "target", "x",
                                        ")", ")", NULL};
    static const char *const wrong[][5] = {
        {"exit", NULL}, {"entry", "[", NULL}, {"entry", "(", "nome", NULL}, {"entry", "(", "name", "..", NULL},
        {"entry", "(", "name", "a", NULL}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint8_t bytes[1024];
        size_t len = put_all(bytes, begin);
        len += put_all(bytes + len, wrong[i]);
        struct nar_parser parser;
        nar_init(&parser, UINT32_MAX);
        nar_put_data(&parser, bytes, len);
        enum nar_event event;
        do
            event = nar_step(&parser);
        while (event != NAR_INVALID && event != NAR_NEED_DATA);
        CHECK(event == NAR_INVALID);
        CHECK(parser.error.path_len == 2 && memcmp(parser.error.path, "/d", 2) == 0);
        nar_free(&parser);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    for (int i = 1; i < argc; i++)
        fixture(argv[i]);
    nesting_ends_at_the_ceiling();
    what_is_wrong_between_entries_is_the_directory();
    puts("nar: ok");
}
