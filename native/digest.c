#include "digest.h"

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

void digest_free(struct digest *digest)
{
    EVP_MD_CTX_free(digest->context);
    digest->context = NULL;
}
