/* SHA-256 of the bytes of one NAR.  Hashing can go on in a thread of its own, which is started when first used. */
#ifndef FERRY_DIGEST_H
#define FERRY_DIGEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

enum {
    DIGEST_SIZE = 32,
    /* From here on, hashing beside other work saves more than a second thread costs. */
    DIGEST_ASIDE_MIN = 64 << 10
};

/* All zero to begin with. */
struct digest {
    uint8_t value[DIGEST_SIZE]; /* after digest_finish() */

    /* Private from here. */
    EVP_MD_CTX *context; /* the thread's while there is one */
    bool threaded;
    pthread_t thread;
    uint8_t *queue; /* what the thread is to hash: a ring */
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t filled, emptied;
    uint64_t put, taken; /* bytes, from the beginning */
    bool end, failed;
};

/* Each returns false when libcrypto fails, which in practice means no memory. */
bool digest_init(struct digest *digest);
bool digest_update(struct digest *digest, const void *bytes, size_t len);
bool digest_finish(struct digest *digest);
void digest_free(struct digest *digest);

/* As digest_update(), but of DIGEST_ASIDE_MIN bytes, and of all that follow them, a copy is hashed by the thread while
 * the caller goes on; that it failed may be told later.  Where no thread can be had the work is done at once. */
bool digest_aside(struct digest *digest, const void *bytes, size_t len);

#endif
