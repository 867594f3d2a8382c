#include "dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grow.h"

enum { FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

int dirs_enter(struct dirs *dirs, int parent, const char *name)
{
    struct dir *chain = grow(dirs->chain, &dirs->room, dirs->depth + 1, sizeof *chain);
    if (!chain)
        return ENOMEM;
    dirs->chain = chain;
    int fd = openat(parent, name, FLAGS);
    if (fd < 0)
        return errno;
    struct stat st;
    if (fstat(fd, &st) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    dirs->chain[dirs->depth++] = (struct dir){.fd = fd, .dev = st.st_dev, .ino = st.st_ino};
    if (dirs->depth > DIRS_OPEN) {
        struct dir *outer = &dirs->chain[dirs->depth - 1 - DIRS_OPEN];
        if (outer->fd >= 0)
            close(outer->fd);
        outer->fd = -1;
    }
    return 0;
}

static int reopen(struct dir *dir, int inner)
{
    int fd = openat(inner, "..", FLAGS);
    if (fd < 0)
        return errno;
    struct stat st;
    int error = 0;
    if (fstat(fd, &st) < 0)
        error = errno;
    else if (st.st_dev != dir->dev || st.st_ino != dir->ino)
        error = ESTALE;
    if (error)
        close(fd);
    else
        dir->fd = fd;
    return error;
}

int dirs_leave(struct dirs *dirs)
{
    struct dir *inner = &dirs->chain[--dirs->depth];
    int error = 0;
    if (dirs->depth && inner[-1].fd < 0)
        error = reopen(&inner[-1], inner->fd);
    close(inner->fd);
    return error;
}

int dirs_fd(const struct dirs *dirs)
{
    return dirs->chain[dirs->depth - 1].fd;
}

void dirs_free(struct dirs *dirs)
{
    for (size_t i = 0; i < dirs->depth; i++)
        if (dirs->chain[i].fd >= 0)
            close(dirs->chain[i].fd);
    free(dirs->chain);
    *dirs = (struct dirs){0};
}
