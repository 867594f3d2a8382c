#include "standing.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/nsfs.h>

enum {
    LEAKED = 3,
    LINK_BYTES = 64,
    FILE_BYTES = 32768,
};

/* Sessions at a desktop have these, others do not, and nothing depends on them. */
static const uint64_t HARMLESS = 1ULL << CAP_WAKE_ALARM | 1ULL << CAP_BLOCK_SUSPEND;

/* Lines of any length, by their CRC-32 as zlib has it. */
struct text {
    uint32_t sum;
    bool whole;
};

/* A directory of /proc. */
struct process {
    int pid; /* as system calls take it: 0 is this one */
    char path[LINK_BYTES];
};

static void add_byte(struct text *text, char byte)
{
    text->sum ^= (unsigned char)byte;
    for (int bit = 0; bit < 8; bit++)
        text->sum = text->sum >> 1 ^ (text->sum & 1 ? 0xEDB88320 : 0);
}

static void add_line(struct text *text, const char *line)
{
    for (; *line; line++)
        add_byte(text, *line);
    add_byte(text, '\n');
}

static void put_path(char *path, const struct process *process, const char *name)
{
    snprintf(path, PATH_MAX, "%s/%s", process->path, name);
}

/* Read a file of `process`, and put a NUL behind it.  False if there is none, or it does not fit. */
static bool read_file(const struct process *process, const char *name, char data[FILE_BYTES])
{
    char path[PATH_MAX];
    size_t len = 0;
    ssize_t got = -1;
    put_path(path, process, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    while (len < FILE_BYTES - 1 && (got = read(fd, data + len, FILE_BYTES - 1 - len)) > 0)
        len += (size_t)got;
    close(fd);
    data[len] = 0;
    return got == 0;
}

static bool read_link(const struct process *process, const char *name, char target[LINK_BYTES])
{
    char path[PATH_MAX];
    put_path(path, process, name);
    ssize_t len = readlink(path, target, LINK_BYTES - 1);
    target[len > 0 ? len : 0] = 0;
    return len > 0;
}

static bool starts(const char *line, const char *prefix)
{
    return strncmp(line, prefix, strlen(prefix)) == 0;
}

/* The value in a line of a status. */
static unsigned long long value(const char *line, int base)
{
    return strtoull(strchr(line, ':') + 1, NULL, base);
}

/* The rights that no child can get back.  Returns the capabilities that count now. */
static uint64_t add_rights(struct text *text, const struct process *process, bool *confined)
{
    static const char *const always[] = {"CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"};
    static const char *const users[] = {"Uid:", "Gid:", "Groups:"};
    char path[PATH_MAX], *line = NULL;
    size_t size = 0;
    uint64_t effective = 0;
    bool root = geteuid() == 0;
    *confined = false;
    put_path(path, process, "status");
    FILE *status = fopen(path, "re");
    /* The line of the groups may have hundreds of kilobytes. */
    while (status && getline(&line, &size, status) > 0) {
        line[strcspn(line, "\n")] = 0;
        bool counts = starts(line, "CapAmb:") && value(line, 16) & ~HARMLESS;
        for (size_t i = 0; i < sizeof always / sizeof *always; i++)
            counts = counts || starts(line, always[i]);
        for (size_t i = 0; !root && i < sizeof users / sizeof *users; i++)
            counts = counts || starts(line, users[i]);
        if (counts)
            add_line(text, line);
        if (starts(line, "CapEff:"))
            effective = value(line, 16);
        if (starts(line, "NoNewPrivs:") || starts(line, "Seccomp:"))
            *confined = *confined || value(line, 10) != 0;
    }
    text->whole = text->whole && status && feof(status);
    free(line);
    if (status)
        fclose(status);
    return effective;
}

static void add_label(struct text *text, const struct process *process)
{
    char label[FILE_BYTES];
    if (!read_file(process, "attr/current", label) || strstr(label, "unconfined"))
        return;
    label[strcspn(label, "\n")] = 0;
    if (*label)
        add_line(text, label);
}

static void add_limits(struct text *text, int pid)
{
    static const int limits[] = {RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_AS};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit limit;
        char line[LINK_BYTES];
        text->whole = text->whole && prlimit(pid, limits[i], NULL, &limit) == 0;
        snprintf(line, sizeof line, "%lld", text->whole ? (long long)limit.rlim_max : 0);
        add_line(text, line);
    }
}

static int parent_of(const struct process *process)
{
    char stat[FILE_BYTES];
    if (process->pid == 0)
        return (int)getppid();
    if (!read_file(process, "stat", stat))
        return 0;
    /* Behind the command, which is in parentheses and may contain anything. */
    char *end = strrchr(stat, ')');
    return end && strlen(end) > 4 ? atoi(end + 4) : 0;
}

