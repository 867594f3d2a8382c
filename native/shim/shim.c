/* nix-ferry-hook: the executable that Nix starts for every build.
 *
 * Has a server answer: the user's broker, which it starts when none runs, or a standalone hook when there can be none.
 * It passes on what Nix says and writes the replies, so that nothing is lost when the server is: until a build is
 * accepted, Nix's own hook can take over.  Nix aborts the user's whole command when a hook disappears while it waits for
 * a reply.  Contract of the messages: hook/broker/server.py.  Tested in tests/broker. */
#include "kept.h"
#include "reach.h"
#include "stock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GREETING_ATTEMPTS = 3, SERVER_FD = 3, MAX_MESSAGE_BYTES = MAX_KEPT_BYTES };

static const char STANDALONE[] = "nix-ferry-standalone";

/* What a server says; the values are the first bytes of its messages. */
enum kind { READY = 'h', KEEP = 'k', REPLY = 'r', ACCEPT = 'a', ALONE = 'n', STOCK = 's', STATUS = 'x' };

struct message {
    enum kind kind;
    size_t len;
    char *data;
};

/* What the parent gave us. */
struct hook {
    const char *verbosity;
    struct kept kept;
};

struct server {
    int fd;
    const char *name;
};

/* How a server ends that has not accepted the build. */
enum end {
    SILENT,      /* it has not said a word, and may be stopped */
    TURNED_AWAY, /* the same, by hanging up */
    LOST,        /* it has hung up in the middle */
    LEFT_ALONE,  /* it wants a process of its own to serve us */
    LEFT_STOCK,  /* it wants Nix's own hook to */
};

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

