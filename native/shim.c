/* nix-ferry-hook: the executable that Nix starts for every build.
 *
 * Hands its descriptors, environment and verbosity to the user's broker over a unix socket and waits for the exit
 * status.  Starts the broker when none runs, and becomes the standalone hook when there can be none.  Nix aborts the
 * user's whole command when a hook disappears while it waits for a reply, so if the broker does, the answer is given
 * here.  Contract of the messages: hook/broker.py.  Tested in tests/test_shim.py. */
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef FERRY_VERSION
#error "FERRY_VERSION is the version of the package"
#endif

enum {
    START_TIMEOUT_MS = 10000,
    CONNECT_ATTEMPTS = 200,
    CONNECT_PAUSE_MS = 10,
    RETIRED_ATTEMPTS = 3,
};

static const char MAGIC[8] = "nixferry";

/* What the parent is waiting for, as the broker tells it. */
enum state { QUESTION = 'q', ANSWERED = 'a', BUILDING = 'b', STATUS = 'x', RETIRED = 'r', ALONE = 's' };

extern char **environ;

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

/* The path of an executable installed beside this one.  False if it does not fit. */
static bool sibling(const char *name, char *path, size_t size)
{
    ssize_t len = readlink("/proc/self/exe", path, size);
    if (len <= 0 || (size_t)len >= size)
        return false;
    path[len] = 0;
    char *slash = strrchr(path, '/');
    size_t room = size - (size_t)(slash + 1 - path);
    int put = snprintf(slash + 1, room, "%s", name);
    return put > 0 && (size_t)put < room;
}

/* Never returns. */
static void become_standalone(char **argv)
{
    char path[PATH_MAX];
    if (sibling("nix-ferry-standalone", path, sizeof path))
        execv(path, argv);
    say("cannot run nix-ferry-standalone; is the installation complete?");
    write_all(2, "# decline-permanently\n", 22);
    exit(1);
}

/* Use or make `path` as the broker's directory.  Nobody else may own it or get in. */
static bool private_directory(const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return false;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

/* Where the broker of this user and store lives.  False if there is no place that is ours alone. */
static bool find_directory(char *path, size_t size)
{
    const char *state = getenv("NIX_STATE_DIR");
    int len = snprintf(path, size, "%s/nix-ferry", state && *state ? state : "/nix/var/nix");
    if (len > 0 && (size_t)len < size && private_directory(path))
        return true;
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (!runtime || !*runtime)
        return false;
    len = snprintf(path, size, "%s/nix-ferry", runtime);
    return len > 0 && (size_t)len < size && private_directory(path);
}

/* A connection to a listening broker that runs as this user; -1 if there is none. */
static int connect_broker(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid())
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Runs in a process of its own: become the broker, with nothing of the hook's but its environment. */
static void become_broker(const char *directory, int ready)
{
    char path[PATH_MAX];
    int null = open("/dev/null", O_RDWR);
    if (setsid() < 0 || null < 0 || chdir("/") < 0 || !sibling("nix-ferry-broker", path, sizeof path))
        _exit(1);
    /* Leave the parent's reach altogether: it waits for every process that holds its pipes. */
    pid_t child = fork();
    if (child != 0)
        _exit(child < 0);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (ready != 3)
        dup2(ready, 3);
    fcntl(3, F_SETFD, 0);
    close_range(4, UINT_MAX, 0);
    execl(path, path, directory, "3", (char *)NULL);
    _exit(1);
}

/* Start a broker and wait until one listens.  False if that failed. */
static bool start_broker(const char *directory)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return false;
    pid_t child = fork();
    if (child == 0)
        become_broker(directory, ready[1]);
    close(ready[1]);
    bool listening = false;
    if (child > 0) {
        struct pollfd poll_ready = {.fd = ready[0], .events = POLLIN};
        char byte;
        waitpid(child, NULL, 0);
        listening = poll(&poll_ready, 1, START_TIMEOUT_MS) == 1 && read(ready[0], &byte, 1) == 1;
    }
    close(ready[0]);
    return listening;
}

static int reach_broker(const char *directory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path, sizeof address.sun_path, "%s/broker.sock", directory);
    if (len <= 0 || (size_t)len >= sizeof address.sun_path)
        return -1;
    int fd = connect_broker(&address);
    if (fd >= 0 || !start_broker(directory))
        return fd;
    /* The broker that listens may be one that another hook started at the same moment. */
    for (int i = 0; fd < 0 && i < CONNECT_ATTEMPTS; i++) {
        fd = connect_broker(&address);
        if (fd < 0)
            poll(NULL, 0, CONNECT_PAUSE_MS);
    }
    return fd;
}

