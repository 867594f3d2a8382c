/* What a parser says about some input, as bytes that do not depend on how the input was cut. */
#ifndef FERRY_EVENTS_H
#define FERRY_EVENTS_H

#include "check.h"
#include "nar.h"

struct events {
    uint8_t *bytes;
    size_t len, room;
    enum nar_event last;
    int code;        /* of the error, if `last` is NAR_INVALID */
    size_t consumed; /* if `last` is NAR_DONE */
};

static inline void events_add(struct events *events, const void *bytes, size_t len)
{
    if (events->len + len > events->room) {
        events->room = (events->len + len) * 2;
        events->bytes = realloc(events->bytes, events->room);
        CHECK(events->bytes);
    }
    if (len)
        memcpy(events->bytes + events->len, bytes, len);
    events->len += len;
}

/* Parse `in`, giving it to the parser `piece` bytes at a time, each in an allocation of its own, so that the sanitizer
 * sees a look past its end. */
static inline struct events parse(const uint8_t *in, size_t len, size_t piece, uint32_t max_depth)
{
    struct events events = {.last = NAR_NEED_DATA};
    struct nar_parser parser;
    nar_init(&parser, max_depth);
    for (size_t at = 0; at < len && events.last == NAR_NEED_DATA;) {
        size_t size = piece < len - at ? piece : len - at;
        uint8_t *part = malloc(size);
        CHECK(part);
        memcpy(part, in + at, size);
        nar_put_data(&parser, part, size);
        while ((events.last = nar_step(&parser)) != NAR_NEED_DATA) {
            uint8_t event = (uint8_t)events.last;
            /* Contents come in as many events as there are pieces. */
            if (events.last != NAR_DATA)
                events_add(&events, &event, 1);
            if (events.last == NAR_FILE || events.last == NAR_SYMLINK || events.last == NAR_DIRECTORY)
                events_add(&events, nar_name(&parser), strlen(nar_name(&parser)) + 1);
            if (events.last == NAR_DATA || events.last == NAR_SYMLINK)
                events_add(&events, parser.data, parser.data_len);
            if (events.last == NAR_FILE)
                events_add(&events, &parser.executable, 1);
            if (events.last == NAR_DONE || events.last == NAR_INVALID)
                break;
        }
        if (events.last == NAR_NEED_DATA)
            CHECK(parser.input.len == 0);
        at += size;
        events.consumed = at - parser.input.len;
        free(part);
    }
    events.code = parser.error.code;
    if (events.last == NAR_INVALID)
        CHECK(nar_step(&parser) == NAR_INVALID && events.code != NAR_OK);
    nar_free(&parser);
    return events;
}

#endif
