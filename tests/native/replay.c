/* Give every file of the directories named on the command line to a fuzz target, once. */
#include <dirent.h>

#include "check.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

static void replay(const char *directory, const char *name)
{
    char path[4096];
    CHECK(snprintf(path, sizeof path, "%s/%s", directory, name) < (int)sizeof path);
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    long len = ftell(file);
    CHECK(len >= 0 && fseek(file, 0, SEEK_SET) == 0);
    /* Its very size, so that the sanitizer sees a look past its end. */
    uint8_t *data = malloc((size_t)len);
    CHECK((data || !len) && fread(data, 1, (size_t)len, file) == (size_t)len);
    fclose(file);
    LLVMFuzzerTestOneInput(data, (size_t)len);
    free(data);
}

int main(int argc, char **argv)
{
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *directory = opendir(argv[i]);
        CHECK(directory);
        for (struct dirent *entry; (entry = readdir(directory));) {
            if (entry->d_name[0] == '.')
                continue;
            replay(argv[i], entry->d_name);
            count++;
        }
        closedir(directory);
    }
    CHECK(count);
    printf("%s: %zu inputs: ok\n", argv[0], count);
}
