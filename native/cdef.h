/* All that cffi sees.  The contracts are in the headers named below. */

/* nar.h */
enum { NAR_DEPTH_CEILING = 65536 };

/* error.h */
enum {
    NAR_OK,
    NAR_E_OS,
    NAR_E_DEPTH,
    NAR_E_MAGIC,
    NAR_E_TAG,
    NAR_E_TYPE,
    NAR_E_NAME,
    NAR_E_ORDER,
    NAR_E_MARKER,
    NAR_E_TARGET,
    NAR_E_LENGTH,
    NAR_E_PADDING,
    NAR_E_FILETYPE,
    NAR_E_CHANGED
};

struct nar_error {
    int code;
    int os_error;
    const char *expected;
    size_t detail_len;
    size_t path_len;
    uint8_t detail[256];
    char path[1024];
};

/* dump.h */
struct dumper;
int dumper_new(const char *path, uint32_t max_depth, bool hashing, struct dumper **out);
int64_t dumper_read(struct dumper *dumper, uint8_t *out, size_t len);
const uint8_t *dumper_digest(const struct dumper *dumper);
const struct nar_error *dumper_error(const struct dumper *dumper);
void dumper_free(struct dumper *dumper);

/* restore.h */
struct restorer;
int restorer_new(const char *parent, const char *name, uint32_t max_depth, bool fsync, const char *kept_xattrs,
                 size_t kept_len, struct restorer **out);
int64_t restorer_feed(struct restorer *restorer, const uint8_t *in, size_t len);
const uint8_t *restorer_digest(const struct restorer *restorer);
const struct nar_error *restorer_error(const struct restorer *restorer);
void restorer_free(struct restorer *restorer);

/* wire.h */
enum { WIRE_TOO_LONG = -2, WIRE_PADDING = -3, WIRE_NUL = -4 };
int64_t wire_join_strings(const uint8_t *in, size_t len, size_t max_each, size_t max_count, char *out, size_t *count,
                          size_t *joined);
int64_t wire_put_joined(uint8_t *out, const char *joined, size_t len, size_t count);

/* loglines.h */
struct logline_frame {
    const char *before, *after;
    size_t before_len, after_len;
};
struct logline_sizes {
    size_t written, text;
};
size_t loglines_take(const uint8_t *in, size_t len, uint64_t activity, const struct logline_frame *frame, uint8_t *out,
                     size_t room, struct logline_sizes *sizes);

/* process.h */
void return_large_blocks(void);
void make_neutral(void);

/* shim/standing.h */
bool find_standing(int pid, uint32_t *name);
