/* Preloaded: the n-th call on a file under FAULTS_PREFIX fails, once or from then on.
 *
 * FAULTS_CONTROL names a file that is shared with whoever arms it (see syscall_faults.py). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, FLUSH = 4, TRUNCATE = 8, UNLINK = 16 };

struct control {
    int armed, at, lasting, error, kinds; /* set from outside */
    int calls, hits;                      /* counted here */
};

#define DESCRIPTORS 4096
static struct control *control;
static const char *prefix;
static char is_ours[DESCRIPTORS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    prefix = getenv("FAULTS_PREFIX");
    const char *path = getenv("FAULTS_CONTROL");
    if (!prefix || !path) return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) abort();
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (shared == MAP_FAILED) abort();
    control = shared;
}

static int fails(int kind) {
    if (!control || !control->armed || !(control->kinds & kind)) return 0;
    pthread_mutex_lock(&lock);
    int call = ++control->calls;
    int hit = call == control->at || (control->lasting && call > control->at);
    if (hit) control->hits++;
    pthread_mutex_unlock(&lock);
    if (hit) errno = control->error;
    return hit;
}

static int ours(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS && is_ours[descriptor];
}

/* What only reads may still be opened on a disk that fails. */
static int refuses(const char *path, int flags) {
    return prefix && !strncmp(path, prefix, strlen(prefix)) &&
           (flags & (O_RDWR | O_WRONLY | O_CREAT)) && fails(OPEN);
}

static int opened(const char *path, int descriptor) {
    if (descriptor >= 0 && descriptor < DESCRIPTORS)
        is_ours[descriptor] = prefix && !strncmp(path, prefix, strlen(prefix));
    return descriptor;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return refuses(path, flags) ? -1 : opened(path, real(path, flags, mode)); \
    }
OPENING(open)
OPENING(open64)

#define CALL(kind, type, name, parameters, arguments) \
    type name parameters { \
        REAL(name); \
        return ours(descriptor) && fails(kind) ? -1 : real arguments; \
    }
CALL(WRITE, ssize_t, write, (int descriptor, const void *data, size_t size),
     (descriptor, data, size))
CALL(WRITE, ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at),
     (descriptor, data, size, at))
CALL(WRITE, ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t at),
     (descriptor, data, size, at))
CALL(FLUSH, int, fsync, (int descriptor), (descriptor))
CALL(FLUSH, int, fdatasync, (int descriptor), (descriptor))
CALL(TRUNCATE, int, ftruncate, (int descriptor, off_t size), (descriptor, size))
CALL(TRUNCATE, int, ftruncate64, (int descriptor, off64_t size), (descriptor, size))

int close(int descriptor) {
    REAL(close);
    if (descriptor >= 0 && descriptor < DESCRIPTORS) is_ours[descriptor] = 0;
    return real(descriptor);
}

int unlink(const char *path) {
    REAL(unlink);
    if (prefix && !strncmp(path, prefix, strlen(prefix)) && fails(UNLINK)) return -1;
    return real(path);
}
