/* Extended attributes that a file system gives to what is created on it: inherited ACLs, security labels. */
#ifndef FERRY_XATTRS_H
#define FERRY_XATTRS_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/limits.h>

struct xattrs {
    char *kept; /* names, each ended by a NUL; an empty one ends the list */
    char names[XATTR_LIST_MAX];
};

/* `kept` are names, each ended by a NUL, copied here.  False without memory. */
bool xattrs_init(struct xattrs *xattrs, const char *kept, size_t len);
void xattrs_free(struct xattrs *xattrs);

/* Remove all but the kept attributes of an open file, or of a symlink in the directory `dir`.  Returns 0 or an errno;
 * *none tells whether there was no attribute at all. */
int xattrs_remove(struct xattrs *xattrs, int fd, bool *none);
int xattrs_remove_link(struct xattrs *xattrs, int dir, const char *name, bool *none);

#endif
