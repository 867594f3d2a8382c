/* Why reading or writing a NAR stopped.  Codes and raw bytes only: the wording is in hook/store/nar.py. */
#ifndef FERRY_ERROR_H
#define FERRY_ERROR_H

#include <stddef.h>
#include <stdint.h>

enum {
    NAR_OK,
    NAR_E_OS,       /* a system call failed: see os_error */
    NAR_E_DEPTH,    /* nested deeper than allowed */
    NAR_E_MAGIC,    /* the input is no NAR at all */
    NAR_E_TAG,      /* `expected` should have come instead of `detail` */
    NAR_E_TYPE,     /* the unknown node type `detail` */
    NAR_E_NAME,     /* the impossible file name `detail` */
    NAR_E_ORDER,    /* the name `detail` does not follow its predecessor */
    NAR_E_MARKER,   /* the executable marker has a value */
    NAR_E_TARGET,   /* an empty symlink target, or one with a NUL */
    NAR_E_LENGTH,   /* a string longer than its kind can be */
    NAR_E_PADDING,  /* padding that is not zero */
    NAR_E_FILETYPE, /* a file that is no regular file, directory or symlink */
    NAR_E_CHANGED   /* a file changed its size while it was read */
};

struct nar_error {
    int code;
    int os_error;
    const char *expected; /* a static string, or NULL */
    size_t detail_len;
    size_t path_len; /* may exceed sizeof path: then `path` holds the end only */
    uint8_t detail[256];
    char path[1024];    /* below the root: empty for the root itself, else "/a/b" */
};

#endif
