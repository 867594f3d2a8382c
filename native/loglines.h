/* Lines of a build log on their way from a daemon to Nix: out of messages of the worker protocol, into JSON.
 *
 * Only what a talkative build is full of is done here, and everything else left alone: nothing is an error.
 */
#ifndef FERRY_LOGLINES_H
#define FERRY_LOGLINES_H

#include <stddef.h>
#include <stdint.h>

/* Around the text of a line, which is a JSON string between them. */
struct logline_frame {
    const char *before, *after;
    size_t before_len, after_len;
};

/* What became of them: bytes written, and bytes of log, in which each line ends with a newline. */
struct logline_sizes {
    size_t written, text;
};

/* Take the messages that `in` starts with as long as they are log lines of `activity` in valid UTF-8, are all there, and
 * their JSON fits into what is left of the `room` bytes at `out`.  Returns bytes consumed; for each line `before`, its
 * text as the inside of a JSON string, and `after` are written. */
size_t loglines_take(const uint8_t *in, size_t len, uint64_t activity, const struct logline_frame *frame, uint8_t *out,
                     size_t room, struct logline_sizes *sizes);

#endif
