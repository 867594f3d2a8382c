/* What Python's standard library cannot say about processes. */
#ifndef FERRY_PROCESS_H
#define FERRY_PROCESS_H

/* Have large blocks of memory go back to the system as soon as they are freed.  By default, glibc keeps up to 32 MiB for
 * each of its arenas once a block of that size was freed, and a broker with many threads uses many arenas. */
void return_large_blocks(void);

/* Give this process, which has one thread, the attributes that one has which nobody has said anything about, as far as
 * that is permitted: niceness, policies for processors, disks and memory, signals, umask, personality, timer slack,
 * out-of-memory score and what a core dump holds. */
void make_neutral(void);

#endif
