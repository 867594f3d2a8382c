#include "nar.h"

#include <errno.h>
#include <string.h>

#include "grow.h"
#include "wire.h"

/* Each state is named after what comes next. */
enum {
    MAGIC,
    NODE_OPEN,
    TYPE_TAG,
    TYPE,
    FILE_FIELD,
    MARKER,
    CONTENTS_SIZE,
    CONTENTS,
    CONTENTS_PADDING,
    FILE_CLOSE,
    TARGET_TAG,
    TARGET,
    LINK_CLOSE,
    ENTRY_OR_CLOSE,
    ENTRY_OPEN,
    NAME_TAG,
    NAME,
    NODE_TAG,
    ENTRY_CLOSE,
    DONE,
    INVALID
};

/* Results of the internal steps besides an event: go on with the next state. */
enum { CONTINUE = -1 };

void nar_init(struct nar_parser *parser, uint32_t max_depth)
{
    memset(parser, 0, sizeof *parser);
    parser->state = MAGIC;
    parser->max_depth = max_depth < NAR_DEPTH_CEILING ? max_depth : NAR_DEPTH_CEILING;
}

void nar_free(struct nar_parser *parser)
{
    free(parser->path);
    free(parser->starts);
    parser->path = NULL;
    parser->starts = NULL;
}

void nar_put_data(struct nar_parser *parser, const uint8_t *in, size_t len)
{
    input_give(&parser->input, in, len);
}

const char *nar_name(const struct nar_parser *parser)
{
    return parser->path ? parser->path + parser->name_at : "";
}

void nar_error_path(struct nar_error *error, const char *path, size_t len)
{
    size_t kept = len < sizeof error->path ? len : sizeof error->path;
    if (kept)
        memcpy(error->path, path + len - kept, kept);
    error->path_len = len;
}

void nar_set_error_path(struct nar_parser *parser)
{
    /* Between two entries the path is still that of the first, but what is wrong is the directory. */
    bool between = parser->state >= ENTRY_OR_CLOSE && parser->state <= NAME;
    nar_error_path(&parser->error, parser->path, between ? parser->starts[parser->depth - 1] : parser->path_len);
}

static int fail(struct nar_parser *parser, int code, const uint8_t *detail, size_t len)
{
    struct nar_error *error = &parser->error;
    error->code = code;
    error->detail_len = len < sizeof error->detail ? len : sizeof error->detail;
    if (error->detail_len)
        memcpy(error->detail, detail, error->detail_len);
    nar_set_error_path(parser);
    parser->state = INVALID;
    return NAR_INVALID;
}

static int out_of_memory(struct nar_parser *parser)
{
    parser->error.os_error = ENOMEM;
    return fail(parser, NAR_E_OS, NULL, 0);
}

/* Take a string of at most `max` bytes into data, data_len. */
static int take(struct nar_parser *parser, size_t max)
{
    switch (input_take_string(&parser->input, max, &parser->data, &parser->data_len)) {
    case 0:
        return CONTINUE;
    case WIRE_PARTIAL:
        return NAR_NEED_DATA;
    case WIRE_TOO_LONG:
        return fail(parser, NAR_E_LENGTH, NULL, 0);
    default:
        return fail(parser, NAR_E_PADDING, NULL, 0);
    }
}

static bool is(const struct nar_parser *parser, const char *text)
{
    return parser->data_len == strlen(text) && memcmp(parser->data, text, parser->data_len) == 0;
}

static int unexpected(struct nar_parser *parser, const char *expected)
{
    parser->error.expected = expected;
    return fail(parser, NAR_E_TAG, parser->data, parser->data_len);
}

/* Take the one string that may come here. */
static int take_tag(struct nar_parser *parser, const char *expected, int next)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result != CONTINUE)
        return result;
    if (!is(parser, expected))
        return unexpected(parser, expected);
    parser->state = next;
    return CONTINUE;
}

static int take_magic(struct nar_parser *parser)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result == NAR_NEED_DATA)
        return result;
    /* Whatever is wrong with the first string, the input is something else. */
    if (result == NAR_INVALID || !is(parser, NAR_MAGIC))
        return fail(parser, NAR_E_MAGIC, NULL, 0);
    parser->state = NODE_OPEN;
    return CONTINUE;
}

static int after_node(struct nar_parser *parser, int event)
{
    parser->state = parser->depth ? ENTRY_CLOSE : DONE;
    return event;
}

static int take_type(struct nar_parser *parser)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result != CONTINUE)
        return result;
    if (is(parser, "regular")) {
        parser->executable = false;
        parser->state = FILE_FIELD;
        return CONTINUE;
    }
    if (is(parser, "symlink")) {
        parser->state = TARGET_TAG;
        return CONTINUE;
    }
    if (!is(parser, "directory"))
        return fail(parser, NAR_E_TYPE, parser->data, parser->data_len);
    size_t *starts = grow(parser->starts, &parser->starts_room, parser->depth + 1, sizeof *starts);
    if (!starts)
        return out_of_memory(parser);
    parser->starts = starts;
    parser->starts[parser->depth++] = parser->path_len;
    parser->state = ENTRY_OR_CLOSE;
    return NAR_DIRECTORY;
}

static int take_file_field(struct nar_parser *parser)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result != CONTINUE)
        return result;
    if (is(parser, "executable") && !parser->executable) {
        parser->executable = true;
        parser->state = MARKER;
        return CONTINUE;
    }
    if (!is(parser, "contents"))
        return unexpected(parser, "contents");
    parser->state = CONTENTS_SIZE;
    return CONTINUE;
}

static int take_marker(struct nar_parser *parser)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result != CONTINUE)
        return result;
    if (parser->data_len)
        return fail(parser, NAR_E_MARKER, NULL, 0);
    parser->state = FILE_FIELD;
    return CONTINUE;
}

