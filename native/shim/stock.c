#include "stock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char NIX[] = "nix";

void write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t done = write(fd, data, len);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return;
        }
        data += done;
        len -= (size_t)done;
    }
}

/* Add `text` to a JSON string of at most `size` bytes, which has `at`.  Returns where it ends. */
static size_t add_json(char *json, size_t size, size_t at, const char *text)
{
    for (; *text && at + 2 < size; text++) {
        if (*text == '"' || *text == '\\')
            json[at++] = '\\';
        /* Bytes that may be no UTF-8 are of a path at most. */
        json[at++] = *text >= ' ' && *text < 127 ? *text : '?';
    }
    return at;
}

void say(const char *verbosity, enum level level, const char *format, ...)
{
    char *end;
    long most = strtol(verbosity, &end, 10);
    /* Nix's default. */
    if (end == verbosity || *end)
        most = 3;
    if (most < level)
        return;
    char text[1024];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    static const char *const titles[] = {[ERROR] = "\\u001b[31;1merror:\\u001b[0m nix-ferry: ",
                                         [WARNING] = "\\u001b[35;1mwarning:\\u001b[0m nix-ferry: ",
                                         [TALKATIVE] = ""};
    /* Short enough to be written at once. */
    char line[PIPE_BUF];
    const size_t room = sizeof line - sizeof "\"}\n";
    size_t at = (size_t)snprintf(line, room, "@nix {\"action\":\"msg\",\"level\":%d,\"msg\":\"%s", level, titles[level]);
    at = add_json(line, room, at, text);
    at += (size_t)sprintf(line + at, "\"}\n");
    write_all(2, line, at);
}

/* Let standard input begin with what was kept.  A child passes on the rest; it keeps none of the descriptors whose end
 * the parent waits for.  False if that failed. */
static bool put_back(const struct kept *kept)
{
    int ends[2];
    if (pipe(ends) < 0)
        return false;
    pid_t self = getpid(), child = fork();
    if (child < 0)
        return false;
    if (child == 0) {
        static char buffer[65536];
        ssize_t got;
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != self || dup2(ends[1], 1) < 0)
            _exit(1);
        close_range(2, UINT_MAX, 0);
        write_all(1, kept->data, kept->len);
        while ((got = read(0, buffer, sizeof buffer)) > 0)
            write_all(1, buffer, (size_t)got);
        _exit(0);
    }
    close(ends[1]);
    bool moved = dup2(ends[0], 0) == 0;
    close(ends[0]);
    return moved;
}

/* Nix is one executable that looks at the name it is called by; the one that the parent runs is the one of its release,
 * also when its file was replaced since. */
static void execute_nix(const char *verbosity)
{
    char link[32], target[PATH_MAX];
    char *const arguments[] = {"build-remote", (char *)verbosity, NULL};
    snprintf(link, sizeof link, "/proc/%d/exe", (int)getppid());
    ssize_t len = readlink(link, target, sizeof target - 1);
    if (len > 0) {
        target[len] = 0;
        const char *slash = strrchr(target, '/');
        if (slash && strncmp(slash + 1, NIX, strlen(NIX)) == 0)
            execv(link, arguments);
    }
    execvp(NIX, arguments);
}

_Noreturn void become_stock(struct kept *kept, const char *verbosity)
{
    if (is_over(kept))
        exit(0);
    if (kept->len == 0 || put_back(kept))
        execute_nix(verbosity);
    say(verbosity, ERROR, "cannot find the stock build hook: the parent process is not Nix, and '%s' is not in PATH", NIX);
    static const char answer[] = "# decline-permanently\n";
    write_all(2, answer, sizeof answer - 1);
    exit(1);
}
