/* The last resort, which needs nothing but this executable: Nix's own hook takes the conversation as it is. */
#ifndef FERRY_STOCK_H
#define FERRY_STOCK_H

#include "kept.h"

/* Of a message to the user: the numbers that Nix has for them. */
enum level { ERROR = 0, WARNING = 1, TALKATIVE = 4 };

/* Everything to `fd`, unless nobody reads it any more. */
void write_all(int fd, const char *data, size_t len);

/* Say something to the user, who has asked for this `verbosity`. */
void say(const char *verbosity, enum level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Have the stock hook hear what was kept and then what is still to be read.  Where there is none, the parent is told to
 * go on without. */
_Noreturn void become_stock(struct kept *kept, const char *verbosity);

#endif
