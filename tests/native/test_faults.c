/* dump.c and restore.c while the n-th allocation or system call fails, for every n: an error that says so, no
 * descriptor and no memory left behind (LeakSanitizer watches the latter), and no effect on the next run. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "dump.h"
#include "faults.h"
#include "restore.h"

static char place[] = "/tmp/ferry-faults-XXXXXX";
static uint8_t nar[1 << 20], digest[32];
static size_t nar_len;

static size_t open_descriptors(void)
{
    size_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 20, FTW_DEPTH | FTW_PHYS);
}

static void plant_file(int dir, const char *name, size_t size, mode_t mode)
{
    uint8_t bytes[600];
    memset(bytes, 'x', sizeof bytes);
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL, mode);
    CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

enum { NODES = 36 + 1 + 2 * 4 };

/* Deeper than the descriptors that stay open, with one of each kind of node at both ends. */
static void plant(void)
{
    CHECK(mkdtemp(place));
    int dir = open(place, O_RDONLY | O_DIRECTORY);
    CHECK(mkdirat(dir, "tree", 0700) == 0);
    const char *name = "tree";
    for (int depth = 0; depth < 36; depth++) {
        int inner = openat(dir, name, O_RDONLY | O_DIRECTORY);
        CHECK(inner >= 0);
        close(dir);
        dir = inner;
        if (depth == 0 || depth == 35) {
            plant_file(dir, "a", 0, 0644);
            plant_file(dir, "b", 600, 0755);
            CHECK(symlinkat("target", dir, "c") == 0);
            plant_file(dir, "z", 13, 0600);
        }
        name = "dir";
        CHECK(mkdirat(dir, name, 0700) == 0);
    }
    close(dir);
}

