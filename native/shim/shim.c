/* nix-ferry-hook: the executable that Nix starts for every build.
 *
 * Hands its descriptors, environment and verbosity to the user's broker over a unix socket and waits for the exit
 * status.  Starts the broker when none runs, and becomes the standalone hook when there can be none.  Nix aborts the
 * user's whole command when a hook disappears while it waits for a reply, so if the broker does, the answer is given
 * here.  Contract of the messages: hook/broker.py.  Tested in tests/test_shim.py. */
#include "reach.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { GREETING_ATTEMPTS = 3 };

/* What the broker says, one byte each: the first three are what the parent is waiting for. */
enum event { GONE = 0, QUESTION = 'q', ANSWERED = 'a', BUILDING = 'b', STATUS = 'x', ALONE = 's' };

/* A hook run by hand may lack some of the descriptors that Nix gives it; what we open must not get their numbers. */
static void fill_descriptors(void)
{
    static const int needed[] = {0, 1, 2, 4, 5};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (fcntl(needed[i], F_GETFD) >= 0)
            continue;
        int null = open("/dev/null", O_RDWR);
        if (null >= 0 && null != needed[i]) {
            dup2(null, needed[i]);
            close(null);
        }
    }
}

static void write_all(int fd, const char *data, size_t len)
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

static void say(const char *text)
{
    char line[512];
    int len = snprintf(line, sizeof line,
                       "@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"\\u001b[31;1merror:\\u001b[0m nix-ferry: %s\"}\n", text);
    if (len > 0 && (size_t)len < sizeof line)
        write_all(2, line, (size_t)len);
}

static _Noreturn void become_standalone(char **argv)
{
    char path[PATH_MAX];
    forget_python();
    if (sibling("nix-ferry-standalone", path, sizeof path))
        execv(path, argv);
    say("cannot run nix-ferry-standalone; is the installation complete?");
    write_all(2, "# decline-permanently\n", 22);
    exit(1);
}

/* Exactly `len` bytes; false when the other end is gone before. */
static bool read_all(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t got = read(fd, (char *)data + done, len - done);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        if (got > 0)
            done += (size_t)got;
    }
    return true;
}

/* Let standard input begin with `data`, which the broker has read already.  A child passes on the rest; it keeps none of
 * the descriptors whose end the parent waits for.  False if that failed. */
static bool put_back(const char *data, size_t len)
{
    int ends[2];
    if (pipe(ends) < 0)
        return false;
    pid_t child = fork();
    if (child < 0)
        return false;
    if (child == 0) {
        static char buffer[65536];
        ssize_t got;
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(ends[1], 1) < 0)
            _exit(1);
        close_range(2, UINT_MAX, 0);
        write_all(1, data, len);
        while ((got = read(0, buffer, sizeof buffer)) > 0)
            write_all(1, buffer, (size_t)got);
        _exit(0);
    }
    close(ends[1]);
    bool moved = dup2(ends[0], 0) == 0;
    close(ends[0]);
    return moved;
}

/* The broker leaves this conversation to us, with what it has read of it. */
static bool resume(int broker)
{
    uint32_t len;
    if (!read_all(broker, &len, sizeof len))
        return false;
    char *data = malloc(len);
    bool resumed = data && read_all(broker, data, len) && put_back(data, len);
    free(data);
    return resumed;
}

/* Nobody can answer the parent any more but us: say what it must hear to go on. */
static _Noreturn void give_up(enum event state)
{
    char byte;
    if (state == BUILDING) {
        say("the broker ended during this build");
        exit(1);
    }
    /* Not needed now, but the parent does not know that we are useless.  It asks or leaves. */
    if (state == ANSWERED && !read_all(0, &byte, 1))
        exit(0);
    say("the broker ended; this command goes on without other machines");
    write_all(2, "# decline-permanently\n", 22);
    /* Should the broker have accepted with its last breath, then this is a build that failed. */
    exit(1);
}

/* One byte from the broker. */
static enum event next_event(int broker)
{
    unsigned char event;
    return read_all(broker, &event, 1) ? (enum event)event : GONE;
}

/* Follow the conversation that the broker has begun to serve. */
static _Noreturn void follow(int broker, enum event event, char **argv)
{
    enum event state = event;
    for (; event != GONE; event = next_event(broker)) {
        unsigned char status;
        switch (event) {
        case STATUS:
            if (!read_all(broker, &status, 1))
                give_up(state);
            exit(status);
        case ALONE:
            if (!resume(broker))
                give_up(QUESTION);
            close(broker);
            become_standalone(argv);
        default:
            state = event;
        }
    }
    give_up(state);
}

int main(int argc, char **argv)
{
    char directory[PATH_MAX];
    const char *standalone = getenv("NIX_FERRY_STANDALONE");
    fill_descriptors();
    if ((standalone && *standalone) || !find_directory(directory, sizeof directory))
        become_standalone(argv);
    for (int attempt = 0; attempt < GREETING_ATTEMPTS; attempt++) {
        int broker = reach_broker(directory);
        struct pollfd answer = {.fd = broker, .events = POLLIN};
        if (broker < 0 || !greet(broker, argc > 1 ? argv[argc - 1] : "") ||
            poll(&answer, 1, PATIENCE_MS) != 1)
            break;
        /* Until it is known to work it gets nothing of the parent's. */
        enum event event = next_event(broker);
        if (event != GONE && hand_over(broker))
            follow(broker, event, argv);
        /* It is leaving, or of another version and making room. */
        close(broker);
    }
    become_standalone(argv);
}
