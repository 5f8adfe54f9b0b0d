/* A disk that fails, fills up or loses power, put between a node and libc by LD_PRELOAD.
 *
 * In the folder DISK_SHIM a file `fault-PID` says what this process's disk does now: `eio` (every write and sync of a log fails, for ever),
 * `full` (no file of a log may grow), `slow` (every sync takes 20 ms longer). Besides, whatever is not synced yet is noted in `journal-PID`, so that the one who kills the process can
 * take it back, as a power cut would: see power_cut.rs for the form. Only logs are touched, the files below `logs` and the meta log. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static pthread_mutex_t noting = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static unsigned backups;
/* What a full disk has left: what the process gave back of it. */
static off_t credit;

static const char *folder(void) { return getenv("DISK_SHIM"); }

static int is_log(const char *path) {
    return folder() && path && (strstr(path, "/logs/") || strstr(path, "/meta."));
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int is_log_fd(int fd) {
    char path[4096];
    int saved = errno, is = folder() && path_of(fd, path, sizeof path) && is_log(path);
    errno = saved;
    return is;
}

/* 0: none, else its first letter. */
static char fault(void) {
    char path[4096], kind = 0;
    int saved = errno;
    snprintf(path, sizeof path, "%s/fault-%d", folder(), getpid());
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    if (fd >= 0) {
        if (syscall(SYS_read, fd, &kind, 1) != 1) kind = 0;
        close(fd);
        /* That it bit. */
        snprintf(path, sizeof path, "%s/bit-%d", folder(), getpid());
        if (kind == 'e' && (fd = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY, 0600)) >= 0) close(fd);
    }
    errno = saved;
    return kind;
}

static int refuse(int error) {
    if (error == ENOSPC) {
        char path[4096];
        snprintf(path, sizeof path, "%s/bit-%d", folder(), getpid());
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY, 0600);
        if (fd >= 0) close(fd);
    }
    errno = error;
    return -1;
}

/* One record: a line, then so many bytes. One write each, so that a kill leaves whole records or a cut last one. */
static void note(const char *line, const void *bytes, size_t count) {
    int saved = errno;
    pthread_mutex_lock(&noting);
    if (journal < 0) {
        char path[4096];
        snprintf(path, sizeof path, "%s/journal-%d", folder(), getpid());
        journal = syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    }
    struct iovec parts[2] = {{(void *)line, strlen(line)}, {(void *)bytes, count}};
    if (syscall(SYS_writev, journal, parts, count ? 2 : 1) < 0) abort();
    pthread_mutex_unlock(&noting);
    errno = saved;
}

/* What a change of `count` bytes at `offset` would overwrite, and the length before it. */
static void note_bytes(int fd, off_t offset, off_t count) {
    struct stat is;
    if (fstat(fd, &is) < 0) return;
    off_t held = offset < is.st_size ? (offset + count < is.st_size ? count : is.st_size - offset) : 0;
    char *bytes = malloc(held ? held : 1), line[160], path[64];
    if (held) {
        /* The descriptor itself may be one that takes whole blocks only. */
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        int reader = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
        ssize_t read = reader < 0 ? -1 : pread(reader, bytes, held, offset);
        if (read < 0) abort();
        held = read;
        close(reader);
    }
    snprintf(line, sizeof line, "bytes %llu %lld %lld %lld\n", (unsigned long long)is.st_ino, (long long)offset, (long long)is.st_size,
             (long long)held);
    note(line, bytes, held);
    free(bytes);
}

static off_t length_of(int fd) {
    struct stat is;
    return fstat(fd, &is) < 0 ? 0 : is.st_size;
}

/* May a log's file be changed so that it ends at `end` or before? */
static int may_write(int fd, off_t offset, off_t count) {
    char kind = fault();
    if (kind == 'e') return refuse(EIO);
    off_t more = offset + count - length_of(fd);
    if (kind == 'f' && more > 0) {
        if (more > credit) return refuse(ENOSPC);
        credit -= more;
    }
    note_bytes(fd, offset, count);
    return 0;
}

static off_t total(const struct iovec *parts, int count) {
    off_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    REAL(pwrite64);
    if (is_log_fd(fd) && may_write(fd, offset, count) < 0) return -1;
    return real(fd, bytes, count, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    REAL(pwritev64);
    if (is_log_fd(fd) && may_write(fd, offset, total(parts, count)) < 0) return -1;
    return real(fd, parts, count, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

int fallocate64(int fd, int mode, off64_t offset, off64_t count) {
    REAL(fallocate64);
    char path[4096];
    if (is_log_fd(fd)) {
        if (may_write(fd, length_of(fd), offset + count > length_of(fd) ? offset + count - length_of(fd) : 0) < 0) return -1;
    } else if (folder() && path_of(fd, path, sizeof path) && strstr(path, "/reserve") && fault() == 'f' && offset + count > length_of(fd)) {
        return refuse(ENOSPC);
    }
    return real(fd, mode, offset, count);
}
int fallocate(int fd, int mode, off_t offset, off_t count) { return fallocate64(fd, mode, offset, count); }

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    if (is_log_fd(fd)) {
        if (fault() == 'e') return refuse(EIO);
        off_t held = length_of(fd);
        note_bytes(fd, length, length < held ? held - length : 0);
    } else if (folder()) {
        char path[4096];
        off_t held = length_of(fd);
        if (path_of(fd, path, sizeof path) && strstr(path, "/reserve") && length < held && fault() == 'f') credit += held - length;
    }
    return real(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(int fd, int result) {
    struct stat is;
    char path[4096], line[4200];
    if (result == 0 && folder() && fstat(fd, &is) == 0) {
        if (S_ISDIR(is.st_mode) && path_of(fd, path, sizeof path)) {
            snprintf(line, sizeof line, "folder %s\n", path);
            note(line, NULL, 0);
        } else if (is_log_fd(fd)) {
            snprintf(line, sizeof line, "synced %llu\n", (unsigned long long)is.st_ino);
            note(line, NULL, 0);
        }
    }
    return result;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    char kind = is_log_fd(fd) ? fault() : 0;
    if (kind == 'e') return refuse(EIO);
    if (kind == 's') usleep(20000);
    return synced(fd, real(fd));
}

int fsync(int fd) {
    REAL(fsync);
    if (is_log_fd(fd) && fault() == 'e') return refuse(EIO);
    return synced(fd, real(fd));
}

/* Keeps the file that a name is about to lose; notes which name has to get which backup, or `-`, for none. */
static void note_name(const char *path) {
    char backup[4096] = "-", line[8400];
    struct stat is;
    if (stat(path, &is) == 0) {
        pthread_mutex_lock(&noting);
        snprintf(backup, sizeof backup, "%s/backup-%d-%u", folder(), getpid(), backups++);
        pthread_mutex_unlock(&noting);
        if (link(path, backup) < 0) return;
    }
    snprintf(line, sizeof line, "name %s\t%s\n", path, backup);
    note(line, NULL, 0);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    if (is_log(to)) {
        note_name(from);
        note_name(to);
    }
    return real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    if (is_log(path)) note_name(path);
    return real(path);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    if ((flags & O_CREAT) && is_log(path)) {
        if (access(path, F_OK) < 0) note_name(path);
    }
    return real(path, flags, mode);
}

/* A full disk says so. */
int statvfs64(const char *path, struct statvfs64 *told) {
    REAL(statvfs64);
    int result = real(path, told);
    if (result == 0 && folder() && fault() == 'f') told->f_bavail = told->f_bfree = 0;
    return result;
}
int statvfs(const char *path, struct statvfs *told) { return statvfs64(path, (struct statvfs64 *)told); }
