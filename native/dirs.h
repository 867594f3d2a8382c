/* A chain of open directories, each inside the one before, that keeps a bounded number of descriptors.
 *
 * Only the innermost ones stay open.  Coming back to an outer one opens it again through "..", and checks that it is
 * the very directory that was left, so a directory moved meanwhile cannot lead us elsewhere.
 */
#ifndef FERRY_DIRS_H
#define FERRY_DIRS_H

#include <stddef.h>
#include <sys/types.h>

enum { DIRS_OPEN = 32 };

struct dirs {
    struct dir {
        int fd; /* -1 while closed */
        dev_t dev;
        ino_t ino;
    } *chain;
    size_t depth, room;
};

/* Open the directory `name` in `parent`, not through a symlink, and make it the innermost.  Returns 0 or an errno. */
int dirs_enter(struct dirs *dirs, int parent, const char *name);

/* Close the innermost directory and return to the one around it, if any.  Returns 0 or an errno: ESTALE if that one
 * is no longer where it was. */
int dirs_leave(struct dirs *dirs);

/* Descriptor of the innermost directory; there must be one. */
int dirs_fd(const struct dirs *dirs);

void dirs_free(struct dirs *dirs);

#endif
