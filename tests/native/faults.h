/* Makes one of the allocations and system calls of the code under test fail; linked with --wrap for each of them. */
#ifndef FERRY_FAULTS_H
#define FERRY_FAULTS_H

#include <stdbool.h>

/* The n-th call from now fails, with EIO or as out of memory; 0: none does. */
void faults_arm(unsigned call);

/* Disarms; whether the call to fail was reached. */
bool faults_fired(void);

/* The name of the last call that was made to fail; that of a close() says whether the file was written to. */
const char *faults_failed(void);

#define FAULT_CLOSE_READ "close of what was only read"

enum {
    FAULT_SHORT = 1,     /* reads and writes move one byte, and every other one is interrupted first */
    FAULT_UNTYPED = 2,   /* directory entries come without a type */
    FAULT_NO_XATTRS = 4, /* the file system has no extended attributes */
    FAULT_NO_PROC = 8,   /* nothing is found under /proc */
    FAULT_LABELS = 16    /* everything is born with the attributes security.selinux and trusted.odd */
};

/* Oddities that must not matter: any of the above, until set again. */
void faults_oddities(int oddities);

/* How often a removal of trusted.odd was asked for since then. */
unsigned faults_labels_removed(void);

/* How many system calls have been made, except those that create or end threads. */
unsigned faults_system_calls(void);

/* Before libcrypto is used for the first time. */
void faults_init(void);

#endif
