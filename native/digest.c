#include "digest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUEUE_SIZE = 512 << 10,
    /* What the thread takes at once: there is room again before all of it is hashed. */
    TAKEN_MAX = QUEUE_SIZE / 4
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

bool digest_init(struct digest *digest)
{
    digest->context = EVP_MD_CTX_new();
    return digest->context && EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL);
}

bool digest_update(struct digest *digest, const void *bytes, size_t len)
{
    return EVP_DigestUpdate(digest->context, bytes, len);
}

static void *work(void *argument)
{
    struct digest *digest = argument;
    pthread_mutex_lock(&digest->mutex);
    for (;;) {
        while (digest->put == digest->taken && !digest->end)
            pthread_cond_wait(&digest->filled, &digest->mutex);
        if (digest->put == digest->taken)
            break;
        size_t at = digest->taken % QUEUE_SIZE;
        size_t len = least(least(digest->put - digest->taken, QUEUE_SIZE - at), TAKEN_MAX);
        pthread_mutex_unlock(&digest->mutex);
        bool hashed = digest_update(digest, digest->queue + at, len);
        pthread_mutex_lock(&digest->mutex);
        digest->failed |= !hashed;
        digest->taken += len;
        pthread_cond_signal(&digest->emptied);
    }
    pthread_mutex_unlock(&digest->mutex);
    return NULL;
}

/* Signals are for the threads of whoever uses us. */
static bool start(struct digest *digest)
{
    sigset_t all, before;
    digest->queue = malloc(QUEUE_SIZE);
    if (!digest->queue)
        return false;
    sigfillset(&all);
    pthread_mutex_init(&digest->mutex, NULL);
    pthread_cond_init(&digest->filled, NULL);
    pthread_cond_init(&digest->emptied, NULL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    digest->threaded = pthread_create(&digest->thread, NULL, work, digest) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!digest->threaded) {
        free(digest->queue);
        digest->queue = NULL;
    }
    return digest->threaded;
}

/* Wait for the thread to have hashed everything, and end it. */
static void end(struct digest *digest)
{
    pthread_mutex_lock(&digest->mutex);
    digest->end = true;
    pthread_cond_signal(&digest->filled);
    pthread_mutex_unlock(&digest->mutex);
    pthread_join(digest->thread, NULL);
    pthread_cond_destroy(&digest->filled);
    pthread_cond_destroy(&digest->emptied);
    pthread_mutex_destroy(&digest->mutex);
    free(digest->queue);
    digest->queue = NULL;
    digest->threaded = false;
}

bool digest_aside(struct digest *digest, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    if (!digest->threaded && (len < DIGEST_ASIDE_MIN || !start(digest)))
        return digest_update(digest, bytes, len);
    pthread_mutex_lock(&digest->mutex);
    while (len) {
        while (digest->put - digest->taken == QUEUE_SIZE)
            pthread_cond_wait(&digest->emptied, &digest->mutex);
        size_t at = digest->put % QUEUE_SIZE, room = QUEUE_SIZE - (digest->put - digest->taken);
        size_t copied = least(len, least(room, QUEUE_SIZE - at));
        pthread_mutex_unlock(&digest->mutex);
        memcpy(digest->queue + at, from, copied);
        pthread_mutex_lock(&digest->mutex);
        digest->put += copied;
        pthread_cond_signal(&digest->filled);
        from += copied;
        len -= copied;
    }
    bool failed = digest->failed;
    pthread_mutex_unlock(&digest->mutex);
    return !failed;
}

bool digest_finish(struct digest *digest)
{
    if (digest->threaded)
        end(digest);
    return !digest->failed && EVP_DigestFinal_ex(digest->context, digest->value, NULL);
}

void digest_free(struct digest *digest)
{
    if (digest->threaded)
        end(digest);
    EVP_MD_CTX_free(digest->context);
    digest->context = NULL;
}
