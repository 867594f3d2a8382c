/* Whatever is restored lies in its place and nowhere else, and what is complete dumps to the very bytes it came from. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "dump.h"
#include "restore.h"

enum { LEVELS = 63, ONE_AND_DOTS = 3 };

static char home[] = "/tmp/ferry-fuzz-XXXXXX", store[64], path[80];
static int home_fd = -1, store_fd = -1; /* `home` holds nothing but `store`, and that nothing but `path` */

static void remove_in(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0)
        return;
    CHECK(errno == EISDIR);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    CHECK(fd >= 0 && fchmod(fd, 0700) == 0);
    DIR *dir = fdopendir(fd);
    CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove_in(fd, entry->d_name);
    closedir(dir);
    CHECK(unlinkat(parent, name, AT_REMOVEDIR) == 0);
}

static size_t entries_of(const char *directory)
{
    size_t count = 0;
    DIR *dir = opendir(directory);
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void remove_home(void)
{
    remove_in(home_fd, "store");
    rmdir(home);
}

static void make_home(void)
{
    if (home_fd >= 0)
        return;
    CHECK(mkdtemp(home));
    snprintf(store, sizeof store, "%s/store", home);
    snprintf(path, sizeof path, "%s/path", store);
    CHECK(mkdir(store, 0700) == 0);
    home_fd = open(home, O_RDONLY | O_DIRECTORY);
    store_fd = open(store, O_RDONLY | O_DIRECTORY);
    CHECK(home_fd >= 0 && store_fd >= 0 && atexit(remove_home) == 0);
}

static void dumps_to(const uint8_t *nar, size_t len, const uint8_t *digest)
{
    struct dumper *dumper;
    uint8_t *out = malloc(len + 1);
    CHECK(out && dumper_new(path, LEVELS, true, &dumper) == 0);
    CHECK(dumper_read(dumper, out, len + 1) == (int64_t)len && memcmp(out, nar, len) == 0);
    CHECK(memcmp(dumper_digest(dumper), digest, 32) == 0);
    dumper_free(dumper);
    free(out);
}

static void restore(const uint8_t *in, size_t len, size_t piece)
{
    struct restorer *restorer;
    size_t at = 0;
    CHECK(restorer_new(store, "path", LEVELS, false, "", 0, &restorer) == 0);
    while (at < len && !restorer_digest(restorer)) {
        size_t size = piece < len - at ? piece : len - at;
        uint8_t *part = malloc(size);
        CHECK(part);
        memcpy(part, in + at, size);
        int64_t taken = restorer_feed(restorer, part, size);
        free(part);
        if (taken < 0) {
            CHECK(restorer_error(restorer)->code && restorer_feed(restorer, in, len) == -1);
            break;
        }
        CHECK((size_t)taken == size || restorer_digest(restorer));
        at += (size_t)taken;
    }
    if (restorer_digest(restorer))
        dumps_to(in, at, restorer_digest(restorer));
    restorer_free(restorer);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    make_home();
    restore(in, len, len % 61 + 1);
    CHECK(entries_of(home) == ONE_AND_DOTS && entries_of(store) <= ONE_AND_DOTS);
    if (faccessat(store_fd, "path", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        remove_in(store_fd, "path");
    return 0;
}