static uint32_t number(const char *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

/* The next message, to be freed; false when the server is gone. */
static bool receive(int server, struct message *message)
{
    char header[1 + sizeof(uint32_t)];
    message->data = NULL;
    if (!read_all(server, header, sizeof header))
        return false;
    message->kind = (enum kind)(unsigned char)header[0];
    message->len = number(header + 1);
    message->data = message->len <= MAX_MESSAGE_BYTES ? malloc(message->len + 1) : NULL;
    return message->data && read_all(server, message->data, message->len);
}

/* Greet a server, and wait until it says that it will serve us: until then it gets nothing of the parent's. */
static bool begin(const struct hook *hook, const struct server *server, enum end *end)
{
    struct message message = {0};
    struct pollfd answer = {.fd = server->fd, .events = POLLIN};
    *end = SILENT;
    if (!greet(server->fd, hook->verbosity) || poll(&answer, 1, PATIENCE_MS) != 1)
        return false;
    *end = TURNED_AWAY;
    bool ready = receive(server->fd, &message) && message.kind == READY && hand_over(server->fd);
    free(message.data);
    return ready;
}

/* Whether the server has hung up, and has nothing more to say. */
static bool is_gone(int server)
{
    char byte;
    ssize_t got = recv(server, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

/* The build is the server's: there is nothing left to do but to wait for its end. */
static _Noreturn void wait_for_status(const struct hook *hook, const struct server *server)
{
    struct message message = {0};
    shutdown(server->fd, SHUT_WR);
    if (receive(server->fd, &message) && message.kind == STATUS && message.len == 1)
        exit((unsigned char)message.data[0]);
    say(hook->verbosity, ERROR, "%s ended during this build", server->name);
    exit(1);
}

/* Do what the server says.  True if it is done and there is more to come; else `*end` says why not. */
static bool obey(struct hook *hook, const struct server *server, const struct message *message, enum end *end)
{
    const size_t one = sizeof(uint32_t), two = 2 * one;
    const char *data = message->data;
    struct kept *kept = &hook->kept;
    switch (message->kind) {
    case KEEP:
        return message->len >= one && replace(kept, 0, number(data), data + one, message->len - one);
    case REPLY:
        if (message->len < two || !replace(kept, number(data), number(data + one), NULL, 0))
            return false;
        write_all(2, data + two, message->len - two);
        kept->asked = kept->len > number(data);
        return true;
    case ACCEPT:
        /* One that was killed since cannot build it, and stock can. */
        if (is_gone(server->fd))
            return false;
        write_all(2, data, message->len);
        wait_for_status(hook, server);
    case STATUS:
        if (message->len == 1)
            exit((unsigned char)*data);
        return false;
    case ALONE:
        *end = LEFT_ALONE;
        return false;
    case STOCK:
        *end = LEFT_STOCK;
        return false;
    default:
        return false;
    }
}

/* Pass on what the parent says.  False if there is too much of it to be kept. */
static bool pass_on(struct kept *kept, int server)
{
    ssize_t got = keep_more(kept);
    if (kept->ended)
        shutdown(server, SHUT_WR);
    /* A server that is gone is noticed when it is listened to; one that has not heard everything must not go on. */
    if (got > 0 && !send_all(server, kept->data + kept->len - got, (size_t)got))
        shutdown(server, SHUT_RDWR);
    return got >= 0;
}

/* Have a server answer the parent.  Returns if it has not. */
static enum end converse(struct hook *hook, const struct server *server)
{
    struct kept *kept = &hook->kept;
    enum end end;
    if (!begin(hook, server, &end))
        return end;
    end = LOST;
    bool going_on = send_all(server->fd, kept->data, kept->len);
    if (kept->ended)
        shutdown(server->fd, SHUT_WR);
    while (going_on) {
        struct pollfd both[2] = {{.fd = server->fd, .events = POLLIN}, {.fd = kept->ended ? -1 : 0, .events = POLLIN}};
        if (poll(both, 2, -1) < 0)
            continue;
        struct message message = {0};
        if (both[0].revents) {
            going_on = receive(server->fd, &message) && obey(hook, server, &message, &end);
            free(message.data);
        } else {
            going_on = pass_on(kept, server->fd);
        }
    }
    return end;
}

/* Have the broker answer.  Returns if it has not. */
static enum end ask_broker(struct hook *hook)
{
    char directory[PATH_MAX];
    enum end end = SILENT;
    if (!find_directory(directory, sizeof directory))
        return end;
    for (int attempt = 0; attempt < GREETING_ATTEMPTS; attempt++) {
        const struct server broker = {.fd = reach_broker(directory), .name = "the broker"};
        if (broker.fd < 0)
            return end;
        end = converse(hook, &broker);
        close(broker.fd);
        /* One that hangs up at once is leaving, or of another build and making room. */
        if (end != TURNED_AWAY)
            return end;
    }
    return end;
}

/* Runs in a process of its own: become the standalone hook, with nothing of ours but its end of a socket. */
static _Noreturn void become_standalone(const char *path, pid_t parent, int server)
{
    static const char argument[] = {'0' + SERVER_FD, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR);
    if (getppid() != parent || null < 0)
        _exit(1);
    if (server != SERVER_FD)
        dup2(server, SERVER_FD);
    fcntl(SERVER_FD, F_SETFD, 0);
    for (int fd = 0; fd < SERVER_FD; fd++)
        dup2(null, fd);
    close_range(SERVER_FD + 1, UINT_MAX, 0);
    forget_python();
    execl(path, path, argument, (char *)NULL);
    _exit(1);
}

/* Have a process answer that Nix sees as a part of this one.  Returns if it has not. */
static enum end ask_standalone(struct hook *hook, const char *path)
{
    int ends[2];
    const struct timeval limit = {PATIENCE_MS / 1000, PATIENCE_MS % 1000 * 1000};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return TURNED_AWAY;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    pid_t self = getpid(), child = fork();
    if (child == 0)
        become_standalone(path, self, ends[1]);
    close(ends[1]);
    const struct server standalone = {.fd = ends[0], .name = STANDALONE};
    enum end end = child < 0 ? TURNED_AWAY : converse(hook, &standalone);
    close(ends[0]);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return end;
}

/* A server has left us in the middle: say so, unless the parent has no more questions. */
static void note_loss(struct hook *hook, const char *server)
{
    if (is_over(&hook->kept))
        exit(0);
    say(hook->verbosity, WARNING, "%s ended before its answer; the stock build hook answers instead", server);
}

int main(int argc, char **argv)
{
    struct hook hook = {.verbosity = argc > 1 ? argv[argc - 1] : ""};
    const char *alone = getenv("NIX_FERRY_STANDALONE");
    char path[PATH_MAX] = "";
    fill_descriptors();
    enum end end = alone && *alone ? LEFT_ALONE : ask_broker(&hook);
    if (end == LOST) {
        note_loss(&hook, "the broker");
    } else if (end != LEFT_STOCK) {
        bool exists = sibling(STANDALONE, path, sizeof path) && access(path, X_OK) == 0;
        end = exists ? ask_standalone(&hook, path) : TURNED_AWAY;
        if (end == LOST)
            note_loss(&hook, STANDALONE);
        else if (end != LEFT_STOCK)
            say(hook.verbosity, TALKATIVE, "handing builds to the stock build hook: '%s' %s", path,
                exists ? "does not work" : "cannot be run");
    }
    become_stock(&hook.kept, hook.verbosity);
}