/* Header: magic, u32 length of the rest.  The rest: version, verbosity, parent's pid and the environment, each ended by
 * a NUL.  Descriptors 0, 2 and 4 go with the first byte. */
static bool hand_over(int broker, const char *verbosity)
{
    char parent[16];
    snprintf(parent, sizeof parent, "%d", (int)getppid());
    const char *head[] = {FERRY_VERSION, verbosity, parent};
    size_t len = sizeof MAGIC + sizeof(uint32_t), at;
    for (size_t i = 0; i < 3; i++)
        len += strlen(head[i]) + 1;
    for (char **entry = environ; *entry; entry++)
        len += strlen(*entry) + 1;
    if (len > UINT32_MAX)
        return false;
    char *message = malloc(len);
    if (!message)
        return false;
    uint32_t rest = (uint32_t)(len - sizeof MAGIC - sizeof rest);
    memcpy(message, MAGIC, sizeof MAGIC);
    memcpy(message + sizeof MAGIC, &rest, sizeof rest);
    at = sizeof MAGIC + sizeof rest;
    for (size_t i = 0; i < 3; i++) {
        memcpy(message + at, head[i], strlen(head[i]) + 1);
        at += strlen(head[i]) + 1;
    }
    for (char **entry = environ; *entry; entry++) {
        memcpy(message + at, *entry, strlen(*entry) + 1);
        at += strlen(*entry) + 1;
    }

    /* A hook run by hand has no 4.  5 is the other end of 4 and stays here: with it the broker could write to a parent
     * that is gone, and wait for ever for somebody to read. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int fds[3] = {0, 2, fcntl(4, F_GETFD) < 0 ? null : 4};
    union {
        char space[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control = {.space = {0}};
    struct iovec io = {.iov_base = message, .iov_len = len};
    struct msghdr msg = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(cmsg), fds, sizeof fds);

    bool sent = true;
    for (size_t done = 0; sent && done < len;) {
        io.iov_base = message + done;
        io.iov_len = len - done;
        ssize_t put = sendmsg(broker, &msg, MSG_NOSIGNAL);
        if (put < 0 && errno != EINTR)
            sent = false;
        if (put > 0) {
            done += (size_t)put;
            msg.msg_control = NULL;
            msg.msg_controllen = 0;
        }
    }
    free(message);
    return sent;
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

/* One byte from the broker; 0 when it is gone. */
static unsigned char next_event(int broker)
{
    unsigned char event;
    return read_all(broker, &event, 1) ? event : 0;
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
        close(ends[0]);
        close_range(1, 2, 0);
        close_range(4, 5, 0);
        write_all(ends[1], data, len);
        while ((got = read(0, buffer, sizeof buffer)) > 0)
            write_all(ends[1], buffer, (size_t)got);
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

/* The broker vanished: say what the parent must hear to go on.  Never returns. */
static void go_on_alone(enum state state)
{
    if (state == BUILDING) {
        say("the broker ended during this build");
        exit(1);
    }
    if (state == QUESTION) {
        say("the broker ended; this command goes on without other machines");
        write_all(2, "# decline-permanently\n", 22);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    char directory[PATH_MAX];
    const char *standalone = getenv("NIX_FERRY_STANDALONE");
    if ((standalone && *standalone) || !find_directory(directory, sizeof directory))
        become_standalone(argv);
    for (int attempt = 0; attempt < RETIRED_ATTEMPTS; attempt++) {
        int broker = reach_broker(directory);
        if (broker < 0 || !hand_over(broker, argc > 1 ? argv[argc - 1] : ""))
            break;
        enum state state = QUESTION;
        unsigned char event;
        while ((event = next_event(broker)) != 0 && event != RETIRED) {
            if (event == STATUS)
                exit(next_event(broker));
            if (event == ALONE) {
                if (!resume(broker))
                    go_on_alone(QUESTION);
                close(broker);
                become_standalone(argv);
            }
            state = (enum state)event;
        }
        if (event == 0)
            go_on_alone(state);
        /* Of another version, and leaving: it has stopped listening and read nothing of ours. */
        close(broker);
    }
    become_standalone(argv);
}
