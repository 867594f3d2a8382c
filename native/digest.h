/* SHA-256 of the bytes of one NAR.  Hashing can go on in a thread of its own, which is started when first used. */
#ifndef FERRY_DIGEST_H
#define FERRY_DIGEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

enum { DIGEST_SIZE = 32 };

/* All zero to begin with. */
struct digest {
    uint8_t value[DIGEST_SIZE]; /* after digest_finish() */

    /* Private from here. */
    EVP_MD_CTX *context;
    bool threaded, failed;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows, and the context while there is work */
    pthread_cond_t changed;
    const void *work; /* what the thread is to hash, NULL when it is done */
    size_t work_len;
    bool end;
};

/* Each returns false when libcrypto fails, which in practice means no memory. */
bool digest_init(struct digest *digest);
bool digest_update(struct digest *digest, const void *bytes, size_t len);
bool digest_finish(struct digest *digest);
void digest_free(struct digest *digest);

/* As digest_update(), but the work may go on after the return: `bytes` must stay, and nothing else be asked for, until
 * digest_wait(), which returns what digest_update() would have.  Where no thread can be had the work is done at once. */
void digest_begin(struct digest *digest, const void *bytes, size_t len);
bool digest_wait(struct digest *digest);

#endif