/* 0, or the error of the dump. */
static int dump(uint8_t *out, size_t room, size_t piece, size_t *len, uint8_t *hash)
{
    char path[64];
    snprintf(path, sizeof path, "%s/tree", place);
    struct dumper *dumper;
    int error = dumper_new(path, UINT32_MAX, true, &dumper);
    if (error)
        return error;
    int64_t got;
    *len = 0;
    do {
        CHECK(*len + piece <= room);
        got = dumper_read(dumper, out + *len, piece);
        *len += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    if (got < 0) {
        error = dumper_error(dumper)->os_error;
        CHECK(error && dumper_error(dumper)->code == NAR_E_OS);
        CHECK(dumper_read(dumper, out, 1) == -1);
    } else
        memcpy(hash, dumper_digest(dumper), 32);
    dumper_free(dumper);
    return error;
}

static int restore(size_t piece, bool durable)
{
    static const char kept[] = "security.selinux\0system.nfs4_acl";
    struct restorer *restorer;
    int error = restorer_new(place, "copy", UINT32_MAX, durable, kept, sizeof kept, &restorer);
    if (error)
        return error;
    for (size_t at = 0; at < nar_len && !error; at += piece) {
        size_t size = piece < nar_len - at ? piece : nar_len - at;
        int64_t taken = restorer_feed(restorer, nar + at, size);
        if (taken < 0) {
            error = restorer_error(restorer)->os_error;
            CHECK(error && restorer_error(restorer)->code == NAR_E_OS);
            CHECK(restorer_feed(restorer, nar, 1) == -1);
        } else
            CHECK((size_t)taken == size);
    }
    if (error)
        CHECK(!restorer_digest(restorer));
    else
        CHECK(memcmp(restorer_digest(restorer), digest, 32) == 0);
    restorer_free(restorer);
    return error;
}

static bool dump_is_right(int *error, size_t piece)
{
    static uint8_t again[sizeof nar];
    uint8_t hash[32];
    size_t len;
    *error = dump(again, sizeof again, piece, &len, hash);
    return *error || (len == nar_len && !memcmp(again, nar, len) && !memcmp(hash, digest, 32));
}

static void every_call_of_a_dump_may_fail(void)
{
    size_t before = open_descriptors();
    unsigned call = 0, errors = 0;
    int error;
    do {
        faults_arm(++call);
        CHECK(dump_is_right(&error, 1000));
        CHECK(!error || error == EIO || error == ENOMEM);
        errors += error != 0;
        CHECK(open_descriptors() == before);
    } while (faults_fired());
    CHECK(!error && errors > 150);
}

/* What may fail and leave a restore as good as without: a directory has nothing left to write when it is closed, and
 * what has no memory for a thread that hashes (digest.c) hashes by itself. */
static bool is_harmless(const char *call)
{
    return strcmp(call, FAULT_CLOSE_READ) == 0 || strcmp(call, "malloc") == 0;
}

static void every_call_of_a_restore_may_fail(int oddities)
{
    char copy[64];
    snprintf(copy, sizeof copy, "%s/copy", place);
    size_t before = open_descriptors();
    unsigned call = 0, errors = 0, threads = 0;
    int error;
    bool fired;
    do {
        faults_oddities(oddities);
        faults_arm(++call);
        error = restore(1000, true);
        fired = faults_fired();
        CHECK(!error || error == EIO || error == ENOMEM);
        if (!error && fired) {
            CHECK(is_harmless(faults_failed()));
            threads += strcmp(faults_failed(), "malloc") == 0;
        }
        errors += error != 0;
        CHECK(open_descriptors() == before);
        remove_tree(copy);
    } while (fired);
    CHECK(!error && errors > 300);
    CHECK(threads == 1);
    CHECK(faults_labels_removed() == (oddities & FAULT_LABELS ? NODES : 0));
    faults_oddities(0);
}

static void oddities_do_not_matter(void)
{
    char copy[64];
    int error;
    snprintf(copy, sizeof copy, "%s/copy", place);
    for (int oddities = 0; oddities < 16; oddities++) {
        faults_oddities(oddities);
        CHECK(dump_is_right(&error, 1000) && !error);
        CHECK(restore(nar_len, true) == 0);
        remove_tree(copy);
    }
    faults_oddities(0);
}

static void the_buffer_is_filled_and_not_exceeded(void)
{
    size_t len, at = 0;
    uint8_t hash[32];
    char path[64];
    snprintf(path, sizeof path, "%s/tree", place);
    for (size_t piece = 1; piece < 3000; piece = piece * 3 / 2 + 1) {
        struct guarded out = guard(NULL, piece);
        struct dumper *dumper;
        CHECK(dumper_new(path, UINT32_MAX, true, &dumper) == 0);
        for (at = 0;; at += len) {
            len = (size_t)dumper_read(dumper, out.bytes, piece);
            CHECK(len == (piece < nar_len - at ? piece : nar_len - at));
            CHECK(memcmp(out.bytes, nar + at, len) == 0);
            if (len == 0)
                break;
        }
        memcpy(hash, dumper_digest(dumper), 32);
        CHECK(at == nar_len && memcmp(hash, digest, 32) == 0);
        dumper_free(dumper);
        unguard(out);
    }
}

struct calls {
    unsigned dump, restore, durable_restore;
};

/* What a directory of `count` files costs, every other of them executable. */
static struct calls calls_for(unsigned count)
{
    char tree[64], copy[64], name[16];
    snprintf(tree, sizeof tree, "%s/tree", place);
    snprintf(copy, sizeof copy, "%s/copy", place);
    remove_tree(tree);
    CHECK(mkdir(tree, 0700) == 0);
    int dir = open(tree, O_RDONLY | O_DIRECTORY);
    for (unsigned file = 0; file < count; file++) {
        snprintf(name, sizeof name, "%u", file);
        plant_file(dir, name, 600, file % 2 ? 0644 : 0755);
    }
    close(dir);
    unsigned start = faults_system_calls();
    CHECK(dump(nar, sizeof nar, sizeof nar / 2, &nar_len, digest) == 0);
    unsigned dumped = faults_system_calls();
    CHECK(restore(nar_len, false) == 0);
    unsigned restored = faults_system_calls();
    remove_tree(copy);
    unsigned again = faults_system_calls();
    CHECK(restore(nar_len, true) == 0);
    struct calls calls = {dumped - start, restored - dumped, faults_system_calls() - again};
    remove_tree(copy);
    return calls;
}

/* Small files are nothing but system calls.  The budget is in dump.h and restore.h. */
static void a_file_costs_four_system_calls(void)
{
    struct calls few = calls_for(20), many = calls_for(40);
    CHECK(many.dump - few.dump == 4 * 20);
    CHECK(many.restore - few.restore == 4 * 20);
    CHECK(many.durable_restore - few.durable_restore == 5 * 20);
}

int main(void)
{
    faults_init();
    plant();
    CHECK(dump(nar, sizeof nar, 4096, &nar_len, digest) == 0);
    every_call_of_a_dump_may_fail();
    every_call_of_a_restore_may_fail(0);
    every_call_of_a_restore_may_fail(FAULT_LABELS);
    oddities_do_not_matter();
    the_buffer_is_filled_and_not_exceeded();
    a_file_costs_four_system_calls();
    remove_tree(place);
    puts("faults: ok");
}
