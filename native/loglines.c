#include "loglines.h"

#include <stdbool.h>
#include <string.h>

#include "wire.h"

enum {
    STDERR_RESULT = 0x52534c54, /* first word of news from an activity */
    BUILD_LOG_LINE = 101,       /* kind of news */
    STRING_FIELD = 1,
    HEAD = 5 * 8 /* message, activity, kind, number of fields, kind of field */
};

/* Bytes of the UTF-8 character that `in` starts with; 0 if there is none. */
static size_t utf8_character(const uint8_t *in, size_t len)
{
    uint8_t lead = in[0];
    if (lead < 0x80)
        return 1;
    size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead < 0xc2 || lead > 0xf4 || len < size)
        return 0;
    /* What would be too long a form, half of a surrogate pair, or beyond the last code point. */
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (in[1] < low || in[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((in[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

/* Write one ASCII character that cannot stand for itself in a JSON string; returns bytes written, at most 6. */
static size_t put_escaped(uint8_t *out, uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";
    if (byte == '"' || byte == '\\') {
        out[0] = '\\';
        out[1] = byte;
        return 2;
    }
    memcpy(out, "\\u00", 4);
    out[4] = (uint8_t)digits[byte >> 4];
    out[5] = (uint8_t)digits[byte & 15];
    return 6;
}

/* Write `text` as the inside of a JSON string; false if it is no UTF-8 or does not fit. */
static bool put_text(const uint8_t *text, size_t len, uint8_t *out, size_t room, size_t *written)
{
    size_t to = 0;
    for (size_t at = 0; at < len;) {
        size_t size = utf8_character(text + at, len - at);
        if (!size)
            return false;
        uint8_t byte = text[at];
        if (byte < 0x20 || byte == '"' || byte == '\\') {
            if (room - to < 6)
                return false;
            to += put_escaped(out + to, byte);
        } else {
            if (room - to < size)
                return false;
            memcpy(out + to, text + at, size);
            to += size;
        }
        at += size;
    }
    *written = to;
    return true;
}

size_t loglines_take(const uint8_t *in, size_t len, uint64_t activity, const struct logline_frame *frame, uint8_t *out,
                     size_t room, struct logline_sizes *sizes)
{
    const uint64_t words[] = {STDERR_RESULT, activity, BUILD_LOG_LINE, 1, STRING_FIELD};
    uint8_t head[HEAD];
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        wire_put_u64(head + 8 * i, words[i]);
    size_t at = 0, to = 0, total = 0;
    while (len - at >= HEAD && memcmp(in + at, head, HEAD) == 0) {
        const uint8_t *text;
        size_t text_len, size;
        int64_t taken = wire_get_string(in + at + HEAD, len - at - HEAD, len, &text, &text_len);
        if (taken < 0 || room - to < frame->before_len || room - to - frame->before_len < frame->after_len)
            break;
        uint8_t *line = out + to + frame->before_len;
        if (!put_text(text, text_len, line, room - to - frame->before_len - frame->after_len, &size))
            break;
        memcpy(out + to, frame->before, frame->before_len);
        memcpy(line + size, frame->after, frame->after_len);
        to += frame->before_len + size + frame->after_len;
        at += HEAD + (size_t)taken;
        total += text_len + 1;
    }
    *sizes = (struct logline_sizes){.written = to, .text = total};
    return at;
}
