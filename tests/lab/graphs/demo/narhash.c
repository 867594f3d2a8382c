/* Print the SHA-256 of the NAR of argv[1], as `nix-store --query --hash` knows it, in hexadecimal. */
#include <stdio.h>
#include <string.h>

#include "digest.h"
#include "dump.h"
#include "nar.h"

int main(int argc, char **argv)
{
    struct dumper *dumper;
    static uint8_t buffer[65536];
    int64_t size;

    if (argc != 2 || dumper_new(argv[1], NAR_DEPTH_CEILING, true, &dumper) != 0)
        return 2;
    while ((size = dumper_read(dumper, buffer, sizeof buffer)) == (int64_t)sizeof buffer)
        ;
    if (size < 0) {
        fprintf(stderr, "narhash: cannot dump '%s': %s\n", argv[1], strerror(dumper_error(dumper)->os_error));
        return 1;
    }
    for (int i = 0; i < DIGEST_SIZE; i++)
        printf("%02x", dumper_digest(dumper)[i]);
    putchar('\n');
    dumper_free(dumper);
    return 0;
}
