#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_CPU_BYTES = 8192, TIMER_SLACK_NS = 50000, LARGE_BYTES = 4 << 20 };

/* Of ioprio_set(), which has no header of its own in every release. */
enum { WHO_PROCESS = 1, NO_CLASS = 0 };

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    /* Not permitted where it would be a privilege. */
    ssize_t ignored = write(fd, text, strlen(text));
    (void)ignored;
    close(fd);
}

static void reset_signals(void)
{
    sigset_t none;
    for (int number = 1; number < NSIG; number++)
        /* Python ignores these two itself. */
        if (number != SIGPIPE && number != SIGXFSZ)
            signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void return_large_blocks(void)
{
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
#endif
}

void make_neutral(void)
{
    static const struct sched_param unimportant;
    unsigned char processors[MAX_CPU_BYTES];
    memset(processors, 0xff, sizeof processors);
    sched_setscheduler(0, SCHED_OTHER, &unimportant);
    setpriority(PRIO_PROCESS, 0, 0);
    syscall(SYS_sched_setaffinity, 0, sizeof processors, processors);
    syscall(SYS_ioprio_set, WHO_PROCESS, 0, NO_CLASS);
    syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
    personality(PER_LINUX);
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
    umask(022);
    reset_signals();
    write_file("/proc/self/oom_score_adj", "0");
    write_file("/proc/self/coredump_filter", "0x33");
}