static int take_size(struct nar_parser *parser)
{
    const uint8_t *size = input_take(&parser->input, 8);
    if (!size)
        return NAR_NEED_DATA;
    parser->size = parser->left = wire_get_u64(size);
    parser->state = CONTENTS;
    return NAR_FILE;
}

static int take_contents(struct nar_parser *parser)
{
    if (!parser->left) {
        parser->state = CONTENTS_PADDING;
        return CONTINUE;
    }
    parser->data = input_take_some(&parser->input, parser->left, &parser->data_len);
    parser->left -= parser->data_len;
    return parser->data_len ? NAR_DATA : NAR_NEED_DATA;
}

static int take_padding(struct nar_parser *parser)
{
    size_t len = wire_padding(parser->size);
    const uint8_t *padding = input_take(&parser->input, len);
    if (!padding)
        return NAR_NEED_DATA;
    for (size_t i = 0; i < len; i++)
        if (padding[i])
            return fail(parser, NAR_E_PADDING, NULL, 0);
    parser->state = FILE_CLOSE;
    return CONTINUE;
}

static int take_target(struct nar_parser *parser)
{
    int result = take(parser, NAR_TARGET_MAX);
    if (result != CONTINUE)
        return result;
    if (!parser->data_len || memchr(parser->data, 0, parser->data_len))
        return fail(parser, NAR_E_TARGET, NULL, 0);
    parser->state = LINK_CLOSE;
    return NAR_SYMLINK;
}

static int take_entry_or_close(struct nar_parser *parser)
{
    int result = take(parser, NAR_TAG_MAX);
    if (result != CONTINUE)
        return result;
    if (is(parser, "entry")) {
        parser->state = ENTRY_OPEN;
        return CONTINUE;
    }
    if (!is(parser, ")"))
        return unexpected(parser, "entry");
    /* Back from the last entry's path to the directory's own. */
    parser->path_len = parser->starts[--parser->depth];
    if (parser->path)
        parser->path[parser->path_len] = '\0';
    return after_node(parser, NAR_DIRECTORY_END);
}

static bool name_is_valid(const uint8_t *name, size_t len)
{
    if (len == 0 || (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.'))
        return false;
    return !memchr(name, '/', len) && !memchr(name, 0, len);
}

/* Bytewise, unsigned: is `name` greater than the name `last`? */
static bool follows(const uint8_t *name, size_t len, const char *last, size_t last_len)
{
    int order = memcmp(name, last, len < last_len ? len : last_len);
    return order > 0 || (order == 0 && len > last_len);
}

static int take_name(struct nar_parser *parser)
{
    int result = take(parser, NAR_NAME_MAX);
    if (result != CONTINUE)
        return result;
    const uint8_t *name = parser->data;
    size_t len = parser->data_len;
    if (!name_is_valid(name, len))
        return fail(parser, NAR_E_NAME, name, len);
    size_t start = parser->starts[parser->depth - 1];
    /* The path still ends in the previous entry's name, if there was one. */
    if (parser->path_len > start && !follows(name, len, parser->path + start + 1, parser->path_len - start - 1))
        return fail(parser, NAR_E_ORDER, name, len);
    char *path = grow(parser->path, &parser->path_room, start + 1 + len + 1, 1);
    if (!path)
        return out_of_memory(parser);
    parser->path = path;
    parser->path[start] = '/';
    memcpy(parser->path + start + 1, name, len);
    parser->name_at = start + 1;
    parser->path_len = start + 1 + len;
    parser->path[parser->path_len] = '\0';
    parser->state = NODE_TAG;
    return CONTINUE;
}

static int take_node_open(struct nar_parser *parser)
{
    if (parser->depth > parser->max_depth)
        return fail(parser, NAR_E_DEPTH, NULL, 0);
    return take_tag(parser, "(", TYPE_TAG);
}

static int advance(struct nar_parser *parser)
{
    int result;
    switch (parser->state) {
    case MAGIC:
        return take_magic(parser);
    case NODE_OPEN:
        return take_node_open(parser);
    case TYPE_TAG:
        return take_tag(parser, "type", TYPE);
    case TYPE:
        return take_type(parser);
    case FILE_FIELD:
        return take_file_field(parser);
    case MARKER:
        return take_marker(parser);
    case CONTENTS_SIZE:
        return take_size(parser);
    case CONTENTS:
        return take_contents(parser);
    case CONTENTS_PADDING:
        return take_padding(parser);
    case FILE_CLOSE:
        result = take_tag(parser, ")", FILE_CLOSE);
        return result == CONTINUE ? after_node(parser, NAR_FILE_END) : result;
    case TARGET_TAG:
        return take_tag(parser, "target", TARGET);
    case TARGET:
        return take_target(parser);
    case LINK_CLOSE:
        result = take_tag(parser, ")", LINK_CLOSE);
        return result == CONTINUE ? after_node(parser, CONTINUE) : result;
    case ENTRY_OR_CLOSE:
        return take_entry_or_close(parser);
    case ENTRY_OPEN:
        return take_tag(parser, "(", NAME_TAG);
    case NAME_TAG:
        return take_tag(parser, "name", NAME);
    case NAME:
        return take_name(parser);
    case NODE_TAG:
        return take_tag(parser, "node", NODE_OPEN);
    case ENTRY_CLOSE:
        return take_tag(parser, ")", ENTRY_OR_CLOSE);
    case DONE:
        return NAR_DONE;
    default:
        return NAR_INVALID;
    }
}

enum nar_event nar_step(struct nar_parser *parser)
{
    int result;
    do
        result = advance(parser);
    while (result == CONTINUE);
    return (enum nar_event)result;
}
