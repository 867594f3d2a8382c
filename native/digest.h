/* SHA-256 of the bytes of one NAR. */
#ifndef FERRY_DIGEST_H
#define FERRY_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

enum { DIGEST_SIZE = 32 };

struct digest {
    EVP_MD_CTX *context;
    uint8_t value[DIGEST_SIZE]; /* after digest_finish() */
};

/* Each returns false when libcrypto fails, which in practice means no memory. */
bool digest_init(struct digest *digest);
bool digest_update(struct digest *digest, const void *bytes, size_t len);
bool digest_finish(struct digest *digest);
void digest_free(struct digest *digest);

#endif
