#include "digest.h"

#include <signal.h>

bool digest_init(struct digest *digest)
{
    digest->context = EVP_MD_CTX_new();
    return digest->context && EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL);
}

bool digest_update(struct digest *digest, const void *bytes, size_t len)
{
    return EVP_DigestUpdate(digest->context, bytes, len);
}

bool digest_finish(struct digest *digest)
{
    return EVP_DigestFinal_ex(digest->context, digest->value, NULL);
}

static void *work(void *argument)
{
    struct digest *digest = argument;
    pthread_mutex_lock(&digest->mutex);
    for (;;) {
        while (!digest->work && !digest->end)
            pthread_cond_wait(&digest->changed, &digest->mutex);
        if (digest->end)
            break;
        const void *bytes = digest->work;
        size_t len = digest->work_len;
        pthread_mutex_unlock(&digest->mutex);
        bool hashed = digest_update(digest, bytes, len);
        pthread_mutex_lock(&digest->mutex);
        digest->failed = !hashed;
        digest->work = NULL;
        pthread_cond_signal(&digest->changed);
    }
    pthread_mutex_unlock(&digest->mutex);
    return NULL;
}

/* Signals are for the threads of whoever uses us. */
static bool start(struct digest *digest)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_init(&digest->mutex, NULL);
    pthread_cond_init(&digest->changed, NULL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    digest->threaded = pthread_create(&digest->thread, NULL, work, digest) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return digest->threaded;
}

void digest_begin(struct digest *digest, const void *bytes, size_t len)
{
    if (!digest->threaded && !start(digest)) {
        digest->failed = !digest_update(digest, bytes, len);
        return;
    }
    pthread_mutex_lock(&digest->mutex);
    digest->work = bytes;
    digest->work_len = len;
    pthread_cond_signal(&digest->changed);
    pthread_mutex_unlock(&digest->mutex);
}

bool digest_wait(struct digest *digest)
{
    if (digest->threaded) {
        pthread_mutex_lock(&digest->mutex);
        while (digest->work)
            pthread_cond_wait(&digest->changed, &digest->mutex);
        pthread_mutex_unlock(&digest->mutex);
    }
    return !digest->failed;
}

void digest_free(struct digest *digest)
{
    if (digest->threaded) {
        pthread_mutex_lock(&digest->mutex);
        digest->end = true;
        pthread_cond_signal(&digest->changed);
        pthread_mutex_unlock(&digest->mutex);
        pthread_join(digest->thread, NULL);
        pthread_cond_destroy(&digest->changed);
        pthread_mutex_destroy(&digest->mutex);
        digest->threaded = false;
    }
    EVP_MD_CTX_free(digest->context);
    digest->context = NULL;
}