/* Find the mount namespace that Nix, whose hook `process` may be, has left: the `path` of a descriptor of it, and what
 * that links to. */
static bool find_left(const struct process *process, char path[PATH_MAX], char target[LINK_BYTES])
{
    static const char PREFIX[] = "mnt:[";
    char name[LINK_BYTES];
    /* Only root can have left one. */
    if (geteuid() != 0)
        return false;
    snprintf(name, sizeof name, "fd/%d", LEAKED);
    put_path(path, process, name);
    if (read_link(process, name, target) && starts(target, PREFIX))
        return true;
    struct process parent = {.pid = parent_of(process)};
    snprintf(parent.path, sizeof parent.path, "/proc/%d", parent.pid);
    put_path(path, &parent, "fd");
    /* The first process is no Nix, and may keep namespaces of others. */
    DIR *directory = parent.pid > 1 ? opendir(path) : NULL;
    struct stat owner;
    bool found = false;
    /* Nor is one of a user, who could have made the namespace. */
    if (directory && (fstat(dirfd(directory), &owner) < 0 || owner.st_uid != 0)) {
        closedir(directory);
        directory = NULL;
    }
    for (struct dirent *entry; !found && directory && (entry = readdir(directory));) {
        snprintf(name, sizeof name, "fd/%.8s", entry->d_name);
        put_path(path, &parent, name);
        found = read_link(&parent, name, target) && starts(target, PREFIX);
    }
    if (directory)
        closedir(directory);
    return found;
}

static void add_namespaces(struct text *text, const struct process *process)
{
    static const char *const others[] = {"ns/net", "ns/user", "ns/pid"};
    char path[PATH_MAX], target[LINK_BYTES];
    bool found = find_left(process, path, target) || read_link(process, "ns/mnt", target);
    add_line(text, target);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        found = found && read_link(process, others[i], target);
        add_line(text, target);
    }
    text->whole = text->whole && found;
}

static void add_root(struct text *text, const struct process *process)
{
    struct stat root = {0};
    char path[PATH_MAX], line[LINK_BYTES];
    put_path(path, process, "root");
    text->whole = text->whole && stat(path, &root) == 0;
    snprintf(line, sizeof line, "%llu:%llu", (unsigned long long)root.st_dev, (unsigned long long)root.st_ino);
    add_line(text, line);
}

static void set_process(struct process *process, int pid)
{
    process->pid = pid;
    snprintf(process->path, sizeof process->path, pid ? "/proc/%d" : "/proc/self", pid);
}

bool find_standing(int pid, uint32_t *name)
{
    struct text text = {.sum = UINT32_MAX, .whole = true};
    struct process process;
    char groups[FILE_BYTES];
    bool confined;
    set_process(&process, pid);
    add_namespaces(&text, &process);
    add_root(&text, &process);
    uint64_t effective = add_rights(&text, &process, &confined);
    if (confined && read_file(&process, "cgroup", groups))
        add_line(&text, groups);
    add_label(&text, &process);
    if (!(effective & 1ULL << CAP_SYS_RESOURCE))
        add_limits(&text, pid);
    int nice = getpriority(PRIO_PROCESS, (id_t)pid);
    if (!(effective & 1ULL << CAP_SYS_NICE) && nice > 0) {
        char line[LINK_BYTES];
        snprintf(line, sizeof line, "nice %d", nice);
        add_line(&text, line);
    }
    *name = ~text.sum;
    return text.whole;
}

/* Whether the user namespace of the mount namespace `fd` is ours: nobody with fewer rights has made it. */
static bool is_our_users(int fd)
{
    struct stat theirs, ours;
    int owner = ioctl(fd, NS_GET_USERNS);
    bool same = owner >= 0 && fstat(owner, &theirs) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
                theirs.st_ino == ours.st_ino;
    if (owner >= 0)
        close(owner);
    return same;
}

bool go_home(int hook)
{
    struct stat before, after;
    struct process self, caller;
    char path[PATH_MAX], left[LINK_BYTES], ours[LINK_BYTES];
    set_process(&self, 0);
    /* Our own parent is the hook: what Nix keeps open is found by way of that. */
    set_process(&caller, hook);
    if (!find_left(&caller, path, left) || !read_link(&self, "ns/mnt", ours) || strcmp(left, ours) == 0)
        return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool home = fd >= 0 && is_our_users(fd) && stat("/", &before) == 0 && setns(fd, CLONE_NEWNS) == 0 && stat("/", &after) == 0 &&
                before.st_dev == after.st_dev && before.st_ino == after.st_ino;
    if (fd >= 0)
        close(fd);
    return home;
}
