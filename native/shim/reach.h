/* Reaching who serves the hook: find or start the broker of this user and store, and tell a server who we are. */
#ifndef FERRY_REACH_H
#define FERRY_REACH_H

#include <stdbool.h>
#include <stddef.h>

/* A server that is stopped, or hopelessly overloaded, must not hold up the parent for longer. */
#ifndef PATIENCE_MS
#define PATIENCE_MS 10000
#endif

/* The path of a file in the directory of nix-ferry's programs: that to which a link `programs` beside this executable
 * leads, or else that of this executable.  False if it does not fit. */
bool sibling(const char *name, char *path, size_t size);

/* Drop from the environment what other programs' Python is told: ours would look for its modules there first. */
void forget_python(void);

/* Where the broker of this user and store lives; made if need be.  False if there is no place that is ours alone. */
bool find_directory(char *path, size_t size);

/* A connection to the broker of `directory`, which is started if none listens; -1 if there is none that reacts. */
int reach_broker(const char *directory);

/* Tell a server who we are. */
bool greet(int server, const char *verbosity);

/* Give a server descriptors 0, 2 and 4.  5 is the other end of 4: whoever had both could write into the pipe of a
 * parent that is gone, and wait for ever. */
bool hand_over(int server);

/* False if the server is gone, or has not taken it for PATIENCE_MS. */
bool send_all(int server, const char *data, size_t len);

#endif
