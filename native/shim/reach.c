#include "reach.h"
#include "standing.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    START_TIMEOUT_MS = 10000,
    CONNECT_ATTEMPTS = 200,
    CONNECT_PAUSE_MS = 10,
};

static const char MAGIC[8] = "nixferry";
/* Of the messages: counted up whenever they change. */
static const char FORMAT[] = "2";

extern char **environ;

bool sibling(const char *name, char *path, size_t size)
{
    ssize_t len = readlink("/proc/self/exe", path, size);
    if (len <= 0 || (size_t)len >= size)
        return false;
    path[len] = 0;
    char *file = strrchr(path, '/') + 1;
    size_t room = size - (size_t)(file - path);
    int put = snprintf(file, room, "programs");
    if (put < 0 || (size_t)put >= room)
        return false;
    struct stat st;
    bool outside = lstat(path, &st) == 0;
    put = snprintf(file, room, "%s%s", outside ? "programs/" : "", name);
    return put > 0 && (size_t)put < room;
}

/* Which build of the programs is installed; "" if nothing says so. */
static void read_identity(char *identity, size_t size)
{
    char path[PATH_MAX];
    ssize_t len = -1;
    int fd = sibling("../share/nix-ferry/identity", path, sizeof path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        len = read(fd, identity, size - 1);
        close(fd);
    }
    identity[len > 0 ? len : 0] = 0;
    identity[strcspn(identity, "\n")] = 0;
}

/* Use or make `path` as the broker's directory.  Nobody else may own it, have written to it, or get in. */
static bool private_directory(const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return false;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ours = fstat(fd, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 022) == 0 &&
                ((st.st_mode & 077) == 0 || fchmod(fd, 0700) == 0);
    close(fd);
    return ours;
}

bool find_directory(char *path, size_t size)
{
    const char *state = getenv("NIX_STATE_DIR");
    int len = snprintf(path, size, "%s/nix-ferry", state && *state ? state : "/nix/var/nix");
    if (len > 0 && (size_t)len < size && private_directory(path))
        return true;
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    /* Whoever owns it could put another directory in the place of ours. */
    if (!runtime || !*runtime || stat(runtime, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
        return false;
    len = snprintf(path, size, "%s/nix-ferry", runtime);
    return len > 0 && (size_t)len < size && private_directory(path);
}

/* A connection to a listening broker that runs as this user; -1 if there is none, with `*hangs` set if there is one that
 * does not react. */
static int connect_broker(const struct sockaddr_un *address, bool *hangs)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval limit = {PATIENCE_MS / 1000, PATIENCE_MS % 1000 * 1000};
    struct ucred peer;
    socklen_t len = sizeof peer;
    *hangs = false;
    if (fd < 0)
        return -1;
    /* Counts for connecting, too. */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) {
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid())
            return fd;
    } else {
        *hangs = errno == EAGAIN;
    }
    close(fd);
    return -1;
}

void forget_python(void)
{
    char **kept = environ;
    for (char **each = environ; *each; each++)
        if (strncmp(*each, "PYTHON", 6) != 0)
            *kept++ = *each;
    *kept = NULL;
}

/* Runs in a process of its own: become the broker, with nothing of the hook's but the place where it stands.  What is
 * left of the attributes of a process, the broker resets itself. */
static _Noreturn void become_broker(const char *directory, const char *standing, int hook, int ready)
{
    static char *const environment[] = {
        "PATH=/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", NULL};
    char path[PATH_MAX];
    int null = open("/dev/null", O_RDWR);
    if (setsid() < 0 || null < 0 || !go_home(hook) || chdir("/") < 0 || !sibling("nix-ferry-broker", path, sizeof path))
        _exit(1);
    /* Leave the parent's reach altogether: it waits for every process that holds its pipes. */
    pid_t child = fork();
    if (child != 0)
        _exit(child < 0);
    if (ready != 3)
        dup2(ready, 3);
    fcntl(3, F_SETFD, 0);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close_range(4, UINT_MAX, 0);
    execle(path, path, directory, "3", standing, (char *)NULL, environment);
    _exit(1);
}

/* Start a broker and wait until one listens.  False if that failed. */
static bool start_broker(const char *directory, const char *standing)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return false;
    const int hook = (int)getpid();
    pid_t child = fork();
    if (child == 0)
        become_broker(directory, standing, hook, ready[1]);
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

int reach_broker(const char *directory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char standing[16];
    uint32_t name;
    if (!find_standing(0, &name))
        return -1;
    snprintf(standing, sizeof standing, "%08x", (unsigned)name);
    int len = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s.sock", directory, standing);
    if (len <= 0 || (size_t)len >= sizeof address.sun_path)
        return -1;
    bool hangs;
    int fd = connect_broker(&address, &hangs);
    if (fd >= 0 || hangs || !start_broker(directory, standing))
        return fd;
    /* The broker that listens may be one that another hook started at the same moment. */
    for (int i = 0; fd < 0 && !hangs && i < CONNECT_ATTEMPTS; i++) {
        fd = connect_broker(&address, &hangs);
        if (fd < 0)
            poll(NULL, 0, CONNECT_PAUSE_MS);
    }
    return fd;
}

/* Add `text` with its NUL at `at`, unless there is no `message` yet.  Returns where the next one goes. */
static size_t add(char *message, size_t at, const char *text)
{
    size_t size = strlen(text) + 1;
    if (message)
        memcpy(message + at, text, size);
    return at + size;
}

/* The greeting: magic, u32 length of the rest.  The rest: identity, format, verbosity, parent's pid and the environment,
 * each ended by a NUL.  Returns its length, whether or not there is a `message` to write it to. */
static size_t compose(char *message, const char *identity, const char *verbosity)
{
    char parent[16];
    const size_t header = sizeof MAGIC + sizeof(uint32_t);
    snprintf(parent, sizeof parent, "%d", (int)getppid());
    size_t at = add(message, header, identity);
    at = add(message, at, FORMAT);
    at = add(message, at, verbosity);
    at = add(message, at, parent);
    for (char **entry = environ; *entry; entry++)
        at = add(message, at, *entry);
    if (message) {
        uint32_t rest = (uint32_t)(at - header);
        memcpy(message, MAGIC, sizeof MAGIC);
        memcpy(message + sizeof MAGIC, &rest, sizeof rest);
    }
    return at;
}

bool send_all(int server, const char *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t put = send(server, data + done, len - done, MSG_NOSIGNAL);
        if (put < 0 && errno != EINTR)
            return false;
        if (put > 0)
            done += (size_t)put;
    }
    return true;
}

bool greet(int server, const char *verbosity)
{
    char identity[128];
    read_identity(identity, sizeof identity);
    size_t len = compose(NULL, identity, verbosity);
    char *message = len <= UINT32_MAX ? malloc(len) : NULL;
    if (message)
        compose(message, identity, verbosity);
    bool sent = message && send_all(server, message, len);
    free(message);
    return sent;
}

bool hand_over(int server)
{
    const int fds[3] = {0, 2, 4};
    char byte = 0;
    union {
        char space[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control = {.space = {0}};
    struct iovec io = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(cmsg), fds, sizeof fds);
    return sendmsg(server, &msg, MSG_NOSIGNAL) == 1;
}
