#include "xattrs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

bool xattrs_init(struct xattrs *xattrs, const char *kept, size_t len)
{
    xattrs->kept = calloc(1, len + 1);
    if (xattrs->kept)
        memcpy(xattrs->kept, kept, len);
    return xattrs->kept;
}

void xattrs_free(struct xattrs *xattrs)
{
    free(xattrs->kept);
}

static bool is_kept(const struct xattrs *xattrs, const char *name)
{
    for (const char *kept = xattrs->kept; *kept; kept += strlen(kept) + 1)
        if (strcmp(kept, name) == 0)
            return true;
    return false;
}

/* By descriptor, or by path if there is one. */
static int remove_listed(const struct xattrs *xattrs, int fd, const char *path, ssize_t len)
{
    for (const char *name = xattrs->names; name < xattrs->names + len; name += strlen(name) + 1) {
        if (is_kept(xattrs, name))
            continue;
        if ((path ? lremovexattr(path, name) : fremovexattr(fd, name)) < 0 && errno != ENODATA)
            return errno;
    }
    return 0;
}

int xattrs_remove(struct xattrs *xattrs, int fd, bool *none)
{
    ssize_t len = flistxattr(fd, xattrs->names, sizeof xattrs->names);
    if (len < 0 && errno != ENOTSUP)
        return errno;
    *none = len <= 0;
    return remove_listed(xattrs, fd, NULL, len);
}

int xattrs_remove_link(struct xattrs *xattrs, int dir, const char *name, bool *none)
{
    /* No call takes the descriptor of a symlink, and the path from the root may be too long for one. */
    char path[sizeof "/proc/self/fd//" + 10 + NAME_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dir, name);
    ssize_t len = llistxattr(path, xattrs->names, sizeof xattrs->names);
    /* The symlink exists, so what does not is /proc. */
    if (len < 0 && errno != ENOTSUP && errno != ENOENT)
        return errno;
    *none = len <= 0;
    return remove_listed(xattrs, -1, path, len);
}
