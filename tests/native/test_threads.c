/* restore.c where a second thread takes part, which hashes a copy of what is written.  And many at work at
 * once, each on its own, as in a broker.  Also run under ThreadSanitizer. */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "dump.h"
#include "loglines.h"
#include "restore.h"
#include "wire.h"

enum { CONTENTS = 1 << 20, PIECE = 100000, WORKERS = 8, ROUNDS = 5 };

static char place[] = "/tmp/ferry-threads-XXXXXX", copy[64];
static uint8_t nar[CONTENTS + 1024], digest[32];
static size_t nar_len;
static bool threads_refused;

static _Atomic unsigned threads;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    if (threads_refused)
        return EAGAIN;
    threads++;
    return __real_pthread_create(thread, attributes, run, argument);
}

int __real_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result)
{
    threads--;
    return __real_pthread_join(thread, result);
}

static void put(const char *text)
{
    nar_len += wire_put_string(nar + nar_len, text, strlen(text));
}

static void make_nar(void)
{
    static uint8_t contents[CONTENTS];
    for (size_t i = 0; i < sizeof contents; i++)
        contents[i] = (uint8_t)(i * i >> 7);
    static const char *const tags[] = {"nix-archive-1", "(", "type", "regular", "contents"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        put(tags[i]);
    nar_len += wire_put_string(nar + nar_len, contents, sizeof contents);
    put(")");
    CHECK(EVP_Digest(nar, nar_len, digest, NULL, EVP_sha256(), NULL));
}

static struct restorer *begin(void)
{
    struct restorer *restorer;
    unlink(copy);
    CHECK(restorer_new(place, "copy", 0, false, "", 0, &restorer) == 0);
    return restorer;
}

static void restore(size_t piece)
{
    struct restorer *restorer = begin();
    for (size_t at = 0; at < nar_len; at += piece) {
        /* Bytes behind the end belong to somebody else. */
        size_t given = piece < sizeof nar - at ? piece : sizeof nar - at;
        CHECK(restorer_feed(restorer, nar + at, given) == (int64_t)(given < nar_len - at ? given : nar_len - at));
    }
    CHECK(memcmp(restorer_digest(restorer), digest, sizeof digest) == 0);
    restorer_free(restorer);
}

static void the_hash_is_the_same_whatever_the_pieces(void)
{
    for (size_t piece = 1 << 14; piece < nar_len; piece = piece * 3 / 2)
        restore(piece);
    restore(nar_len);
    CHECK(threads == 0);
}

static void it_goes_without_a_thread(void)
{
    threads_refused = true;
    restore(1 << 18);
    threads_refused = false;
}

static void a_failed_write_is_told(void)
{
    struct rlimit old, small = {.rlim_cur = CONTENTS / 2};
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    struct restorer *restorer = begin();
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(restorer_feed(restorer, nar, nar_len) == -1);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK(restorer_error(restorer)->os_error == EFBIG && !restorer_digest(restorer));
    CHECK(restorer_feed(restorer, nar, nar_len) == -1);
    restorer_free(restorer);
    CHECK(threads == 0);
}

static void it_can_be_given_up_in_the_middle(void)
{
    struct restorer *restorer = begin();
    CHECK(restorer_feed(restorer, nar, nar_len / 2) == (int64_t)(nar_len / 2));
    CHECK(threads == 1);
    restorer_free(restorer);
    CHECK(threads == 0);
}

/* What Python's threads do without the interpreter's lock: all of it at the same time, each with objects of its own. */
static void *work(void *number)
{
    char name[16], path[64];
    static const struct logline_frame frame = {"<", ">", 1, 1};
    uint8_t *out = malloc(nar_len + 1);
    CHECK(out);
    snprintf(name, sizeof name, "copy-%d", *(const int *)number);
    snprintf(path, sizeof path, "%s/%s", place, name);
    for (int round = 0; round < ROUNDS; round++) {
        struct restorer *restorer;
        struct dumper *dumper;
        struct logline_sizes sizes;
        CHECK(restorer_new(place, name, 0, false, "", 0, &restorer) == 0);
        for (size_t at = 0; at < nar_len; at += PIECE)
            CHECK(restorer_feed(restorer, nar + at, PIECE < nar_len - at ? PIECE : nar_len - at) > 0);
        CHECK(memcmp(restorer_digest(restorer), digest, sizeof digest) == 0);
        restorer_free(restorer);
        CHECK(dumper_new(path, 0, true, &dumper) == 0 && dumper_read(dumper, out, nar_len + 1) == (int64_t)nar_len);
        CHECK(memcmp(out, nar, nar_len) == 0 && memcmp(dumper_digest(dumper), digest, sizeof digest) == 0);
        dumper_free(dumper);
        CHECK(loglines_take(nar, nar_len, 1, &frame, out, nar_len, &sizes) == 0);
        CHECK(unlink(path) == 0);
    }
    free(out);
    return NULL;
}

static void many_at_once_have_nothing_in_common(void)
{
    pthread_t workers[WORKERS];
    int numbers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&workers[i], NULL, work, &numbers[i]) == 0);
    }
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_join(workers[i], NULL) == 0);
    CHECK(threads == 0);
}

int main(void)
{
    CHECK(mkdtemp(place));
    snprintf(copy, sizeof copy, "%s/copy", place);
    make_nar();
    the_hash_is_the_same_whatever_the_pieces();
    it_goes_without_a_thread();
    a_failed_write_is_told();
    it_can_be_given_up_in_the_middle();
    many_at_once_have_nothing_in_common();
    unlink(copy);
    rmdir(place);
    puts("threads: ok");
}
